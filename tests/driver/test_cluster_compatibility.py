"""Scripts written for distributed's own clusters run."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest
from distributed import Event, Status, WorkerPlugin, get_worker
from distributed.deploy.adaptive import Adaptive
from distributed.diagnostics.plugin import Environ, NannyPlugin, UploadDirectory
from hypothesis import given
from hypothesis import strategies as st

from dask_flame import FlameCluster, Pool
from dask_flame.driver.cluster_compatibility import ELSEWHERE, adapt_bounds, runners_for
from dask_flame.driver.ignored_settings import IGNORED
from dask_flame.errors import BackendError, BootError, PoolError, PositionalError
from dask_flame.scaling.runner_index import Phase
from tests.support.waiting import wait_for


def name_of_runner(*args: Any) -> str:
    return str(get_worker().name)


def policy(cluster: FlameCluster) -> tuple[int, int]:
    pool = cluster.pools["default"]
    return pool.min, pool.max


# How many


@pytest.mark.unit
@given(
    concurrency=st.integers(1, 16),
    cpus=st.none() | st.integers(1, 16),
    cores=st.integers(1, 10_000),
)
def test_runners_that_have_so_many_cores(concurrency: int, cpus: int | None, cores: int) -> None:
    pool = Pool(max=1, concurrency=concurrency, cpus=cpus)
    each = max(concurrency, cpus or 1)
    least, most = runners_for(pool, cores=cores), runners_for(pool, cores=cores, least=False)
    assert (least - 1) * each < cores <= least * each
    assert most * each <= cores < (most + 1) * each


@pytest.mark.unit
@given(low=st.integers(0, 100), high=st.integers(0, 100))
def test_bounds_of_adapt_are_those_of_a_pool_or_refused(low: int, high: int) -> None:
    pool = Pool(min=0, max=50)
    given_bounds = {"minimum": low, "maximum": high}
    if low <= high:
        assert adapt_bounds(pool, given_bounds) == {"min": low, "max": high}
    else:
        with pytest.raises(PoolError, match=f"minimum={low} is more than maximum={high}"):
            adapt_bounds(pool, given_bounds)


@pytest.mark.process
def test_scale_and_adapt_take_what_scripts_give_them(flame: Any) -> None:
    cluster, _ = flame(max=4, concurrency=2, memory="1 GB", idle_timeout="100ms")
    assert cluster.scale(memory="3 GB") is None
    assert policy(cluster) == (3, 3)
    cluster.scale(cores=4)
    assert policy(cluster) == (2, 2)
    cluster.scale(1, cores=2, memory="1.5 GB")
    assert policy(cluster) == (2, 2)
    with pytest.raises(PoolError, match=r"write scale\(4\)"):
        cluster.scale()
    with pytest.raises(PoolError, match=r"cores=-1 is not a number above zero; write cores=4"):
        cluster.scale(cores=-1)
    with pytest.warns(UserWarning, match="governs nothing here") as said:
        adaptive = cluster.adapt(
            Adaptive, minimum=0, maximum=math.inf, interval="1s", wait_count=3, target_duration="5s"
        )
    (warning,) = said
    assert "adapt(Adaptive=, interval=, wait_count=, target_duration=) governs" in str(
        warning.message
    )
    assert "maximum=inf leaves the bound as it is, max=2; for more runners" in str(warning.message)
    assert warning.filename == __file__
    assert (adaptive.minimum, adaptive.maximum) == policy(cluster) == (0, 2)
    cluster.adapt(minimum_cores=3, maximum_memory="5.5 GB")
    assert policy(cluster) == (2, 5)
    with pytest.raises(PositionalError, match=r"write cluster\.adapt\(minimum=0, maximum=8\)"):
        cluster.adapt(0, 8)
    with pytest.raises(PositionalError, match=r"write cluster\.resize\('default', max=8\)"):
        cluster.resize("default", 8)
    with pytest.raises(PoolError, match=r"no pool 8; .*; write cluster\.resize\(max=8\)"):
        cluster.resize(8)
    assert policy(cluster) == (2, 5)


@pytest.mark.unit
def test_memory_counts_only_where_runners_have_a_limit() -> None:
    with pytest.raises(PoolError, match=r'write Pool\(memory="4 GiB"\), or count runners'):
        runners_for(Pool(max=1), memory="10GB")


@pytest.mark.process
def test_an_asynchronous_cluster_is_scaled_as_a_speccluster() -> None:
    async def script() -> None:
        async with FlameCluster(max=2, dashboard_address=None, asynchronous=True) as cluster:
            await cluster.scale(2)
            await cluster.wait_for_workers(2, timeout=60)
            assert len(cluster.workers) == 2
            cluster.adapt(minimum=0).stop()

    asyncio.run(script())


@pytest.mark.process
def test_workers_are_there_as_in_a_speccluster(flame: Any) -> None:
    cluster, client = flame(max=2)
    # Those that may come: tpot, for one, submits as many calls at a time as there are workers.
    assert set(cluster.workers) == {"runner-1", "runner-2"}
    assert {w.status for w in cluster.workers.values()} == {Status.undefined}
    client.wait_for_workers(2, timeout=60)
    assert set(cluster.workers) == {"runner-1", "runner-2"}
    known = wait_for(lambda: {w.address for w in cluster.workers.values()} - {None})
    assert known <= set(client.scheduler_info()["workers"])
    assert {w.status for w in cluster.workers.values()} == {Status.running}
    cluster.resize(idle_timeout="100ms")
    wait_for(lambda: not cluster.runners)
    assert set(cluster.workers) == {"runner-3", "runner-4"}
    assert cluster.resize(max=1).max == len(cluster.workers)
    for name in ELSEWHERE:
        assert not hasattr(cluster, name)
    with pytest.raises(AttributeError, match=r"has no worker_spec; write cluster\.runners for"):
        cluster.worker_spec  # noqa: B018
    with pytest.raises(AttributeError, match="object has no attribute 'nonsense'"):
        cluster.nonsense  # noqa: B018


# adapt(...).stop()


@pytest.mark.process
def test_a_stopped_adaptive_keeps_its_runners_until_it_is_told_otherwise(flame: Any) -> None:
    cluster, client = flame(max=3, idle_timeout="100ms")
    gate = Event("gate", client=client)
    held = client.map(lambda _: gate.wait(), range(2))
    wait_for(lambda: sum(m.busy for m in cluster.runners.values()) == 2)
    adaptive = cluster.adapt()
    adaptive.stop()
    adaptive.stop()
    gate.set()
    client.gather(held)
    assert "kept at 2 by adapt(...).stop()" in repr(cluster)
    # More calls than it has runners, one after the other; and none for many times idle_timeout.
    names = client.gather(client.map(name_of_runner, range(20), pure=False))
    assert set(names) <= {"runner-1", "runner-2"}
    since = time.monotonic()
    wait_for(lambda: time.monotonic() > since + 1)
    assert set(cluster.runners) == {"runner-1", "runner-2"}
    with pytest.raises(
        PoolError, match=r"3 runners are asked for, and adapt\(...\).stop\(\) keeps"
    ):
        client.wait_for_workers(3, timeout=60)
    # One that is lost is replaced.
    lost = client.submit(os._exit, 1)
    wait_for(lambda: "runner-3" in cluster.runners)
    lost.cancel()
    cluster.scale(1)
    wait_for(lambda: len(cluster.runners) == 1)
    cluster.adapt(minimum=0)
    wait_for(lambda: not cluster.runners)


@pytest.mark.process
def test_calls_that_wait_for_a_stopped_adaptive_say_so_and_go_on(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="100ms", dashboard_address="127.0.0.1:0")
    with pytest.warns(UserWarning, match="there is none: calls wait until") as said:
        cluster.adapt().stop()
    assert said[0].filename == __file__
    future = client.submit(name_of_runner)
    wait_for(lambda: cluster.scheduler.waiting())
    assert "1 call waiting" in repr(cluster)
    (event,) = [e for e in cluster.events if e.reason.startswith("adapt(...).stop()")]
    assert "cluster.adapt(), cluster.scale(n) or cluster.resize(…)" in event.reason
    (pool,) = cluster._pools().pools
    assert pool.fixed == 0
    assert not cluster.runners
    cluster.resize(max=2)
    assert future.result(timeout=60) == "runner-1"


# From zero


@pytest.mark.process
def test_data_is_sent_to_runners_that_boot_for_it(flame: Any) -> None:
    cluster, client = flame(max=3)

    def all_end() -> None:
        cluster.resize(idle_timeout="100ms")
        wait_for(lambda: not cluster.runners)
        cluster.resize(idle_timeout="60s")

    futures = client.scatter([1, 2, 3], direct=True, timeout=60)
    assert client.gather(futures) == [1, 2, 3]
    del futures
    all_end()
    shared = client.scatter({"a": 1}, broadcast=2, timeout=60)["a"]
    assert len(client.who_has([shared])[shared.key]) == 2
    all_end()  # it has come home
    client.replicate(shared, n=3)
    home = 1
    assert len(client.who_has([shared])[shared.key]) in (3, 3 + home)
    assert sum(p.phase is Phase.READY for p in cluster.runners.values()) == 3
    all_end()
    client.replicate(shared)
    assert len(client.who_has([shared])[shared.key]) == 1 + home
    assert shared.result() == 1
    client.replicate(shared, n=100)  # as many as there may be
    assert len(client.who_has([shared])[shared.key]) == 3 + home


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that the second runner, and those after it, cannot import before a file is there."""
    module = tmp_path / "flame_gate.py"
    module.write_text(
        "import os, time\n"
        "here = os.path.dirname(__file__)\n"
        "if not os.environ['TMPDIR'].endswith('/runner-1'):\n"
        "    while not os.path.exists(os.path.join(here, 'go')):\n"
        "        time.sleep(0.01)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with dask.config.set({"flame.local.fork": False}):
        yield tmp_path / "go"


@pytest.mark.process
def test_runners_that_are_waited_for_are_kept_until_all_are_there(gate: Path, flame: Any) -> None:
    cluster, client = flame(max=2, idle_timeout="300ms", preload=["flame_gate"])
    waiting = threading.Thread(target=client.wait_for_workers, args=(2,))
    waiting.start()
    ready = lambda: [m for m in cluster.runners.values() if m.phase is Phase.READY]  # noqa: E731
    (first,) = wait_for(ready)
    wait_for(lambda: time.monotonic() > first.since + 1.5, what="five times its idle_timeout")
    assert ready() == [first]
    gate.touch()
    waiting.join(60)
    assert not waiting.is_alive()
    wait_for(lambda: not cluster.runners)
    # Their idle time began when they were there.
    retired = [e for e in cluster.events if e.kind == "retire"]
    assert sum(len(e.runners) for e in retired) == 2
    came = max(e.at for e in cluster.events if e.kind == "ready")
    assert min(e.at for e in retired) > came + 0.2


@pytest.mark.process
def test_waiting_for_runners_ends_with_a_reason(flame: Any, gate: Path) -> None:
    cluster, client = flame(max=3, idle_timeout="60s", preload=["flame_gate"], boot_attempts=1)
    with pytest.raises(PoolError, match=r"4 runners are asked for, and max=3; write cluster.resi"):
        client.wait_for_workers(4)
    with pytest.raises(PoolError, match="n_workers=0 is not a whole number of 1 or more"):
        cluster.wait_for_workers(0)
    with pytest.raises(PoolError, match="there is no pool 'gpu'"):
        cluster.wait_for_workers(1, pool="gpu")
    client.wait_for_workers(1, timeout=60)
    with pytest.raises(TimeoutError, match="Only 1/2 workers arrived after 1"):
        client.wait_for_workers(2, timeout=1)
    cluster.resize(preload=["flame_no_such_module"])
    gate.touch()
    with pytest.raises(BootError, match="flame_no_such_module"):
        client.wait_for_workers(3, timeout=60)
    wait_for(lambda: cluster.runners["runner-1"].phase is Phase.READY)
    cluster.resize(idle_timeout="100ms")
    wait_for(lambda: not cluster.runners)
    with pytest.raises(BootError, match="flame_no_such_module"):
        client.scatter([1], direct=True, timeout=60)


@pytest.mark.process
def test_runners_of_all_pools_count_unless_one_is_named(flame: Any) -> None:
    pools = {"cpu": Pool(max=2), "gpu": Pool(max=2)}
    cluster, client = flame(pools=pools)
    cluster.wait_for_workers(2, timeout=30, pool="gpu")
    client.wait_for_workers(3, timeout=60)
    assert set(cluster.runners) == {"gpu-1", "gpu-2", "cpu-1"}
    with pytest.raises(PoolError, match="5 runners are asked for, and max=2"):
        client.wait_for_workers(5)
    client.wait_for_workers(4, timeout=60)
    assert set(cluster.runners) == {"gpu-1", "gpu-2", "cpu-1", "cpu-2"}


@pytest.mark.process
def test_what_the_first_pool_may_not_have_is_of_the_others(flame: Any) -> None:
    cluster, client = flame(pools={"cpu": Pool(max=1), "none": Pool(max=0), "gpu": Pool(max=2)})
    client.wait_for_workers(2, timeout=60)
    assert set(cluster.runners) == {"cpu-1", "gpu-1"}


# Plugins and settings


class Own(NannyPlugin):
    def setup(self, nanny: Any) -> None:
        raise AssertionError


class Plain(WorkerPlugin):
    pass


@pytest.mark.process
def test_plugins_of_nannies_act_on_runners(flame: Any, tmp_path: Path) -> None:
    (tmp_path / "flame_pack").mkdir()
    (tmp_path / "flame_pack" / "flame_in_a_folder.py").write_text("answer = 42\n")
    cluster, client = flame(max=2)
    first = client.submit(name_of_runner, pure=False).result(timeout=60)
    answers = client.register_plugin(Environ({"FLAME_ENVIRON": 5}))
    assert [answer["status"] for answer in answers.values()] == ["OK"]
    client.register_plugin(UploadDirectory(str(tmp_path / "flame_pack"), update_path=True))

    def seen() -> tuple[str, str | None, int]:
        module = __import__("flame_in_a_folder")
        return get_worker().name, os.environ.get("FLAME_ENVIRON"), module.answer

    assert client.submit(seen, pure=False).result(timeout=60) == (first, "5", 42)
    cluster.resize(idle_timeout="100ms")
    wait_for(lambda: not cluster.runners)
    later = client.submit(seen, pure=False).result(timeout=60)
    assert later == ("runner-2", "5", 42)
    with pytest.raises(PoolError, match=r"Own is a plugin of nannies, and runners have none.*env="):
        client.register_plugin(Own())
    # A runner that goes at that moment is no reason to fail.
    client.register_plugin(Plain(), name="plain")
    client.unregister_worker_plugin("plain")
    assert "FLAME_ENVIRON" not in os.environ


@pytest.mark.process
def test_settings_that_count(flame: Any, tmp_path: Path) -> None:
    place = tmp_path / "fast disk"
    given = {
        "distributed.nanny.environ": {"FLAME_A": 1, "FLAME_B": 2, "FLAME_C": None},
        "distributed.nanny.pre-spawn-environ": {"FLAME_B": 3, "FLAME_D": 4},
        "temporary-directory": str(place),
    }

    def seen() -> tuple[list[str | None], str]:
        names = [os.environ.get(f"FLAME_{letter}") for letter in "ABCD"]
        return names, get_worker().local_directory

    with dask.config.set(given):
        cluster, client = flame(max=1, env={"FLAME_A": "own"})
        names, folder = client.submit(seen).result(timeout=60)
    assert names == ["own", "2", None, "4"]
    assert Path(folder).is_relative_to(place)
    assert Path(cluster.backend.scratch).stat().st_mode & 0o777 == 0o700
    client.close()
    cluster.close()
    assert not list(place.iterdir())


@pytest.mark.process
def test_a_temporary_directory_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = "temporary-directory in Dask's configuration is"
    with (
        dask.config.set({"temporary-directory": str(tmp_path / "file" / "x")}),
        pytest.raises(BackendError, match=said),
    ):
        FlameCluster(max=1, dashboard_address=None)


@pytest.mark.process
def test_settings_that_do_not_count_are_named_once(flame: Any) -> None:
    with warnings.catch_warnings(action="error"):
        flame(max=1)
    changed = {
        "distributed.nanny.preload": ["x"],
        "distributed.scheduler.idle-timeout": "1ms",
        "distributed.scheduler.work-stealing": False,
    }
    with (
        dask.config.set(changed),
        pytest.warns(UserWarning, match="do not count for a FlameCluster") as said,
    ):
        _, client = flame(max=1)
    assert client.submit(int, 3).result(timeout=60) == 3  # the scheduler has not closed
    (warning,) = [w for w in said if "do not count" in str(w.message)]
    lines = str(warning.message).splitlines()[1:]
    assert [line.partition(":")[0].strip() for line in lines] == [
        "distributed.nanny.preload",
        "distributed.scheduler.idle-timeout",
        "distributed.scheduler.work-stealing",
    ]
    assert warning.filename.endswith("conftest.py")  # where the cluster is made


@pytest.mark.unit
@pytest.mark.parametrize("name", IGNORED)
def test_what_is_said_not_to_count_is_a_setting_of_dask(name: str) -> None:
    missing = object()
    assert dask.config.get(name, default=missing) is not missing

"""Several kinds of runner in one cluster, and what a pool's policy says besides its bounds."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Event, wait

from dask_flame import FlameCluster, Pool
from dask_flame.errors import BootError, PoolError, RunnerLost
from tests.driver.pools_api_calls import _die_once, _exit, whoami
from tests.support.gates import at_once
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def pool_of(name: str) -> str:
    return name.rpartition("-")[0]


@pytest.fixture
def two(flame: Any) -> Any:
    return flame(
        pools={
            "cpu": Pool(max=2, idle_timeout="10s"),
            "gpu": Pool(max=1, gpus=1, idle_timeout="200ms"),
        }
    )


def events(cluster: FlameCluster, kind: str) -> list[Any]:
    return [e for e in cluster.events if e.kind == kind]


# Which pool a call goes to


def test_each_pool_scales_by_its_own_demand_and_the_first_is_the_default(two: Any) -> None:
    cluster, client = two
    with dask.annotate(pool="gpu"):
        there = client.map(whoami, range(3), pure=False)
    here = client.map(whoami, range(4), pure=False)
    assert {pool_of(name) for name in client.gather(there)} == {"gpu"}
    assert {pool_of(name) for name in client.gather(here)} == {"cpu"}
    assert {(e.pool, len(e.runners)) for e in events(cluster, "boot")} == {("cpu", 2), ("gpu", 1)}
    wait_for(lambda: {pool_of(n) for n in cluster.runners} == {"cpu"}, what="gpu shrinks alone")


def test_work_without_a_pool_waits_rather_than_run_on_another_pools_runner(two: Any) -> None:
    cluster, client = two
    cluster.resize("gpu", min=1)
    client.wait_for_workers(1, timeout=60)
    cluster.resize("cpu", max=0)
    waits = client.submit(whoami, pure=False)
    wait_for(lambda: cluster.scheduler.waiting("cpu") == 1)
    with dask.annotate(pool="gpu"):
        assert client.submit(whoami, pure=False).result(timeout=60) == "gpu-1"
    assert not waits.done()
    cluster.resize("cpu", max=1)
    assert waits.result(timeout=60) == "cpu-1"


def test_resources_find_the_pool_that_has_them_and_dask_counts_them(flame: Any) -> None:
    cluster, client = flame(
        pools={"cpu": Pool(max=1), "gpu": Pool(max=1, concurrency=4, gpus=2, resources={"NVME": 1})}
    )
    assert client.submit(whoami, resources={"GPU": 1}).result(timeout=60) == "gpu-1"
    assert client.submit(whoami, resources={"NVME": 1}, pure=False).result(timeout=60) == "gpu-1"
    gate = Event("gate", client=client)
    futures = client.map(lambda i: gate.wait(), range(3), resources={"GPU": 1})
    wait_for(lambda: cluster.runners["gpu-1"].busy == 2, what="two of three have a GPU")
    assert cluster.scheduler.waiting("gpu") == 1
    gate.set()
    assert client.gather(futures) == [True] * 3


def test_calls_that_leave_no_room_for_others_are_demand_for_more(flame: Any) -> None:
    cluster, client = flame(
        pools={"gpu": Pool(max=4, concurrency=4, gpus=2), "cpu": Pool(max=1, concurrency=4)}
    )
    gate = Event("gate", client=client)
    futures = client.map(lambda i: gate.wait() and whoami(), range(5), resources={"GPU": 1})
    wait_for(lambda: sum(m.busy for m in cluster.runners.values()) == 5)
    assert len(cluster.runners) == 3
    assert cluster.scheduler.demand("gpu") == 10
    assert [len(e.runners) for e in events(cluster, "boot")] == [3]
    gate.set()
    names = client.gather(futures)
    assert max(names.count(name) for name in names) == 2
    wait_for(lambda: cluster.scheduler.demand("gpu") == 0)


def test_calls_that_name_their_worker_go_there_whatever_its_pool(two: Any) -> None:
    cluster, client = two
    cluster.resize("gpu", min=1)
    client.wait_for_workers(1, timeout=60)
    assert client.submit(whoami, workers=["gpu-1"], pure=False).result(timeout=60) == "gpu-1"
    loose = client.submit(whoami, workers=["gpu-1"], allow_other_workers=True, pure=False)
    assert loose.result(timeout=60) == "gpu-1"


def test_inputs_from_another_pool_travel(two: Any) -> None:
    _, client = two
    first = client.map(lambda i: i + 1, range(4))
    with dask.annotate(pool="gpu"):
        second = client.map(lambda x: (x, whoami()), first)
    total = client.submit(lambda pairs: sum(x for x, _ in pairs), second)
    assert total.result(timeout=60) == 10
    assert {pool_of(name) for _, name in client.gather(second)} == {"gpu"}


def test_collections_run_where_they_are_computed(two: Any) -> None:
    _, client = two
    names = [dask.delayed(whoami)(i) for i in range(3)]
    with dask.annotate(pool="gpu"):
        assert {pool_of(n) for n in client.gather(client.compute(names))} == {"gpu"}


def test_a_p2p_rechunk_stays_in_its_pool_and_away_from_home(flame: Any) -> None:
    da = pytest.importorskip("dask.array")
    pools = {"cpu": Pool(max=1, concurrency=2, idle_timeout="200ms"), "other": Pool(min=1, max=1)}
    cluster, client = flame(pools=pools)
    client.wait_for_workers(1)  # the other pool's
    kept = client.submit(abs, -1)
    wait_for(lambda: cluster.home.held == 1)
    cluster.resize("cpu", idle_timeout="60s")
    x = da.ones((60, 60), chunks=(6, 60)).rechunk((60, 6), method="p2p")
    for said in ({}, {"pool": "cpu"}):
        with dask.annotate(**said):
            blocks = client.compute(list((x + len(said)).to_delayed().ravel()))
        wait(blocks, timeout=60)
        held = [k for k, who in client.has_what().items() if k and set(who) - {kept.key}]
        names = [cluster.scheduler.workers[address].name for address in held]
        assert names == ["cpu-2"]
        del blocks


def test_an_unknown_pool_is_an_error_and_holds_nothing_up(two: Any) -> None:
    cluster, client = two
    with dask.annotate(pool="tpu"):
        future = client.submit(whoami)
    with pytest.raises(PoolError, match="there is no pool 'tpu'; there are 'cpu', 'gpu'"):
        future.result(timeout=60)
    assert not cluster.runners
    assert client.submit(whoami, pure=False).result(timeout=60) == "cpu-1"


def test_priority_decides_within_a_pool_and_pools_do_not_wait_for_each_other(flame: Any) -> None:
    cluster, client = flame(pools={"a": Pool(min=1, max=1), "b": Pool(min=1, max=1)})
    gate = Event("gate", client=client)
    first = client.submit(gate.wait)
    wait_for(lambda: cluster.runners["a-1"].busy)
    later = client.map(whoami, range(3), priority=10, pure=False)
    with dask.annotate(pool="b"):
        assert client.submit(whoami, priority=-10, pure=False).result(timeout=60) == "b-1"
    assert not any(f.done() for f in later)
    gate.set()
    assert first.result()
    assert client.gather(later) == ["a-1"] * 3


def test_a_pool_that_cannot_boot_fails_its_own_calls_only(flame: Any) -> None:
    cluster, client = flame(
        pools={
            "good": Pool(max=1),
            "bad": Pool(max=2, preload=["no_such_module_here"], boot_attempts=1),
        }
    )
    with dask.annotate(pool="bad"):
        bad = client.map(whoami, range(2), pure=False)
    good = client.map(whoami, range(3), pure=False)
    assert client.gather(good) == ["good-1"] * 3
    for future in bad:
        with pytest.raises(BootError, match="no runner of pool 'bad' could start"):
            future.result(timeout=60)
    assert {e.pool for e in events(cluster, "failed")} == {"bad"}


# What a pool may say


def test_a_single_use_runner_takes_one_call_and_goes(flame: Any) -> None:
    cluster, client = flame(max=2, single_use=True)
    names = client.gather(client.map(whoami, range(5), pure=False))
    assert len(set(names)) == 5
    wait_for(lambda: not cluster.runners)
    assert len(events(cluster, "retire")) >= 1
    assert not events(cluster, "lost")


def test_a_single_use_runner_lets_its_other_calls_finish(flame: Any) -> None:
    cluster, client = flame(max=1, concurrency=2, single_use=True)
    gate = Event("gate", client=client)
    long = client.submit(lambda: gate.wait() and whoami())
    assert client.submit(whoami, pure=False).result(timeout=60) == "runner-1"
    wait_for(lambda: cluster.runners["runner-1"].phase.value == "draining")
    next_one = client.submit(whoami, pure=False)
    gate.set()
    assert long.result() == "runner-1"
    assert next_one.result(timeout=60) == "runner-2"


def test_calls_fill_the_fullest_runner_so_that_others_can_go(flame: Any) -> None:
    cluster, client = flame(max=3, concurrency=2, idle_timeout="1s")
    assert len(set(at_once(cluster, client, whoami, 6))) == 3
    gate = Event("gate", client=client)
    futures = [client.submit(lambda i: gate.wait() and whoami(), i) for i in range(2)]
    wait_for(lambda: len(cluster.runners) == 1, what="two calls need but one runner")
    gate.set()
    assert len(set(client.gather(futures))) == 1


def test_a_trickle_of_calls_keeps_one_runner(flame: Any) -> None:
    cluster, client = flame(max=3, idle_timeout="3s")
    at_once(cluster, client, whoami, 3)
    names = set()
    deadline = time.monotonic() + 60
    while len(cluster.runners) > 1 or len(names) < 1:
        names = {client.submit(whoami, pure=False).result(timeout=60)}
        assert time.monotonic() < deadline
    assert len(events(cluster, "boot")) == 1


def test_actors_hold_a_slot_and_keep_their_runner(flame: Any) -> None:
    with dask.config.set({"distributed.scheduler.validate": False}):  # see test_placement
        cluster, client = flame(max=2, idle_timeout="200ms")

        class Counter:
            n = 0

            def add(self) -> tuple[int, str]:
                self.n += 1
                return self.n, whoami()

        placed = client.submit(Counter, actor=True)
        counter = placed.result(timeout=60)
        assert counter.add().result() == (1, "runner-1")
        assert cluster.scheduler.demand() == 1
        # Its slot is taken: the next call needs a runner of its own.
        assert client.submit(whoami, pure=False).result(timeout=60) == "runner-2"
        wait_for(lambda: list(cluster.runners) == ["runner-1"])
        assert counter.add().result() == (2, "runner-1")
        del counter, placed
        gc.collect()  # a call of a stock actor leaves a cycle that holds it
        wait_for(lambda: not cluster.runners, what="the actor is gone, and its runner follows")


def test_an_actor_that_is_being_made_holds_one_slot_and_none_once_taken_back(
    flame: Any, tmp_path: Path
) -> None:
    with dask.config.set({"distributed.scheduler.validate": False}):  # see test_placement
        cluster, client = flame(max=3, concurrency=2, idle_timeout="200ms")
        go = tmp_path / "go"

        class Slow:
            def __init__(self) -> None:
                while not go.exists():
                    time.sleep(0.01)

        placed = client.submit(Slow, actor=True)
        wait_for(lambda: cluster.scheduler.load("runner-1").busy == 1)
        assert client.submit(whoami).result(timeout=60) == "runner-1"
        assert cluster.scheduler.demand() == 1
        placed.cancel()
        go.touch()
        wait_for(lambda: cluster.scheduler.demand() == 0)
        wait_for(lambda: not cluster.runners, what="nothing keeps its runner")
        assert len(events(cluster, "boot")) == 1


def test_callbacks_hear_of_growth_and_shrinkage_and_cannot_do_harm(flame: Any) -> None:
    heard: list[tuple[str, str, int]] = []

    def grown(pool: str, count: int) -> None:
        heard.append(("grow", pool, count))
        raise RuntimeError("a callback that fails")

    cluster, client = flame(
        max=2,
        idle_timeout="100ms",
        on_grow=grown,
        on_shrink=lambda pool, count: heard.append(("shrink", pool, count)),
    )
    client.gather(client.map(whoami, range(2), seconds=0.2, pure=False))
    wait_for(lambda: not cluster.runners)
    wait_for(lambda: heard and heard[-1] == ("shrink", "default", 0))
    assert heard[0] == ("grow", "default", 2)


def test_resize_changes_a_policy_while_it_runs(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="1h")
    assert client.submit(whoami, pure=False).result(timeout=60) == "runner-1"
    policy = cluster.resize(max=3, idle_timeout="100ms", env={"SECRET": "s3cret"})
    assert (policy.max, policy.idle_timeout) == (3, 0.1)
    wait_for(lambda: not cluster.runners)
    assert len(set(at_once(cluster, client, whoami, 3))) == 3
    (event,) = events(cluster, "policy")
    assert event.reason.startswith("resize: min=0, max=3, idle_timeout=0.1")
    assert "s3cret" not in str(cluster.events)


@pytest.mark.parametrize(
    ("pool", "changes", "message"),
    [
        ("tpu", {"max": 3}, "there is no pool 'tpu'; there are 'default'"),
        (
            None,
            {"max": -1},
            "max=-1 is not a whole number of 1 or more, or 0 to let calls wait",
        ),
        (None, {"maximum": 3}, "unknown option maximum; did you mean max=3"),
        (None, {"concurrency": 2}, "concurrency cannot be changed while the cluster runs"),
        (None, {"min": 7}, "min=7 is more than max=2"),
    ],
)
def test_a_wrong_resize_changes_nothing(flame: Any, pool: Any, changes: Any, message: str) -> None:
    cluster, _ = flame(max=2)
    before = dict(cluster.pools)
    with pytest.raises(PoolError, match=message):
        cluster.resize(pool, **changes)
    assert dict(cluster.pools) == before
    assert not events(cluster, "policy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pools": {"a": Pool()}, "max": 3}, r"max belongs to a pool.*Pool\(max=8\)"),
        ({"pools": {}}, "pools={} is not a mapping of names to pools; write pools="),
        (
            {"pools": {"a b": Pool()}},
            "pools has the name 'a b'; a pool's name is made of letters, digits and -",
        ),
        ({"pools": {"a": {"max": 3}}}, r"pools\['a'\] is a dict; write pools={\"a\": Pool"),
        ({"pools": {"a": Pool(max=0)}}, "nothing could ever run"),
        ({"pool": {"a": Pool()}}, "unknown option pool; did you mean pools="),
    ],
)
def test_wrong_pools_are_refused_at_once(options: Any, message: str) -> None:
    with pytest.raises(PoolError, match=message):
        FlameCluster(dashboard_address=None, **options)


def test_what_a_cluster_with_pools_shows(two: Any) -> None:
    cluster, _ = two
    assert "cpu: none of 0..2" in repr(cluster)
    assert "gpu: none of 0..1" in repr(cluster)
    assert "<b>gpu</b>" in cluster._repr_html_()
    assert list(cluster.pools) == ["cpu", "gpu"]


# Runners that are lost


def test_calls_of_a_lost_runner_run_again_elsewhere(flame: Any, tmp_path: Path) -> None:
    cluster, client = flame(max=1)
    assert client.submit(_die_once, str(tmp_path / "a")).result(timeout=60) == "runner-3"
    assert len(events(cluster, "lost")) == 2


def test_a_call_that_kills_every_runner_fails_with_what_killed_them(flame: Any) -> None:
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        cluster, client = flame(max=1)

    def kill() -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    future = client.submit(kill)
    with pytest.raises(RunnerLost, match=r"killed by SIGKILL") as caught:
        future.result(timeout=60)
    assert caught.value.runner == "runner-2"
    assert caught.value.tried == 2
    assert "allowed-failures=1" in str(caught.value)
    assert client.submit(whoami, pure=False).result(timeout=60) == "runner-3"
    assert len(events(cluster, "lost")) == 2


def test_a_call_that_must_not_be_run_twice_is_not(flame: Any, tmp_path: Path) -> None:
    _, client = flame(max=2)
    with dask.annotate(rerun=False):
        once = client.submit(_die_once, str(tmp_path / "once"))
    with pytest.raises(RunnerLost, match=r"exit code 7; it is not run again \(rerun=False\)"):
        once.result(timeout=60)
    assert (tmp_path / "once").read_text() == "x"


def test_nor_is_it_for_a_result_that_is_lost_with_its_runner(flame: Any, tmp_path: Path) -> None:
    _, client = flame(max=1)

    def note() -> tuple[str, bytes]:
        with (tmp_path / "note").open("a") as f:
            f.write("x")
        return whoami(), bytes(100_000)  # more than outlives its runner

    with dask.annotate(rerun=False):
        future = client.submit(note)
    assert future.result(timeout=60)[0] == "runner-1"
    client.submit(_die_once, str(tmp_path / "killer")).result(timeout=60)
    with pytest.raises(RunnerLost, match="runner-1"):
        client.submit(lambda x: x, future).result(timeout=60)
    assert (tmp_path / "note").read_text() == "x"


def test_min_runners_that_die_are_replaced(flame: Any) -> None:
    cluster, client = flame(min=2, max=2)
    client.wait_for_workers(2, timeout=60)
    with dask.annotate(rerun=False), pytest.raises(RunnerLost):
        client.submit(_exit, pure=False).result(timeout=60)
    wait_for(lambda: len(cluster.observed) == 2)


def test_waiting_calls_wait_on_while_boots_fail(flame: Any, tmp_path: Path) -> None:
    module = tmp_path / "flaky_at_boot.py"
    count = tmp_path / "count"
    module.write_text(
        "import pathlib\n"
        f"count = pathlib.Path({str(count)!r})\n"
        "tries = len(count.read_text()) if count.exists() else 0\n"
        "count.write_text('x' * (tries + 1))\n"
        "assert tries >= 3, 'not yet'\n"
    )
    # Each boot an import: from a template, the second could succeed.
    with dask.config.set({"flame.local.fork": False}):
        cluster, client = flame(
            max=1,
            preload=["flaky_at_boot"],
            env={"PYTHONPATH": str(tmp_path)},
            boot_attempts=1,
            on_boot_failure="wait",
        )
        assert client.submit(whoami).result(timeout=60) == "runner-4"
    assert len(events(cluster, "boot")) == 4
    assert len(events(cluster, "failed")) == 1  # the reason is told once


# An idle timeout that follows boots


def test_an_idle_timeout_that_the_pool_finds(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="10m")
    assert client.submit(whoami, pure=False).result() == "runner-1"
    assert repr(cluster).endswith("idle_timeout=600s)")
    # It applies to the runner that is idle, by the boot that was measured before.
    cluster.resize(idle_timeout="auto", idle_bounds=(0, "10m"))
    wait_for(lambda: not cluster.runners, what="it is not kept for ten minutes")
    (retired,) = events(cluster, "retire")
    took = events(cluster, "ready")[0].numbers["seconds"]
    assert retired.reason.startswith('no call for idle_timeout="auto", now ')
    assert retired.reason.endswith(" s: as long as a boot takes (the median of 1)")
    assert cluster.fleets.fleets["default"].idle.seconds == pytest.approx(took)
    assert "idle_timeout=auto (now " in repr(cluster)
    assert cluster.pools["default"].idle_timeout == "auto"
    assert events(cluster, "policy")[-1].reason.endswith("idle_bounds=(0.0, 600.0)")
    cluster.resize(idle_bounds=("5m", "10m"))
    assert client.submit(whoami, pure=False).result() == "runner-2"
    wait_for(lambda: "idle_timeout=auto (now 300s)" in repr(cluster))

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import operator
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed import Client, LocalCluster, get_client, wait

import dask_flame
from dask_flame import CallTimeout, FlameCluster, FlameError, Pool, RunnerLost
from dask_flame.errors import PoolError
from tests.driver.calls import (
    Counter,
    cannot_be_sampled,
    computes,
    dies,
    doze,
    interrupted,
    linger,
    name,
    nested,
    nested_coroutine,
    note,
    pool,
    profiled,
    spin,
)
from tests.support.waiting import until, wait_for, wait_for_text

pytestmark = pytest.mark.process

Flame = Callable[..., tuple[FlameCluster, Client]]


def noted(folder: Path) -> list[str]:
    return sorted(file.read_text() for file in folder.iterdir())


def pools(least: int = 0) -> dict[str, Pool]:
    """Two pools, each of which says its name in the environment."""
    return {n: Pool(min=least, max=1, env={"POOL": n}) for n in ("cpu", "gpu")}


#: The shared cluster of a test has two pools.
two_pools = pytest.mark.shared_cluster(pools=pools(least=1))


# on


@two_pools
def test_where_things_go(shared: Any) -> None:
    _, client = shared
    submit = functools.partial(client.submit, pool, pure=False)
    assert submit().result() == "cpu"
    with dask_flame.on("gpu"):
        assert submit().result() == "gpu"
        with dask_flame.on("cpu", timeout="1m"):
            assert submit().result() == "cpu"
        assert submit().result() == "gpu"
    assert submit().result() == "cpu"


@two_pools
def test_all_ways_of_submitting_reach_the_pool(shared: Any, tmp_path: Path) -> None:
    _, client = shared

    def seen() -> list[str]:
        pools = noted(tmp_path)
        for file in tmp_path.iterdir():
            file.unlink()
        return pools

    with dask_flame.on("gpu"):
        assert client.gather(client.map(note, [tmp_path] * 3, range(3))) == ["gpu"] * 3
        assert seen() == ["gpu"] * 3
        # Made anew each time: under the same key a result that is still there would do.
        task = dask.delayed(note)(tmp_path, dask.delayed(note)(tmp_path))
        assert task.compute() == "gpu"
        assert seen() == ["gpu"] * 2
        wait(client.compute(dask.delayed(note)(tmp_path, dask.delayed(note)(tmp_path))))
        assert seen() == ["gpu"] * 2
        with client.get_executor() as executor:
            assert executor.submit(note, tmp_path).result() == "gpu"
            assert list(executor.map(note, [tmp_path] * 2, range(2))) == ["gpu"] * 2
        assert seen() == ["gpu"] * 3


@two_pools
def test_collections_that_are_computed_inside(shared: Any, tmp_path: Path) -> None:
    da = pytest.importorskip("dask.array")
    np = pytest.importorskip("numpy")

    def block(x: Any) -> Any:
        note(tmp_path)
        return x

    built_outside = da.ones(40, chunks=10).map_blocks(block, dtype=float, meta=np.ones(1))
    with dask_flame.on("gpu"):
        built_inside = da.ones(40, chunks=10).map_blocks(block, dtype=float, meta=np.ones(1))
        assert (built_outside.sum() + built_inside.sum()).compute() == 80
    assert set(noted(tmp_path)) == {"gpu"}
    assert len(noted(tmp_path)) >= 4


def test_everything_reaches_the_tasks(shared: Any) -> None:
    cluster, client = shared
    with dask_flame.on(timeout="90s", rerun=False):
        future = client.submit(spin, 0.1)
    wait(future)
    (ts,) = cluster.scheduler.tasks.values()
    assert ts.annotations == {"timeout": 90.0, "rerun": False}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "needs a pool or an option"),
        ({"pool": 3}, "pool=3 is not the name of a pool"),
        ({"timeout": "soon"}, "timeout='soon' is not a duration"),
        ({"timeout": 0}, "timeout=0 is not a duration above zero"),
        ({"timeout": -1}, "timeout=-1"),
        ({"rerun": "no"}, "rerun='no' is not True or False"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(PoolError, match=said):
        dask_flame.on(**arguments)
    if arguments:
        with pytest.raises(PoolError, match=said):
            dask_flame.call(int, **arguments)


@two_pools
def test_an_unknown_pool_is_refused_before_anything_is_sent(shared: Any) -> None:
    cluster, _ = shared
    said = r"there is no pool 'tpu'; there are 'cpu', 'gpu'"
    for use in (
        lambda: dask_flame.on("tpu").__enter__(),
        lambda: dask_flame.call(int, pool="tpu"),
        lambda: dask_flame.cast(int, pool="tpu"),
        lambda: dask_flame.place(list, pool="tpu"),
    ):
        with pytest.raises(PoolError, match=said):
            use()
    assert not cluster.scheduler.tasks


@two_pools
def test_an_unknown_pool_in_an_annotation_fails_the_call(shared: Any) -> None:
    _, client = shared
    with dask.annotate(pool="tpu"):
        future = client.submit(int)
    with pytest.raises(PoolError, match="there is no pool 'tpu'"):
        future.result(timeout=60)


# call


def test_a_call_returns_or_raises(shared: Any) -> None:
    _, client = shared
    assert dask_flame.call(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        dask_flame.call(divmod, 7, 0)
    assert dask_flame.call(int, client.submit(str, 7)) == 7
    assert dask_flame.call(dict, a=client.submit(str, 8)) == {"a": "8"}
    assert dask_flame.call(linger, 0.01) == "done"


def test_calls_are_never_taken_for_the_same(shared: Any) -> None:
    assert dask_flame.call(os.urandom, 8) != dask_flame.call(os.urandom, 8)


def test_names_that_submit_takes_for_its_own(shared: Any) -> None:
    options = {"key": 1, "workers": 2, "priority": 3, "func": 4, "retries": 5, "pure": 6}
    assert dask_flame.call(dict, other=7, **options) == {**options, "other": 7}
    assert dask_flame.call(functools.partial(dict, timeout=1, pool=2)) == {"timeout": 1, "pool": 2}


@two_pools
def test_a_call_over_a_block(shared: Any) -> None:
    @dask_flame.call
    def here() -> str:
        return pool()

    @dask_flame.call(pool="gpu", timeout="5m")
    def there() -> str:
        return pool()

    assert (here, there) == ("cpu", "gpu")
    with pytest.raises(TypeError, match="fn=None cannot be called"):
        dask_flame.call(None, 1)


def test_without_a_client_the_error_says_what_to_write() -> None:
    for make in (dask_flame.call, dask_flame.cast, dask_flame.place):
        with pytest.raises(FlameError, match=r"write client = Client\(FlameCluster\(max=8\)\)"):
            make(list)
    with dask_flame.on("gpu"):
        pass  # it is for whoever submits to have a client


@pytest.mark.asyncio
async def test_with_an_asynchronous_client(actors: None) -> None:
    async with (
        FlameCluster(max=1, asynchronous=True, dashboard_address=None) as cluster,
        Client(cluster, asynchronous=True),
    ):
        assert await dask_flame.call(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await dask_flame.call(divmod, 7, 0)
        with pytest.raises(CallTimeout):
            await dask_flame.call(spin, timeout=0.3)
        # Cancelling what awaits it cancels it.
        task = asyncio.ensure_future(dask_flame.call(spin))
        tasks = cluster.scheduler.tasks
        await until(lambda: any(ts.state == "processing" for ts in tasks.values()))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not tasks)
        assert await dask_flame.call(spin, 0) == "done"
        counter = await dask_flame.place(list, [1])
        await counter.append(2)
        assert await counter.copy() == [1, 2]
        del counter


def test_it_works_on_a_stock_cluster() -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0", processes=False
        ) as cluster,
        Client(cluster),
    ):
        assert dask_flame.call(divmod, 7, 2) == (3, 1)
        for governed in ({"timeout": "1m"}, {"pool": "gpu"}, {"rerun": False}):
            with pytest.raises(PoolError, match=r"are a FlameCluster's.* is a LocalCluster; write"):
                dask_flame.call(divmod, 7, 2, **governed)


# The timeout


@pytest.mark.parametrize("what", [spin, linger])
def test_a_call_that_overruns(what: Any, shared: Any) -> None:
    cluster, _ = shared
    dask_flame.call(int)
    start = time.monotonic()
    with pytest.raises(CallTimeout, match=r"timeout=1 s.* on runner-1 ") as caught:
        dask_flame.call(what, timeout="1s")
    assert isinstance(caught.value, TimeoutError)
    assert time.monotonic() - start >= 1
    # On the same runner, whose thread is free again.
    assert dask_flame.call(name) == "runner-1"
    assert [e.runners for e in cluster.events if e.kind == "ready"] == [("runner-1",)]


#: Programs that note the processes to be ended.
WAITED_FOR = {
    "a process": "echo $$ >> pids; exec sleep 600",
    "its child": "sleep 600 & echo $$ $! >> pids; wait; echo late",
    "no SIGTERM": "trap '' TERM; sleep 600 & echo $$ $! >> pids; wait; wait",
}


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_a_call_that_waits_for_a_process(how: str, flame: Flame, tmp_path: Path) -> None:
    """It is interrupted at once, and its process has ended: its runner is not ended for it."""
    cluster, client = flame(max=1, shutdown_timeout="10m")
    for what, script in WAITED_FOR.items():
        pids = tmp_path / what / "pids"
        pids.parent.mkdir()
        with dask_flame.on(timeout="1s" if how == "timeout" else "1h"):
            run = functools.partial(subprocess.run, cwd=pids.parent, capture_output=True)
            future = client.submit(run, ["sh", "-c", script])
        wait_for(lambda pids=pids: pids.exists() and pids.read_text().endswith("\n"))
        if how == "timeout":
            with pytest.raises(CallTimeout):
                future.result(timeout=120)
        else:
            future.cancel()
        ended = [int(pid) for pid in pids.read_text().split()]
        wait_for(lambda ended=ended: not any(map(psutil.pid_exists, ended)), what=what)
        assert dask_flame.call(name) == "runner-1"
    assert [e.runners for e in cluster.events if e.kind == "ready"] == [("runner-1",)]


def test_a_call_is_not_interrupted_while_it_starts_a_process(flame: Flame, tmp_path: Path) -> None:
    """Otherwise nobody would know of the process, and it would stay."""
    cluster, client = flame(max=1, shutdown_timeout="10m")
    begun, go = tmp_path / "begun", tmp_path / "go"

    def start_slowly() -> None:
        def before_it_runs() -> None:
            begun.write_text(f"{os.getpid()}\n")
            while not go.exists():
                time.sleep(0.01)

        subprocess.run(["sleep", "600"], preexec_fn=before_it_runs)

    future = client.submit(start_slowly)
    child = int(wait_for_text(begun))
    future.cancel()
    wait_for(lambda: any(client.run(interrupted).values()))
    go.touch()
    wait_for(lambda: not psutil.pid_exists(child))
    assert dask_flame.call(name) == "runner-1"
    assert [e.runners for e in cluster.events if e.kind == "ready"] == [("runner-1",)]


def test_other_processes_of_an_interrupted_call_go_on(flame: Flame) -> None:
    flame(max=1)

    @dask_flame.call
    def server() -> int:
        return subprocess.Popen(["sleep", "600"]).pid

    with pytest.raises(CallTimeout):
        dask_flame.call(subprocess.run, ["sleep", "600"], timeout=0.5)
    assert psutil.Process(server).status() != psutil.STATUS_ZOMBIE


def test_the_clock_does_not_run_while_a_runner_boots_or_inputs_are_made(flame: Flame) -> None:
    _, client = flame(max=1)
    slow = client.submit(lambda: time.sleep(2.5) or "done")
    assert dask_flame.call(str.upper, slow, timeout=2) == "DONE"


def test_the_other_call_on_the_runner_is_unharmed(flame: Flame) -> None:
    _, client = flame(max=1, concurrency=2)
    other = client.submit(doze, 3)
    wait_for(lambda: client.processing() and any(client.processing().values()))
    with pytest.raises(CallTimeout):
        dask_flame.call(spin, timeout=0.5)
    assert other.result() == "done"


def test_late_calls_and_short_ones_behind_them(shared: Any) -> None:
    """An interruption that comes as its call ends reaches none of those that come after."""
    cluster, client = shared
    late, seconds = 0, 0.02
    for _ in range(100):
        with dask_flame.on(timeout=0.02):
            # Around the timeout, and as much earlier as this machine needs.
            edge = client.submit(spin, seconds, pure=False)
        after = client.map(spin, [0] * 5, pure=False)
        is_late = isinstance(edge.exception(), CallTimeout)
        late += is_late
        seconds = max(0.0, seconds + (-0.0005 if is_late else 0.0005))
        assert client.gather(after) == ["done"] * 5
        del edge, after
    assert 0 < late < 100
    assert not [e for e in cluster.events if e.kind in ("lost", "failed")]


def test_a_call_that_does_not_stop_is_ended_with_its_runner(flame: Flame) -> None:
    cluster, client = flame(max=1, concurrency=2, shutdown_timeout="1s")
    other = client.submit(doze, 5)
    with pytest.raises(CallTimeout):
        dask_flame.call(time.sleep, 600, timeout=0.5)
    # The other call runs again, on another runner.
    assert other.result(timeout=60) == "done"
    assert dask_flame.call(name) == "runner-2"
    assert len([e for e in cluster.events if e.kind == "ready"]) == 2


# Interruption from the driver

DRIVER = """
import sys, threading, time
from dask.distributed import Client
import dask_flame

def forever():
    open(sys.argv[1], "w").close()
    try:
        while True:
            pass
    finally:
        open(sys.argv[1] + ".ended", "w").close()

if __name__ == "__main__":
    with dask_flame.FlameCluster(max=1, dashboard_address=None) as cluster, Client(cluster):
        try:
            dask_flame.call(forever)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        while cluster.scheduler.tasks:
            time.sleep(0.01)
        print(dask_flame.call(abs, -7), [e.kind for e in cluster.events].count("ready"), flush=True)
"""


def test_interrupting_the_driver_cancels_the_call(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    code = DRIVER.replace("sys.argv[1]", repr(str(flag)))
    driver = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(flag.exists, 60)
        driver.send_signal(signal.SIGINT)
        said, errors = driver.communicate(timeout=240)
    finally:
        with contextlib.suppress(ProcessLookupError):
            driver.kill()
        driver.wait()
    assert said.splitlines() == ["interrupted", "7 1"], errors
    assert (tmp_path / "flag.ended").exists()


# Nested calls


@pytest.mark.parametrize("how", ["compute", "submit"])
def test_the_error_of_a_nested_call_is_that_of_its_caller(how: str, shared: Any) -> None:
    _, client = shared
    error = client.submit(computes, how).exception(timeout=60)
    assert type(error) is ZeroDivisionError
    assert error.__context__ is None


@pytest.mark.parametrize("what", [nested, nested_coroutine])
def test_nested_calls_at_one_runner_with_one_slot(what: Any, shared: Any) -> None:
    cluster, _ = shared
    assert dask_flame.call(what, 3) == 8
    assert len([e for e in cluster.events if e.kind == "ready"]) == 1


@two_pools
def test_nested_calls_go_to_the_pools_that_they_name(shared: Any) -> None:
    def outer() -> list[str]:
        with dask_flame.on("gpu"):
            on_gpu = get_client().submit(pool, pure=False).result()
        return [pool(), dask_flame.call(pool, pool="gpu"), on_gpu, dask_flame.call(pool)]

    assert dask_flame.call(outer) == ["cpu", "gpu", "gpu", "cpu"]
    assert dask_flame.call(outer, pool="gpu") == ["gpu", "gpu", "gpu", "cpu"]


def test_a_nested_call_that_overruns(flame: Flame) -> None:
    flame(max=1)

    def outer() -> str:
        try:
            dask_flame.call(spin, timeout=0.3)
        except CallTimeout:
            return "late"
        return ""

    assert dask_flame.call(outer) == "late"
    assert dask_flame.call(outer, timeout="1m") == "late"


def test_interrupting_the_outer_call_cancels_the_inner_one(flame: Flame) -> None:
    cluster, _ = flame(max=1)

    def outer() -> None:
        dask_flame.call(spin)

    with pytest.raises(CallTimeout):
        dask_flame.call(outer, timeout=1)
    wait_for(lambda: not cluster.scheduler.tasks)
    assert dask_flame.call(spin, 0) == "done"


# cast


def test_a_cast_returns_at_once_and_runs(flame: Flame, tmp_path: Path) -> None:
    cluster, client = flame(max=1)
    dask_flame.cast((tmp_path / "made").mkdir)
    wait_for((tmp_path / "made").exists)
    wait_for(lambda: not cluster.scheduler.tasks)
    assert not client.futures


def test_a_cast_that_fails_is_logged(
    flame: Flame, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, _ = flame(max=1)
    with caplog.at_level(logging.WARNING, logger="dask_flame"):
        dask_flame.cast(divmod, 7, 0)
        wait_for(lambda: any("ZeroDivisionError" in e.reason for e in cluster.events))
    wait_for(lambda: not cluster.scheduler.tasks)


# place


@pytest.fixture
def actors() -> Iterator[None]:
    """Actors may wait for a runner: distributed lets them, but its own checks deny it."""
    with dask.config.set({"distributed.scheduler.validate": False}):
        yield


def test_a_placed_object_holds_a_slot_until_it_is_let_go(actors: None, flame: Flame) -> None:
    cluster, client = flame(max=1, concurrency=1, idle_timeout="100ms")
    counter = dask_flame.place(Counter, 3)
    assert counter.add().result() == 4
    assert counter.add(n=2).result() == 6
    assert counter.n == 6
    waits = client.submit(abs, -1)
    # Its runner is busy by it alone: neither given calls nor ended.
    time.sleep(0.5)
    assert not waits.done()
    assert list(cluster.runners) == ["runner-1"]
    del counter
    assert waits.result(timeout=60) == 1
    del waits
    wait_for(lambda: not cluster.runners)


def test_a_method_that_is_called_on_a_temporary_proxy(actors: None, flame: Flame) -> None:
    cluster, _ = flame(max=1)
    assert dask_flame.place(Counter, 3).add(4).result(timeout=60) == 7
    wait_for(lambda: not any(ws.actors for ws in cluster.scheduler.workers.values()))


def test_placed_objects_in_pools_and_errors_of_their_making(actors: None, flame: Flame) -> None:
    flame(pools=pools())

    class Where:
        pool = ""

        def __init__(self, fail: bool = False) -> None:
            self.pool = pool()
            if fail:
                raise KeyError("no")

    assert dask_flame.place(Where, pool="gpu").pool == "gpu"
    with pytest.raises(KeyError, match="no"):
        dask_flame.place(Where, fail=True)


def test_a_placed_object_may_call(actors: None, flame: Flame) -> None:
    flame(max=2)
    counter = dask_flame.place(Counter)
    assert counter.nested().result(timeout=60) == 3


def test_a_call_may_place(actors: None, flame: Flame) -> None:
    flame(max=2)

    def outer() -> int:
        counter = dask_flame.place(Counter, 1)
        return int(counter.add().result())

    assert dask_flame.call(outer) == 2


def test_a_placed_object_whose_runner_died_says_so(actors: None, flame: Flame) -> None:
    flame(max=1)
    counter = dask_flame.place(Counter)
    _, pid = counter.where().result()
    os.kill(pid, signal.SIGKILL)
    said: list[str] = []

    def known() -> bool:
        try:
            counter.add().result(timeout=60)
        except (RuntimeError, OSError) as error:
            said.append(str(error))
        return bool(said) and "Worker holding Actor was lost" in said[-1]

    wait_for(known)
    assert all("worker" in text.lower() for text in said), said


# Lost runners


def test_a_call_that_must_not_run_twice(flame: Flame, tmp_path: Path) -> None:
    flame(max=2)
    with pytest.raises(RunnerLost, match=r"lost with runner-1: .*SIGKILL.*rerun=False") as caught:
        dask_flame.call(dies, tmp_path, rerun=False)
    assert len(list(tmp_path.iterdir())) == 1
    assert caught.value.runner == "runner-1"


def test_a_call_that_takes_every_runner_down(flame: Flame, tmp_path: Path) -> None:
    flame(max=1)
    with pytest.raises(RunnerLost, match=r"SIGKILL.*allowed-failures=3"):
        dask_flame.call(dies, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_threads_of_the_driver_may_call(flame: Flame) -> None:
    flame(max=2)
    seen: list[int] = []
    threads = [
        threading.Thread(target=lambda i=i: seen.append(dask_flame.call(abs, -i))) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(8))


def test_a_sample_that_fails_is_no_line_of_a_call(flame: Flame) -> None:
    """CPython 3.11 may give the profiler, in another thread, what is no frame."""
    cluster, client = flame(max=1)
    assert client.submit(cannot_be_sampled).result(timeout=60) >= 3
    print_it = client.submit(print, "and then")
    print_it.result(timeout=60)
    log = wait_for(lambda: "and then" in (log := str(cluster.get_logs()["runner-1"])) and log)
    assert "f_code" not in log


def test_a_call_can_be_profiled_whatever_ran_before_it(shared: Any) -> None:
    """CPython 3.11 looks for requested exceptions without end, if it has not forgotten them."""
    cluster, client = shared

    def cancel() -> None:
        future = client.submit(spin, pure=False)
        wait_for(lambda: any(runner.busy for runner in cluster.runners.values()))
        future.cancel()

    before: list[Callable[[], Any]] = [
        lambda: client.submit(int).result(),
        lambda: client.submit(operator.truediv, 1, 0).exception(),
        lambda: dask_flame.call(spin, timeout=0.2),
        cancel,
    ]
    for call in before:
        with contextlib.suppress(CallTimeout):
            call()
        assert client.submit(profiled, pure=False).result(timeout=60) == 4950
    assert list(cluster.runners) == ["runner-1"]

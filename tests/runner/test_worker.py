"""Real runner processes, at a scheduler that knows their words and at a stock one."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import dask
import distributed
import pytest
import pytest_asyncio
from distributed import Client, Scheduler, get_client, worker_client
from distributed.protocol import pickle

from dask_flame import CallTimeout
from dask_flame.backends.local import LocalBackend
from dask_flame.core.messages import FREED, LEAVING, OVERRAN
from dask_flame.core.pool import Pool
from dask_flame.runner import start as runner_start
from dask_flame.scheduler.scheduler import FlameScheduler
from dask_flame.testing.conformance import Said, Stage
from tests.runner.worker_calls import (
    Thing,
    _pool_threads,
    call_another,
    crowd,
    fail,
    hammer,
    linger,
    make,
    make_in_a_coroutine,
    spin,
    swallow,
    take,
    tree,
    tree_of_coroutines,
    what_is_there,
)

pytestmark = pytest.mark.process


class Listening(FlameScheduler):
    """Notes what runners say."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heard: list[tuple[str, dict[str, Any]]] = []
        for word in (FREED, OVERRAN, LEAVING):
            self.stream_handlers[word] = self._noting(word, self.stream_handlers[word])

    def _noting(self, word: str, handler: Callable[..., None]) -> Callable[..., None]:
        def noted(**kwargs: Any) -> None:
            self.heard.append((word, kwargs))
            handler(**kwargs)

        return noted

    def words(self, word: str) -> list[dict[str, Any]]:
        return [what for said, what in self.heard if said == word]


class Runners(Stage):
    """A stage on which runners are booted."""

    client: Client

    async def boot(self, *names: str, **more: Any) -> None:
        await self.backend.boot([self.spec(name, **more) for name in names])
        await self.registered(*names)


async def _stage(scheduler: Scheduler) -> AsyncIterator[Runners]:
    async with scheduler:
        said = Said()
        backend = LocalBackend(said.context)
        stage = Runners(scheduler, backend, said)
        await backend.start()
        try:
            async with Client(scheduler.address, asynchronous=True) as client:
                stage.client = client
                yield stage
        finally:
            await backend.close()


_WHERE = {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}


@pytest_asyncio.fixture
async def flame() -> AsyncIterator[Runners]:
    async for stage in _stage(Listening(pools={"default": Pool()}, **_WHERE)):
        yield stage


@pytest_asyncio.fixture
async def stock() -> AsyncIterator[Runners]:
    async for stage in _stage(Scheduler(**_WHERE)):
        yield stage


@pytest_asyncio.fixture(params=["flame", "stock"])
async def either(request: pytest.FixtureRequest) -> AsyncIterator[Runners]:
    scheduler = (
        Listening(pools={"default": Pool()}, **_WHERE)
        if request.param == "flame"
        else Scheduler(**_WHERE)
    )
    async for stage in _stage(scheduler):
        yield stage


def stubborn(times: int) -> str:
    """Swallow whatever comes, a few times."""
    for _ in range(times):
        try:
            spin()
        except BaseException:
            continue
    spin()
    return "done"


async def stubborn_coroutine(times: int) -> str:
    for _ in range(times):
        try:
            await linger()
        except BaseException:
            continue
    return "done"


# Interruption


@pytest.mark.asyncio
@pytest.mark.parametrize("call", [spin, linger])
async def test_a_call_that_overruns_is_interrupted(call: Any, either: Runners) -> None:
    await either.boot("one")
    with dask.annotate(timeout=0.5):
        future = either.client.submit(call)
    with pytest.raises(CallTimeout, match=r"timeout=0\.5 s.* on one for \d\.\d s"):
        await asyncio.wait_for(future, 60)
    # The runner's only thread is free again.
    assert await asyncio.wait_for(either.client.submit(spin, 0), 60) == "done"


@pytest.mark.asyncio
@pytest.mark.parametrize("call", [stubborn, stubborn_coroutine])
async def test_a_call_that_swallows_an_interruption_is_asked_again(
    call: Any, flame: Runners
) -> None:
    await flame.boot("one")
    with dask.annotate(timeout=0.2):
        future = flame.client.submit(call, 3)
    with pytest.raises(CallTimeout):
        await future
    scheduler = flame.scheduler
    assert isinstance(scheduler, Listening)
    await flame.until(lambda: scheduler.words(FREED), "its thread is free")
    assert [what["key"] for what in scheduler.words(FREED)] == [future.key]
    assert await asyncio.wait_for(flame.client.submit(spin, 0), 60) == "done"


@pytest.mark.asyncio
async def test_a_call_that_ends_in_time_hears_nothing(either: Runners) -> None:
    await either.boot("one")
    with dask.annotate(timeout=4):
        assert await either.client.submit(spin, 0.1) == "done"
        assert await either.client.submit(linger, 2.0) == "done"
        # Not the clock of a call that has ended.
        assert await either.client.submit(linger, 2.5) == "done"


@pytest.mark.asyncio
async def test_the_clock_starts_when_the_call_executes(stock: Runners) -> None:
    await stock.boot("one")
    first = stock.client.submit(lambda: time.sleep(3) or "done")
    with dask.annotate(timeout=2):
        # Waits for the thread, and for its input, longer than it may execute.
        second = stock.client.submit(lambda x: x, first)
        third = stock.client.submit(spin, 0.1, pure=False)
    assert await second == "done"
    assert await third == "done"


@pytest.mark.asyncio
async def test_a_late_result_is_late(stock: Runners) -> None:
    await stock.boot("one")
    with dask.annotate(timeout=0.2):
        future = stock.client.submit(time.sleep, 0.6)
    with pytest.raises(CallTimeout):
        await future


@pytest.mark.asyncio
async def test_a_cancelled_call_is_interrupted_and_its_end_is_told(flame: Runners) -> None:
    await flame.boot("one")
    scheduler = flame.scheduler
    assert isinstance(scheduler, Listening)
    for call in (spin, linger):
        future = flame.client.submit(call)
        await flame.until(lambda: any(w.processing for w in scheduler.workers.values()), "runs")
        await future.cancel()
        key = future.key
        await flame.until(
            lambda key=key: key in {w["key"] for w in scheduler.words(FREED)}, "its end"
        )
        assert await asyncio.wait_for(flame.client.submit(spin, 0, pure=False), 60) == "done"


@pytest.mark.asyncio
async def test_the_other_call_on_the_runner_is_left_alone(flame: Runners, tmp_path: Path) -> None:
    def goes_on(until: Path) -> str:
        while not until.exists():
            time.sleep(0.01)
        return "done"

    await flame.boot("one", concurrency=2)
    other = flame.client.submit(goes_on, tmp_path / "go")
    with dask.annotate(timeout=0.5):
        late = flame.client.submit(spin)
    with pytest.raises(CallTimeout):
        await late
    assert not other.done()
    (tmp_path / "go").touch()
    assert await other == "done"


@pytest.mark.asyncio
async def test_no_stray_interruption_ever_hits_another_call(flame: Runners) -> None:
    """Calls that end at the moment when they are interrupted, with short ones right behind them."""
    await flame.boot("one", concurrency=2)
    client = flame.client
    outcomes, seconds = {"late": 0, "in time": 0}, 0.02
    for _ in range(200):
        with dask.annotate(timeout=0.02):
            # Around the timeout, and as much earlier as this machine needs.
            edge = client.submit(spin, seconds, pure=False)
        after = client.map(spin, [0] * 5, pure=False)
        try:
            await edge
            outcomes["in time"] += 1
            seconds += 0.0005
        except CallTimeout:
            outcomes["late"] += 1
            seconds = max(0.0, seconds - 0.0005)
        assert await client.gather(after) == ["done"] * 5
        del edge, after
    assert min(outcomes.values()) > 10, outcomes
    assert flame.ended == []
    threads = await client.submit(_pool_threads)
    assert threads <= 2


@pytest.mark.asyncio
async def test_calls_that_are_interrupted_all_the_time(flame: Runners) -> None:
    """Many times as often as a runner ever does it; calls that fail by it are run again."""
    await flame.boot("one", concurrency=3)
    client = flame.client
    hammering = client.submit(hammer, "victim", 0.05)
    for _ in range(10):
        victims = client.map(spin, [0.0005] * 50, key="victim", pure=False)
        others = client.map(spin, [0.0005] * 50, key="other", pure=False)
        done = await asyncio.wait_for(client.gather(victims + others), 120)
        assert done == ["done"] * 100
        del victims, others
    await hammering.cancel()
    assert await asyncio.wait_for(client.submit(_pool_threads), 60) <= 3
    assert flame.ended == []


def began(scheduler: Scheduler, key: str) -> bool:
    return key in scheduler.tasks and scheduler.tasks[key].state in ("processing", "memory")


@pytest.mark.asyncio
async def test_cancelled_and_wanted_again_while_it_goes_on(flame: Runners) -> None:
    await flame.boot("one", "two")
    client = flame.client
    scheduler = flame.scheduler
    for i in range(20):
        key = f"again-{i}"
        future = client.submit(spin, 0.2, key=key)
        # It may have ended before anybody has looked.
        await flame.until(lambda key=key: began(scheduler, key), "runs")
        # By this the client sends its two words right behind each other.
        future.release()
        await flame.until(lambda key=key: key not in client.futures, "it is released")
        again = client.submit(spin, 0.2, key=key)
        assert await asyncio.wait_for(again, 60) == "done"


@pytest.mark.asyncio
async def test_a_call_that_has_seceded_is_interrupted(either: Runners) -> None:
    def secedes() -> None:
        with worker_client():
            spin()

    await either.boot("one")
    for _ in range(3):
        with dask.annotate(timeout=0.3):
            future = either.client.submit(secedes, pure=False)
        with pytest.raises(CallTimeout):
            await asyncio.wait_for(future, 60)
        del future
    assert await asyncio.wait_for(either.client.submit(spin, 0), 60) == "done"


@pytest.mark.asyncio
async def test_a_call_interrupted_while_it_rejoins_leaves_the_pool_whole(
    stock: Runners, tmp_path: Path
) -> None:
    def rejoins(flag: Path) -> None:
        with worker_client():
            while not flag.exists():
                time.sleep(0.01)
        # Leaving the block waits for a thread, and the only one is the other call's.

    def other(flag: Path) -> str:
        flag.touch()
        time.sleep(1.5)
        return "done"

    await stock.boot("one")
    for i in range(3):
        flag = tmp_path / str(i)
        with dask.annotate(timeout=0.7):
            late = stock.client.submit(rejoins, flag, pure=False)
        done = await asyncio.wait_for(stock.client.submit(other, flag, pure=False), 60)
        assert done == "done"
        with pytest.raises(CallTimeout):
            await asyncio.wait_for(late, 60)
        del late
    assert await asyncio.wait_for(stock.client.submit(_pool_threads), 60) == 1


# Calls that wait for calls


@pytest.mark.asyncio
@pytest.mark.parametrize("call", [tree, tree_of_coroutines])
async def test_calls_that_wait_for_calls_need_one_slot_in_all(call: Any, either: Runners) -> None:
    await either.boot("one")
    for _ in range(3):
        future = either.client.submit(call, 3, pure=False)
        assert await asyncio.wait_for(future, 60) == 10


@pytest.mark.asyncio
async def test_no_more_calls_execute_than_there_are_slots(flame: Runners, tmp_path: Any) -> None:
    await flame.boot("one", concurrency=2)
    await flame.boot("two", concurrency=1)
    futures = flame.client.map(crowd, [str(tmp_path)] * 4, [2] * 4, pure=False)
    assert max(await asyncio.wait_for(flame.client.gather(futures), 60)) <= 2


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_a_call_is_interrupted_while_it_waits_for_another(how: str, flame: Runners) -> None:
    def waits() -> None:
        get_client().submit(spin, key="inner").result()

    await flame.boot("one")
    scheduler = flame.scheduler
    assert isinstance(scheduler, Listening)
    annotations = {"timeout": 1.0} if how == "timeout" else {}
    with dask.annotate(**annotations):
        future = flame.client.submit(waits)
    await flame.until(
        lambda: "inner" in scheduler.tasks and scheduler.tasks["inner"].state == "processing",
        "the inner call runs",
    )
    if how == "cancel":
        await future.cancel()
    else:
        with pytest.raises(CallTimeout):
            await future
    start = time.monotonic()
    await flame.until(lambda: "inner" not in scheduler.tasks, "nobody wants the inner call")
    # At once, not when a wait of 10 s has ended.
    assert await asyncio.wait_for(flame.client.submit(spin, 0), 60) == "done"
    assert time.monotonic() - start < 8


@pytest.mark.asyncio
async def test_waiting_with_a_timeout_inside_a_call(either: Runners) -> None:
    def impatient() -> str:
        future = get_client().submit(linger, 1, pure=False)
        try:
            future.result(timeout=0.2)
        except TimeoutError as error:
            return str(error)
        return ""

    await either.boot("one")
    said = await asyncio.wait_for(either.client.submit(impatient), 60)
    assert said == "timed out after 0.2 s."


@pytest.mark.asyncio
async def test_an_error_of_an_inner_call_reaches_the_outer_one(flame: Runners) -> None:
    def fails() -> None:
        raise KeyError("inner")

    def outer() -> str:
        try:
            get_client().submit(fails, pure=False).result()
        except KeyError as error:
            return str(error)
        return ""

    await flame.boot("one")
    assert await flame.client.submit(outer) == "'inner'"


# How a runner goes


@pytest.mark.asyncio
async def test_a_sigterm_is_told_and_the_runner_goes_on(flame: Runners) -> None:
    await flame.boot("one")
    scheduler = flame.scheduler
    assert isinstance(scheduler, Listening)
    future = flame.client.submit(spin, 1)
    await flame.until(lambda: any(w.processing for w in scheduler.workers.values()), "it runs")
    ws = next(iter(scheduler.workers.values()))
    os.kill(ws.pid, signal.SIGTERM)
    await flame.until(lambda: scheduler.words(LEAVING), "it says so")
    assert scheduler.words(LEAVING)[0]["why"] == "preempted (SIGTERM)"
    assert await future == "done"
    assert flame.ended == []
    await scheduler.remove_worker(ws.address, stimulus_id="test", close=True)
    await flame.gone("one")
    assert flame.ended[0].why == "exit code 0"


@pytest.mark.asyncio
async def test_a_second_sigterm_is_the_last(flame: Runners) -> None:
    await flame.boot("one")
    scheduler = flame.scheduler
    assert isinstance(scheduler, Listening)
    flame.client.submit(spin, 600)
    ws = next(iter(scheduler.workers.values()))
    os.kill(ws.pid, signal.SIGTERM)
    await flame.until(lambda: scheduler.words(LEAVING), "it says so")
    os.kill(ws.pid, signal.SIGTERM)
    await flame.gone("one")
    assert flame.ended[0].why == "exit code 0"


@pytest.mark.asyncio
async def test_a_runner_that_nobody_sees_out_goes_by_itself(flame: Runners) -> None:
    await flame.boot("one", shutdown_timeout=0.5)
    ws = next(iter(flame.scheduler.workers.values()))
    os.kill(ws.pid, signal.SIGTERM)
    await flame.gone("one")
    assert flame.ended[0].why == "exit code 0"


@pytest.mark.asyncio
async def test_a_sigterm_at_a_stock_scheduler_ends_the_runner(stock: Runners) -> None:
    await stock.boot("one")
    ws = next(iter(stock.scheduler.workers.values()))
    os.kill(ws.pid, signal.SIGTERM)
    await stock.gone("one")
    assert stock.ended[0].why == "exit code 0"


@pytest.mark.asyncio
async def test_an_end_by_the_backend_is_no_preemption(flame: Runners) -> None:
    await flame.boot("one", "two")
    scheduler = flame.scheduler
    assert isinstance(scheduler, Listening)
    await flame.backend.end(["one"], grace=20)
    await flame.gone("one")
    assert [e.why for e in flame.ended] == ["exit code 0"]
    assert scheduler.words(LEAVING) == []


@pytest.mark.asyncio
async def test_an_end_while_orders_are_still_on_their_way(flame: Runners) -> None:
    large = {"config": {"flame-test": {str(i): "x" * 1000 for i in range(300)}}}
    await flame.backend.boot([flame.spec("one", **large)])
    await flame.backend.end(["one"], grace=20)
    await flame.gone("one")


# The idle check


@pytest.mark.asyncio
async def test_the_idle_check_runs_on_the_runner(flame: Runners) -> None:
    await flame.boot("one")
    ws = next(iter(flame.scheduler.workers.values()))
    rpc = flame.scheduler.rpc(ws.address)
    for check, wanted in ((lambda: 1, True), (lambda: "", False)):
        assert list(await rpc.flame_idle(function=pickle.dumps(check))) == [wanted, ""]
    pid = ws.pid
    may_end, _ = await rpc.flame_idle(function=pickle.dumps(lambda: os.getpid() == pid))
    assert may_end
    may_end, problem = await rpc.flame_idle(function=pickle.dumps(lambda: 1 / 0))
    assert may_end
    assert problem == "ZeroDivisionError: division by zero"


# Heartbeats


@pytest.mark.asyncio
async def test_a_heartbeat_that_comes_late_is_no_news(
    either: Runners, caplog: pytest.LogCaptureFixture
) -> None:
    """It was under way when its worker was removed: the larger what else is sent, the likelier."""
    await either.boot("one")
    scheduler = either.scheduler
    (address,) = scheduler.workers
    assert await scheduler.remove_worker(address, stimulus_id="test") == "OK"

    async def beat(address: str) -> int:
        """Send a heartbeat; how many warnings it brought."""
        caplog.clear()
        answer = await scheduler.rpc(scheduler.address).heartbeat_worker(
            address=address, metrics={}
        )
        assert answer == {"status": "missing"}
        return sum("unregistered worker" in record.getMessage() for record in caplog.records)

    flame = isinstance(scheduler, FlameScheduler)
    assert await beat(address) == (0 if flame else 1)
    # Of one that has never been here it says so.
    assert await beat("tcp://127.0.0.1:9") == 1
    await either.gone("one")


def test_that_a_runner_was_removed_is_not_its_own_to_tell() -> None:
    source = inspect.getsource(distributed.Worker.heartbeat)
    assert runner_start._MISSING in source
    record = logging.LogRecord("distributed.worker", 30, "", 1, runner_start._MISSING, (), None)
    assert not runner_start._is_useful(record)
    record.msg = "anything else"
    assert runner_start._is_useful(record)


# What a call leaves behind


@pytest.mark.asyncio
async def test_a_call_leaves_nothing_behind(either: Runners) -> None:
    """What a call had, was given and returned is gone when nobody wants it, without a collection.

    The garbage is collected after so many objects, however large these are.
    """
    await either.boot("one")
    client = either.client
    await client.run(gc.disable)
    been = 0
    ways: dict[str, Callable[[], Any]] = {
        "made": lambda: client.submit(make),
        "made by a coroutine": lambda: client.submit(make_in_a_coroutine),
        "made from another": lambda: client.submit(take, client.submit(make)),
        "made from an argument": lambda: client.submit(take, Thing("x")),
        "an error": lambda: client.submit(fail, client.submit(make)),
        "by way of other calls": lambda: client.submit(call_another),
        "interrupted": lambda: client.submit(swallow),
    }
    for name, way in ways.items():
        with dask.annotate(timeout=0.5 if name == "interrupted" else 60):
            future = way()
        with contextlib.suppress(ValueError, CallTimeout):
            await future
        del future
        seen: list[Any] = []

        async def all_gone(seen: list[Any] = seen) -> bool:
            seen[:] = (await client.run(what_is_there)).values()
            return all(there == 0 for _, there in seen)

        deadline = time.monotonic() + 40
        while not await all_gone():
            assert time.monotonic() < deadline, (name, seen)
            await asyncio.sleep(0.02)
        assert seen[0][0] > been, (name, seen)
        been = seen[0][0]

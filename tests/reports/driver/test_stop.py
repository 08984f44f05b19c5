"""stop() ends calls at their next report: kindly, for good, and no others."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, Future, wait

import dask_flame
from dask_flame import CallStopped, FlameCluster, FlameError, Reports, stop, stream
from dask_flame.errors import PoolError
from tests.reports.driver.stop_calls import catches, endless, looks, once, tracks
from tests.reports.driver.test_replica import stock
from tests.support.waiting import wait_for, wait_for_text

Make = Callable[..., tuple[FlameCluster, Client]]


def swallows() -> int:
    """Swallow the first errors, as a careless loop does."""
    errors = 0
    while errors < 3:
        time.sleep(0.01)
        try:
            dask_flame.report(loss=0.5)
        except Exception:
            errors += 1
    return errors


async def asynchronous() -> str:
    for _ in range(3_000):
        await asyncio.sleep(0.01)
        try:
            dask_flame.report(loss=0.5)
        except CallStopped:
            return "stopped"
    return "never stopped"


def in_thread() -> str:
    """Report from another thread of the call."""
    result: list[str] = []
    thread = threading.Thread(target=lambda: result.append(catches()))
    thread.start()
    thread.join()
    return result[0]


def _child(bound: Any, how: Any) -> None:
    n = 0
    try:
        while bound(loss=0.5) and n < 3_000:
            n += 1
            time.sleep(0.01)
        how.put("returned False")
    except CallStopped:
        how.put("raised")


def in_process() -> str:
    context = multiprocessing.get_context("spawn")
    how = context.Queue()
    child = context.Process(target=_child, args=(dask_flame.report.bind(), how))
    child.start()
    told: str = how.get(timeout=60)
    child.join()
    how.close()
    how.join_thread()
    return told


def in_program() -> int:
    """Report from a program; CallStopped ends it."""
    code = (
        "import time, dask_flame\nfor _ in range(3_000):\n"
        "    time.sleep(0.01)\n    dask_flame.report(loss=0.5)"
    )
    bound = dask_flame.report.bind()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**bound.env, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "CallStopped" in done.stderr
    return done.returncode


@pytest.fixture(scope="module", autouse=True)
def _tracker() -> None:
    # Python's own helper of multiprocessing, which ends with this process and not with a test.
    resource_tracker.ensure_running()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        FlameCluster(min=3, max=3, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(3)
        # Its runners, and the threads that show their output, are not of a single test.
        client.submit(print, "ready").result(timeout=60)
        client.run(lambda: resource_tracker.ensure_running())
        yield client


def reported(client: Client, *futures: Future) -> None:
    """Wait until these calls have reported."""
    reports = dask_flame.reports_of(client)
    wait_for(lambda: {f.key for f in futures} <= reports.calls.keys(), what="reports")


def states(client: Client, *futures: Future) -> list[tuple[str, str]]:
    calls = dask_flame.reports_of(client).calls
    return [(calls[f.key].state, calls[f.key].why) for f in futures]


@pytest.mark.process
def test_the_calls_that_are_given_are_stopped_and_no_others(client: Client) -> None:
    worse, better, other = futures = client.map(endless, range(3))
    reported(client, *futures)
    assert stop([worse, better]) is None
    wait([worse, better], timeout=60)
    assert (worse.status, better.status, other.status) == ("error", "error", "pending")
    with pytest.raises(CallStopped, match=r"endless-\w+ was stopped by dask_flame.stop\(\)"):
        worse.result()
    assert client.gather([worse, better], errors="skip") == []
    state, why = states(client, worse)[0]
    assert state == "cancelled"
    assert why.startswith("CallStopped('endless-")
    assert states(client, other) == [("running", "")]
    stop(other)
    wait(other, timeout=60)


@pytest.mark.process
@pytest.mark.parametrize(
    ("call", "raises", "result"),
    [
        (looks, False, None),
        (swallows, True, 3),
        (asynchronous, True, "stopped"),
        (in_process, True, "raised"),
        (in_process, False, "returned False"),
        (in_program, True, 1),
    ],
)
def test_a_call_that_is_stopped_may_return(
    client: Client, call: Callable[[], Any], raises: bool, result: Any
) -> None:
    future = client.submit(call, pure=False)
    reported(client, future)
    stop(future, raises=raises)
    found = future.result(timeout=60)
    assert found == result if result is not None else found >= 0
    assert states(client, future) == [("done", "")]


@pytest.mark.process
@pytest.mark.parametrize("call", [catches, in_thread])
def test_the_error_names_the_call(client: Client, call: Callable[[], str]) -> None:
    future = client.submit(call, pure=False)
    reported(client, future)
    stop(future)
    assert future.result(timeout=60) == f"{future.key} was stopped by dask_flame.stop()"


def in_program_with_reason() -> str:
    code = (
        "import time, dask_flame\ntry:\n  for _ in range(3_000):\n"
        "    time.sleep(0.01)\n    dask_flame.report(loss=0.5)\n"
        "except dask_flame.CallStopped as error:\n  print(error)"
    )
    env = {**dask_flame.report.bind().env, "PYTHONPATH": ":".join(sys.path)}
    return subprocess.check_output([sys.executable, "-c", code], env=env, text=True).strip()


@pytest.mark.process
def test_the_error_has_the_reason(client: Client) -> None:
    why = "accuracy 41\u00a0% at step 8:\n\x1b[2J the median is 63\u00a0%" + "!" * 500
    says = r"accuracy 41 % at step 8: \x1b[2J the median is 63 %!!!"
    here, child, loses = client.map(
        lambda f: f(), [catches, in_program_with_reason, endless], pure=False
    )
    reported(client, here, child)
    stop([here, child, loses], why=why)
    for error in (here.result(timeout=60), child.result(timeout=60)):
        assert f"was stopped by dask_flame.stop(): {says}" in error
        assert len(error) < 400
    # It had not begun, or it had: in both cases the reason is known.
    with pytest.raises(CallStopped, match=r"(?s)by dask_flame\.stop\(\).*: accuracy 41 % at"):
        loses.result(timeout=60)
    wait_for(lambda: "accuracy 41" in states(client, loses)[0][1])
    with pytest.raises(PoolError, match="why=3 is not a text"):
        stop(here, why=3)  # type: ignore[arg-type]


@pytest.mark.process
def test_a_call_that_waits_has_the_reason(flame: Make) -> None:
    _, client = flame(max=1)
    first, waits = client.map(endless, range(2))
    wait_for(lambda: any(client.processing().values()))
    stop(waits, why="the others are enough")
    with pytest.raises(CallStopped, match="before it began: the others are enough"):
        waits.result(timeout=60)
    stop(first, why="")
    with pytest.raises(CallStopped, match=r"(?m)stop\(\)$"):
        first.result(timeout=60)


@pytest.mark.process
@pytest.mark.parametrize(("raises", "how"), [(True, "raised"), (False, "ended")])
def test_a_tracked_loop_is_stopped_too(client: Client, raises: bool, how: str) -> None:
    future = client.submit(tracks, pure=False)
    reported(client, future)
    stop(future, raises=raises)
    told, n = future.result(timeout=60)
    assert told == how
    assert 0 < n < 2_999


@pytest.mark.process
def test_a_stopped_call_is_not_retried_and_may_be_submitted_again(client: Client) -> None:
    future = client.submit(endless, 7, retries=5, key="again")
    reported(client, future)
    stop(future)
    wait(future, timeout=60)
    assert future.status == "error"
    call = dask_flame.reports_of(client).calls["again"]
    assert (call.state, call.attempt) == ("cancelled", 1)
    future.release()
    wait_for(lambda: not client.run_on_scheduler(_known), what="the end of the task")
    future = client.submit(looks, key="again")
    calls = dask_flame.reports_of(client)

    def goes_on() -> bool:
        call = calls.get("again")
        return call.attempt == 2 and "loss" in call.series and call.series["loss"].made > 50

    wait_for(goes_on, what="reports of the second attempt")
    stop(future, raises=False)
    assert future.result(timeout=60) >= 0


def _known(dask_scheduler: Any) -> bool:
    return "again" in dask_scheduler.tasks


@pytest.mark.process
def test_a_call_that_raises_it_by_itself_counts_as_stopped(client: Client) -> None:
    def gives_up() -> None:
        dask_flame.report(loss=0.5)
        raise CallStopped("no progress")

    future = client.submit(gives_up)
    wait(future, timeout=60)
    assert states(client, future) == [("cancelled", "CallStopped('no progress')")]


@pytest.mark.process
def test_calls_that_have_ended_are_left_as_they_are(client: Client) -> None:
    done, failed = client.submit(abs, -1), client.submit(int, "x")
    wait([done, failed], timeout=60)
    stop([done, failed])
    assert done.result() == 1
    assert failed.status == "error"
    stop([])


@pytest.mark.process
def test_a_loop_over_stream_drops_the_worst_half(client: Client) -> None:
    futures = client.map(endless, [1, 2, 3], pure=False)
    losses, rest = {}, {future.key: future for future in futures}
    last: dict[Any, int] = {}
    for r in stream(futures):
        last[r.key] = r.step
        if r.step == 5:
            losses[r.key] = r.values["loss"]
            if len(losses) == 3:
                for key in sorted(losses, key=losses.__getitem__)[1:]:
                    stop(rest.pop(key))
        if r.step == 400:
            stop(rest.pop(r.key))
    assert [f.status for f in futures] == ["error"] * 3
    assert [last[f.key] >= 400 for f in futures] == [True, False, False]


@pytest.mark.process
def test_a_call_is_stopped_by_its_key(client: Client) -> None:
    futures = client.map(endless, [1, 2, 3], pure=False)
    for r in stream(futures[:1]):
        stop(r.key)
    assert [future.status for future in futures] == ["error", "pending", "pending"]
    stop([futures[1], futures[2].key])
    wait(futures, timeout=60)
    assert all(isinstance(future.exception(), CallStopped) for future in futures)
    with pytest.raises(FlameError, match="the key 'endless-0', of which this Client holds no"):
        stop("endless-0")
    with Client(client.scheduler.address, set_as_default=False) as other:
        theirs = other.submit(abs, -1, key="theirs")
        with pytest.raises(FlameError, match="is of another Client"):
            stop(theirs.key)
        stop([theirs, "theirs"])


@pytest.mark.unit
def test_a_key_without_a_client_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distributed.client._get_global_client", lambda: None)
    with pytest.raises(FlameError, match="there is no Client; write"):
        stop("train-1")


@pytest.mark.process
def test_a_call_that_waits_does_not_begin(flame: Make) -> None:
    _, client = flame(max=1)
    first = client.submit(looks)
    reported(client, first)
    second = client.submit(catches)
    stop(second)
    wait(second, timeout=60)
    with pytest.raises(CallStopped, match="before it began"):
        second.result()
    assert first.status == "pending"
    # One that is stopped before the scheduler knows it.
    third = client.submit(endless, 3)
    stop(third)
    wait(third, timeout=60)
    assert third.status == "error"
    stop(first, raises=False)
    assert first.result(timeout=60) >= 0


@pytest.mark.process
def test_a_stopped_call_whose_runner_is_killed_is_stopped_on_the_next(
    flame: Make, tmp_path: Path
) -> None:
    _, client = flame(max=1)
    began = tmp_path / "began"
    future = client.submit(once, str(began), key="once")
    pid = int(wait_for_text(began, what="the call"))
    stop(future)
    os.kill(pid, signal.SIGKILL)
    wait(future, timeout=60)
    with pytest.raises(CallStopped):
        future.result()


@pytest.mark.process
def test_it_works_on_any_dask_cluster_and_for_an_asynchronous_client() -> None:
    async def play(address: str) -> None:
        async with Client(address, asynchronous=True) as client:
            future = client.submit(catches)
            reports = await dask_flame.reports_of(client)
            began = asyncio.Event()
            reports.subscribe(lambda change: began.set())
            if future.key not in reports.calls:
                await began.wait()
            await stop(future)
            assert "was stopped" in await future

    with stock() as cluster, Client(cluster) as client:
        never = client.submit(time.sleep, 0.5)
        with pytest.raises(FlameError, match="no Reports plugin"):
            stop(never)
        client.register_plugin(Reports())
        asyncio.run(play(cluster.scheduler_address))
        never.result()


@pytest.mark.process
def test_wrong_arguments_are_refused(client: Client) -> None:
    with pytest.raises(TypeError, match=r"stop\(\) takes futures, not int"):
        stop(3)  # type: ignore[arg-type]
    with pytest.raises(dask_flame.PoolError, match="raises='no' is not True or False"):
        stop(client.submit(abs, 1), raises="no")  # type: ignore[arg-type]

"""The frames of calls that have failed, and cells in them and beside calls, on their runner."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from typing import Any

import pytest
from distributed import Event

import dask_flame
from dask_flame.errors import AttachError, CallStopped, CellError, FlameError
from dask_flame.runner.post_mortems import PostMortems
from tests.support.waiting import wait_for

BASKETS = "import gc; gc.collect(); sum(type(o).__name__ == 'Basket' for o in gc.get_objects())"


class Basket:
    """Something that a call holds."""


def deep(batch: list[int], api_key: str) -> float:
    total = sum(batch)
    basket = Basket()
    assert basket
    return total / 0


def train(n: int) -> float:
    batch = list(range(n))
    return deep(batch, api_key="hunter2-hunter2")


async def later(n: int) -> None:
    twice = 2 * n
    await asyncio.sleep(0)
    raise ValueError(f"no {twice}")


def loops(event: str) -> int:
    stop = Event(event)
    while not stop.is_set():
        for _ in range(10_000):
            pass
    return os.getpid()


def _failed(kept: PostMortems, key: str, function: Any, *args: Any) -> BaseException:
    try:
        function(*args)
    except Exception as error:
        kept.failed(key, error)
        return error
    raise AssertionError("it has not failed")


@pytest.mark.unit
def test_the_last_failures_are_kept_and_the_others_released() -> None:
    kept = PostMortems("runner-1", most=2)
    released: list[str] = []
    for key in ("a", "b", "c"):
        error = _failed(kept, key, train, 3)
        assert kept.takes(key, lambda key=key: released.append(key))  # type: ignore[misc]
        del error
    assert released == ["a"]
    assert [f["locals"]["n"] for f in kept.failure("c")["frames"] if "n" in f["locals"]] == ["3"]
    with pytest.raises(LookupError, match="does not keep the frames of a any more: it keeps those"):
        kept.failure("a")
    with pytest.raises(LookupError, match="has 3 frames; write a number from 0"):
        kept.names("c", 3)
    kept.release("b")
    kept.release()
    assert released == ["a", "b", "c"]


@pytest.mark.unit
def test_what_variables_refer_to_is_released_with_the_frames() -> None:
    kept = PostMortems("runner-1")
    _failed(kept, "a", train, 3).__traceback__ = None
    basket = weakref.ref(kept.names("a", -1)["basket"])
    gc.collect()
    assert basket() is not None
    kept.release()
    gc.collect()
    assert basket() is None


@pytest.mark.unit
def test_secrets_and_stopped_calls_are_not_kept() -> None:
    kept = PostMortems("runner-1")
    _failed(kept, "a", train, 3)
    assert "hunter2" not in repr(kept.failure("a"))
    assert kept.failure("a")["frames"][-1]["locals"]["api_key"] == "…"

    def stopped() -> None:
        raise CallStopped("by the driver")

    _failed(kept, "b", stopped)
    assert not kept.takes("b", lambda: None)


@pytest.mark.process
def test_frames_of_failed_calls_are_there_until_the_runner_ends(flame: Any) -> None:
    cluster, client = flame(max=1, post_mortem=True, idle_timeout="1h")
    future = client.submit(train, 5, key="train")
    pm = dask_flame.post_mortem(future)
    assert (pm.call, pm.runner, pm.error) == (
        "train",
        "runner-1",
        "ZeroDivisionError: division by zero",
    )
    assert [frame.line.function for frame in pm.frames] == ["train", "deep"]
    assert pm.frames[-1].locals["total"] == "10"
    assert pm.frames[-1].line.source == "return total / 0"
    assert "hunter2" not in f"{pm!r}{pm._repr_html_()}"
    with pm:
        assert pm.run("total * 2") == 20
        assert pm.frame(0).run("len(batch), n") == (5, 5)
        assert pm.run("total = 3; total") == 3
        with pytest.raises(CellError, match="division by zero"):
            pm.run("train(1)")
    # The frame itself did not change.
    assert dask_flame.post_mortem(future).frames[-1].locals["total"] == "10"
    for wrong in (2, -3, 0.5, "deep"):
        with pytest.raises(FlameError, match=r"has 2 frames; write frame\(0\)"):
            pm.frame(wrong)  # type: ignore[arg-type]
    # Of a call that depends on it, and of one on the event loop.
    follower = client.submit(str, future)
    assert dask_flame.post_mortem(follower).call == "train"
    on_the_loop = client.submit(later, 4, key="later")
    other = dask_flame.post_mortem(on_the_loop)
    assert other.frames[-1].locals == {"n": "4", "twice": "8"}
    # Released although a cell could use it, and although the future is gone.
    outermost, innermost = pm.frame(0), pm.frame(1)
    assert (outermost.run("n"), innermost.run("total")) == (5, 10)
    assert innermost.run("type(basket).__name__") == "Basket"
    runner = cluster.runners["runner-1"].attach()
    assert runner.run(BASKETS) == 1
    del future, follower
    wait_for(lambda: "train" not in client.futures)
    pm.release()
    pm.release()
    for each in (outermost, innermost):
        wait_for(lambda each=each: not each._attached.attached)  # type: ignore[misc]
    wait_for(lambda: runner.run(BASKETS) == 0)
    runner.detach()
    with pytest.raises(AttachError, match="does not keep the frames of train any more"):
        pm.run("1")
    with pytest.raises(FlameError, match="has not failed: it is finished"):
        dask_flame.post_mortem(client.submit(int))
    # It ends at its idle end with the frames that it holds, and an attachment to them.
    assert other.run("twice") == 8
    cluster.resize(idle_timeout="0.2s")
    wait_for(lambda: not cluster.runners)
    with pytest.raises(FlameError, match="runner-1, on which later has failed, has ended"):
        dask_flame.post_mortem(on_the_loop)
    with pytest.raises(AttachError, match="there is no runner runner-1 that is up"):
        other.run("twice")
    other.release()


@pytest.mark.process
def test_without_the_option_the_error_says_so(flame: Any) -> None:
    _, client = flame(max=1)
    with pytest.raises(FlameError, match=r"runner-1 keeps no frames; write Pool\(post_mort"):
        dask_flame.post_mortem(client.submit(train, 5))
    with pytest.raises(TypeError, match="is not a future; write"):
        dask_flame.post_mortem("train")  # type: ignore[arg-type]


@pytest.mark.process
def test_cells_run_beside_a_call_and_are_interrupted(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="2s")
    call = client.submit(loops, "stop", key="the loop")
    wait_for(lambda: any(runner.busy for runner in cluster.runners.values()))
    outputs: list[dict[str, Any]] = []
    with cluster.runners["runner-1"].attach() as runner:
        pid = runner.run("import os; os.getpid()")
        assert pid == runner.pid != os.getpid()
        # There is one slot, which the call has: the cell does not wait, and does not count.
        assert cluster.runners["runner-1"].busy == 1
        assert runner.run_cell("print('hello'); 1 + 1", on_output=outputs.append).value == {
            "text/plain": "2"
        }
        assert "".join(o["text"] for o in outputs if o["type"] == "stream") == "hello\n"
        assert "getpid" in runner.complete("os.getp")
        found = runner.stacks()
        assert [t.call for t in found.threads if t.call] == ["the loop"]
        endless = "begun = True\nwhile True:\n    pass"
        ended: list[Any] = []
        cell = threading.Thread(target=lambda: ended.append(runner.run_cell(endless)))
        cell.start()
        wait_for(lambda: _names(runner))
        # Threads that run cells are shown, and those that serve the notebook are not.
        threads = [thread.name for thread in runner.stacks().threads]
        assert "dask-flame-attached-cell" in threads
        assert "dask-flame-attach" not in threads
        runner.interrupt()
        cell.join()
        assert ended[0].error.name == "KeyboardInterrupt"
        # Neither the call nor the runner was harmed.
        Event("stop", client=client).set()
        assert call.result() == pid
        # An attachment does not keep the runner.
        wait_for(lambda: not cluster.runners)
        wait_for(lambda: not runner.attached)
    with pytest.raises(FlameError, match="the attachment is over"):
        runner.run("1")


def _names(runner: Any) -> bool:
    return "begun" in runner.names()


@pytest.mark.process
def test_there_is_a_clear_error_for_a_runner_that_is_not_there(flame: Any) -> None:
    cluster, client = flame(max=1)
    client.submit(time.time).result()
    runner = cluster.runners["runner-1"]
    client.retire_workers(list(client.scheduler_info()["workers"]))
    wait_for(lambda: not cluster.runners)
    with pytest.raises(AttachError, match="there is no runner runner-1 that is up; there are:"):
        runner.attach()

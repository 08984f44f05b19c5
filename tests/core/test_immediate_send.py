"""What is said on a stream, over a real connection."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from distributed.batched import BatchedSend
from distributed.comm import Comm, CommClosedError, connect, listen

from dask_flame.core.immediate_send import ImmediateSender, SuccessorSender
from tests.support.waiting import until

pytestmark = [pytest.mark.process, pytest.mark.asyncio]


class Line:
    """A sender, and what arrives at the other end of its connection."""

    def __init__(self, comm: Comm, arrived: asyncio.Queue[Any]) -> None:
        self.comm = comm
        self.arrived = arrived
        self.sender = ImmediateSender()

    async def heard(self) -> Any:
        return await asyncio.wait_for(self.arrived.get(), 40)


@pytest_asyncio.fixture
async def line() -> AsyncIterator[Line]:
    arrived: asyncio.Queue[Any] = asyncio.Queue()

    async def hear(comm: Comm) -> None:
        with contextlib.suppress(CommClosedError):
            while True:
                arrived.put_nowait(list(await comm.read()))

    async with listen("tcp://127.0.0.1", hear) as listener:
        comm = await connect(listener.contact_address)
        made = Line(comm, arrived)
        yield made
        made.sender.abort()
        comm.abort()


async def test_what_is_said_in_one_turn_goes_together_and_at_once(line: Line) -> None:
    line.sender.send("before", "the start")
    line.sender.start(line.comm)
    line.sender.send("too")
    assert await line.heard() == ["before", "the start", "too"]
    for turn in range(20):
        line.sender.send(turn)
        line.sender.send("and")
        assert await line.heard() == [turn, "and"]
    assert line.sender.message_count == 43
    assert line.sender.batch_count == 21
    assert line.sender.byte_count > 0


async def test_nothing_is_lost_or_out_of_order_while_something_large_is_written(line: Line) -> None:
    line.sender.start(line.comm)
    large = b"x" * 20_000_000  # beyond what distributed serialises in the loop
    line.sender.send("first", large)
    got: list[Any] = []
    said = 0
    while len(got) < 2 + said or said < 50:
        if said < 50:
            line.sender.send(said)
            said += 1
            await asyncio.sleep(0)
        else:
            got += await line.heard()
    assert got == ["first", large, *range(50)]
    assert not line.sender.recent_message_log  # of up to a megabyte each, 1,000 had been kept


async def test_closing_says_what_is_left(line: Line) -> None:
    line.sender.start(line.comm)
    line.sender.send("one")
    await line.sender.close()
    assert await line.heard() == ["one"]
    assert line.comm.closed()
    assert line.sender.stopped.is_set()
    with pytest.raises(CommClosedError):
        line.sender.send("two")


async def test_a_connection_that_breaks_ends_it(line: Line) -> None:
    line.sender.start(line.comm)
    line.sender.send("one")
    assert await line.heard() == ["one"]
    line.sender.send("two")
    line.comm.abort()
    await asyncio.wait_for(line.sender.stopped.wait(), 40)
    with pytest.raises(CommClosedError):
        line.sender.send("three")
    await line.sender.close()  # has nothing to do


async def test_what_cannot_be_sent_ends_the_connection(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn:
        def __reduce__(self) -> Any:
            raise RuntimeError("not to be pickled")

    line.sender.start(line.comm)
    line.sender.send("one", Stubborn())
    await asyncio.wait_for(line.sender.stopped.wait(), 40)
    assert "could not be sent" in caplog.text
    assert line.comm.closed()


async def test_nothing_is_said_of_a_large_message_that_is_left_when_python_exits(
    line: Line, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python sets it when the main thread has ended.
    monkeypatch.setattr("concurrent.futures.thread._shutdown", True)
    line.sender.start(line.comm)
    line.sender.send({"op": "large", "data": [b"0" * 1_000_000] * 100})
    await until(line.comm.closed)
    assert caplog.text == ""


async def test_nothing_is_done_while_nothing_is_said(line: Line) -> None:
    line.sender.start(line.comm)
    line.sender.send("one")
    assert await line.heard() == ["one"]
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    # What an interval would leave behind: a timer for after the message.
    assert not [t for t in loop._scheduled if not t.cancelled() and t.when() < loop.time() + 1]  # type: ignore[attr-defined]


async def test_one_that_is_forgotten_leaves_nothing_behind(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    line.sender.start(line.comm)
    line.sender.send("once")
    assert await line.heard() == ["once"]
    gone = weakref.ref(line.sender)
    line.sender = ImmediateSender()
    # asyncio logs an error for a task that is destroyed before its end.

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    await until(is_gone)
    assert not caplog.records


async def test_an_interval_is_kept_while_it_is_set(line: Line) -> None:
    loop = asyncio.get_running_loop()
    line.sender.interval = 30.0
    line.sender.start(line.comm)
    line.sender.send("one")
    assert await line.heard() == ["one"]
    line.sender.send("two")

    def timers() -> list[asyncio.TimerHandle]:
        return [t for t in loop._scheduled if 20 < t.when() - loop.time() < 31]  # type: ignore[attr-defined]

    await until(timers)
    assert line.arrived.empty()
    line.sender.send("three")
    line.sender.interval = 0.0
    (timer,) = timers()
    timer._run()  # as the loop does after the interval
    timer.cancel()
    assert await line.heard() == ["two", "three"]
    line.sender.send("four")
    assert await line.heard() == ["four"]


@pytest.mark.parametrize("turns", range(4))
async def test_a_successor_sends_what_is_left_in_order(line: Line, turns: int) -> None:
    before = BatchedSend(interval="1h")
    before.start(line.comm)
    before.send("one", b"x" * 20_000_000)  # pickled in a thread: the writing takes several turns
    for _ in range(turns):
        await asyncio.sleep(0)
    before.send("two")
    line.sender = SuccessorSender(before)
    line.sender.send("three")
    got: list[Any] = []
    while len(got) < 4:
        got += await line.heard()
    assert [got[0], *got[2:]] == ["one", "two", "three"]
    line.sender.send("four")
    assert await line.heard() == ["four"]
    assert before.stopped.is_set()
    await line.sender.close()
    assert line.comm.closed()


async def test_a_successor_of_a_broken_connection_ends(line: Line) -> None:
    before = BatchedSend(interval=0)
    before.start(line.comm)
    before.send("one")
    assert await line.heard() == ["one"]
    line.comm.abort()
    line.sender = SuccessorSender(before)
    with pytest.raises(CommClosedError):
        line.sender.send("two")
    line.sender.abort()
    await asyncio.wait_for(line.sender.stopped.wait(), 40)

"""Frames of bytes over a socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dask_flame.comm.channel import _BUFFER, _LARGE, _TOGETHER, Channel
from tests.support.waiting import until

pytestmark = pytest.mark.process

sizes = st.sampled_from(
    [0, 1, 7, 8, _LARGE - 1, _LARGE, _LARGE + 1, _BUFFER - 8, _BUFFER, _TOGETHER, 1 << 20]
) | st.integers(0, 2 * _LARGE)
messages = st.lists(st.lists(sizes, max_size=6), min_size=1, max_size=6)


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[Channel, Channel]]:
    here, there = socket.socketpair()
    for sock in (here, there):
        sock.setblocking(False)
    channels = Channel(here), Channel(there)
    try:
        yield channels
    finally:
        for channel in channels:
            channel.close()


def filled(sizes: list[int], seed: int) -> list[bytes]:
    return [
        bytes((seed + n + i) % 251 for i in range(16)).ljust(s, b"x")[:s]
        for n, s in enumerate(sizes)
    ]


@given(messages)
@example([[_LARGE - 1] * 5, [1], [_BUFFER * 3, 0, 1, _LARGE]])
def test_frames_arrive_as_they_were_sent(sent: list[list[int]]) -> None:
    async def play() -> None:
        async with pair() as (here, there):
            expected = [filled(sizes, n) for n, sizes in enumerate(sent)]
            for frames in expected:
                assert here.send(frames) == 8 + sum(8 + len(frame) for frame in frames)
            for frames in expected:
                received = await asyncio.wait_for(there.receive(), 60)
                assert [bytes(frame) for frame in received] == frames
                assert not any(frame.readonly for frame in received)

    asyncio.run(play())


@pytest.mark.asyncio
async def test_more_than_a_system_call_takes_is_sent_in_order() -> None:
    frames = [bytes([n % 251]) * 300 for n in range(2000)]
    async with pair() as (here, there):
        here.send(frames)
        here.send([b"next"])
        assert [bytes(f) for f in await there.receive()] == frames
        assert [bytes(f) for f in await there.receive()] == [b"next"]


@pytest.mark.asyncio
async def test_a_large_frame_has_memory_of_its_own() -> None:
    async with pair() as (here, there):
        here.send([b"a" * _LARGE, b"b" * _LARGE])
        one, two = await there.receive()
        assert one.obj is not two.obj


@pytest.mark.asyncio
async def test_what_nobody_takes_waits_in_the_socket() -> None:
    async with pair() as (here, there):
        here.send([b"x" * (8 << 20)])
        await asyncio.sleep(0)
        # The other side stops reading when its buffer is full, and does not spin.
        await until(lambda: not there._reading)
        assert asyncio.get_running_loop().remove_reader(there._sock.fileno()) is False
        assert len((await there.receive())[0]) == 8 << 20


@pytest.mark.asyncio
async def test_flush_waits_until_all_is_sent() -> None:
    async with pair() as (here, there):
        here.send([b"x" * (8 << 20)])
        flushing = asyncio.ensure_future(here.flush())
        await asyncio.sleep(0)
        assert not flushing.done()
        await there.receive()
        await asyncio.wait_for(flushing, 60)
        await here.flush()


@pytest.mark.parametrize("part", [0, 3, 20, 8 + 8 + _LARGE])
@pytest.mark.asyncio
async def test_the_end_of_the_other_side_ends_what_waits(part: int) -> None:
    here, there = socket.socketpair()
    here.setblocking(False)
    channel = Channel(here)
    message = (1).to_bytes(8, "little") + (2 * _LARGE).to_bytes(8, "little") + b"x" * 2 * _LARGE
    receiving = asyncio.ensure_future(channel.receive())
    await asyncio.to_thread(there.sendall, message[:part])
    there.close()
    with pytest.raises(EOFError):
        await asyncio.wait_for(receiving, 60)
    assert channel.ended
    with pytest.raises(EOFError):
        await channel.receive()
    channel.close()


@pytest.mark.asyncio
async def test_what_came_before_the_end_can_be_received() -> None:
    async with pair() as (here, there):
        here.send([b"last words"])
        here.close()
        await until(lambda: there.ended)
        assert [bytes(f) for f in await there.receive()] == [b"last words"]
        with pytest.raises(EOFError):
            await there.receive()


@pytest.mark.asyncio
async def test_what_is_sent_to_a_side_that_has_gone_is_lost_and_nothing_else() -> None:
    async with pair() as (here, there):
        there.send([b"last words"])
        there.close()
        for _ in range(3):
            assert here.send([b"x" * _TOGETHER]) > _TOGETHER
        await asyncio.wait_for(here.flush(), 60)
        assert [bytes(f) for f in await here.receive()] == [b"last words"]
        with pytest.raises(EOFError):
            await here.receive()
        here.close()
        with pytest.raises(EOFError):
            here.send([b"x"])


@pytest.mark.asyncio
async def test_a_side_that_goes_while_much_is_sent_to_it() -> None:
    async with pair() as (here, there):
        there.send([b"last words"])
        here.send([b"x" * (8 << 20)])
        flushing = asyncio.ensure_future(here.flush())
        await asyncio.sleep(0)
        there.close()
        await asyncio.wait_for(flushing, 60)
        assert [bytes(f) for f in await here.receive()] == [b"last words"]


@pytest.mark.asyncio
async def test_closing_ends_what_waits_on_this_side() -> None:
    async with pair() as (here, there):
        receiving = asyncio.ensure_future(there.receive())
        here.send([b"x" * (8 << 20)])
        flushing = asyncio.ensure_future(here.flush())
        await asyncio.sleep(0)
        here.close()
        there.close()
        await asyncio.wait_for(flushing, 60)
        with pytest.raises(EOFError):
            await asyncio.wait_for(receiving, 60)


@pytest.mark.asyncio
async def test_a_copy_of_the_socket_in_another_process_does_not_keep_it_open() -> None:
    async with pair() as (here, there):
        copy = here._sock.dup()
        here.close()
        with pytest.raises(EOFError):
            await asyncio.wait_for(there.receive(), 60)
        copy.close()


@pytest.mark.asyncio
async def test_it_is_closed_from_another_thread() -> None:
    async with pair() as (here, there):
        thread = threading.Thread(target=here.close_from_anywhere)
        thread.start()
        with pytest.raises(EOFError):
            await asyncio.wait_for(there.receive(), 60)
        await asyncio.to_thread(thread.join)
        assert here.closed


def test_it_is_closed_after_its_event_loop() -> None:
    async def make() -> Channel:
        here, there = socket.socketpair()
        here.setblocking(False)
        there.close()
        return Channel(here)

    channel = asyncio.run(make())
    channel.close_from_anywhere()
    assert channel.closed
    assert channel._sock.fileno() == -1

"""Frames of bytes over a socket, on the current event loop (all places).

Tornado's streams, on which Dask's own connections are built, take most of the time of a small
message.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Sequence

from distributed.protocol.utils import host_array

#: Bytes to read at a time, unless a large frame is expected.
_BUFFER = 1 << 16
#: Frames from this size (bytes) on are read into memory of their own, without a copy.
_LARGE = 1 << 14
#: Messages up to this size (bytes) are sent in one piece.
_TOGETHER = 1 << 17
#: Maximum number of frames in one system call; Linux takes 1,024.
_AT_ONCE = 512
#: System calls in a row before the event loop does anything else.
_IN_A_ROW = 16
_LENGTH = struct.Struct("Q")


class Channel:
    """Send and receive lists of frames.

    The number of frames is sent first, then their lengths, each as eight bytes in the machine's
    order, then the frames.

    Parameters
    ----------
    sock : socket.socket
        Connected and non-blocking; the channel closes it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        # Of NumPy, if it is there: memory that is not touched is not used.
        self._buffer: memoryview = host_array(_BUFFER)
        self._begin = self._end = 0  # unread bytes in the buffer
        self._target: memoryview | None = None  # rest of a large frame that is expected
        self._reading = True
        self._received: asyncio.Future[None] | None = None
        self._unsent: deque[memoryview] = deque()
        self._sent: asyncio.Future[None] | None = None
        self._broken = False  # nobody reads what is sent
        self.closed = False
        #: Whether either side has closed it; what was sent before can still be received.
        self.ended = False
        self._loop.add_reader(sock.fileno(), self._readable)

    # Reading

    async def receive(self) -> list[memoryview]:
        """Return the next list of frames, in writable memory.

        Raises
        ------
        EOFError
            The channel is closed, by either side. Nothing can be received after it, or after the
            cancellation of this coroutine.
        """
        (count,) = _LENGTH.unpack(await self._take(_LENGTH.size))
        lengths = struct.unpack(f"{count}Q", await self._take(_LENGTH.size * count))
        if (total := sum(lengths)) < _LARGE:
            whole, frames, begin = await self._take(total), [], 0
            for length in lengths:
                frames.append(whole[begin : begin + length])
                begin += length
            return frames
        # Each in memory of its own, which can be freed alone.
        return [await self._take(length) for length in lengths]

    async def _take(self, count: int) -> memoryview:
        """Return so many bytes."""
        if count < _LARGE:
            while self._end - self._begin < count:
                await self._more()
            begin = self._begin
            self._begin += count
            return memoryview(bytearray(self._buffer[begin : begin + count]))
        frame: memoryview = host_array(count)
        begun = min(self._end - self._begin, count)
        frame[:begun] = self._buffer[self._begin : self._begin + begun]
        self._begin += begun
        self._target = frame[begun:]
        try:
            while self._target:
                await self._more()
        finally:
            self._target = None
        return frame

    async def _more(self) -> None:
        """Wait until something has been read, or raise EOFError."""
        if self.ended:
            raise EOFError
        if not self._reading:
            self._reading = True
            self._loop.add_reader(self._sock.fileno(), self._readable)
        self._received = self._loop.create_future()
        await self._received
        self._received = None

    def _readable(self) -> None:
        try:
            self._read()
        except (BlockingIOError, InterruptedError):
            pass  # a large frame may have become complete before
        except OSError:
            self.ended = True
        if self.ended:
            self._stop_reading()
        if self._received is not None and not self._received.done():
            self._received.set_result(None)

    def _read(self) -> None:
        for _ in range(_IN_A_ROW):
            if not self._target:
                break
            count = self._sock.recv_into(self._target)
            self._target = self._target[count:]
            if not count:
                self.ended = True
                return
        else:
            return
        if self._begin == self._end:
            self._begin = self._end = 0
        elif self._end == _BUFFER:
            left = self._end - self._begin
            self._buffer[:left] = bytes(self._buffer[self._begin : self._end])
            self._begin, self._end = 0, left
        if self._end == _BUFFER:
            self._stop_reading()  # until somebody takes it
            return
        count = self._sock.recv_into(self._buffer[self._end :])
        self._end += count
        self.ended = not count

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    # Writing

    def send(self, frames: Sequence[bytes | memoryview]) -> int:
        """Send frames, and keep what the socket does not take at once; return the bytes.

        What is sent to a side that has gone is lost, as with TCP: what it sent before can still be
        received, and is followed by the end.

        Parameters
        ----------
        frames : sequence of bytes or memoryview
            Contiguous, of single bytes. They must not change until they are sent.

        Raises
        ------
        EOFError
            The channel is closed, by either side.
        """
        if self.closed:
            raise EOFError
        lengths = [len(frame) for frame in frames]
        header = struct.pack(f"{len(lengths) + 1}Q", len(lengths), *lengths)
        total = len(header) + sum(lengths)
        if total <= _TOGETHER:
            parts = [memoryview(b"".join((header, *frames)))]
        else:
            parts = [memoryview(part) for part in (header, *frames) if part]
        if self._broken:
            return total
        if self._unsent:
            self._unsent.extend(parts)
            return total
        self._unsent.extend(parts)
        self._write()
        if self._unsent and not self.closed:
            self._loop.add_writer(self._sock.fileno(), self._writable)
        return total

    def _write(self) -> None:
        """Send as much as the socket takes now.

        Raises
        ------
        EOFError
        """
        try:
            for _ in range(_IN_A_ROW):
                if not self._unsent:
                    break
                if len(self._unsent) == 1:
                    count = self._sock.send(self._unsent[0])
                else:
                    some = [self._unsent[n] for n in range(min(len(self._unsent), _AT_ONCE))]
                    count = self._sock.sendmsg(some)
                while count:
                    first = self._unsent[0]
                    if count < len(first):
                        self._unsent[0] = first[count:]
                        break
                    count -= len(first)
                    self._unsent.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._broken = True
            self._unsent.clear()
        except OSError as error:
            self.close()
            raise EOFError from error

    def _writable(self) -> None:
        with contextlib.suppress(EOFError):
            self._write()
        if not self._unsent and not self.closed:
            self._loop.remove_writer(self._sock.fileno())
            if self._sent is not None and not self._sent.done():
                self._sent.set_result(None)

    async def flush(self) -> None:
        """Wait until all has been sent, or the channel is closed."""
        if self._unsent and not self.closed:
            if self._sent is None or self._sent.done():
                self._sent = self._loop.create_future()
            await asyncio.shield(self._sent)

    # The end

    def close(self) -> None:
        """Close the socket at once; who waits for a message gets an EOFError."""
        if self.closed:
            return
        self.closed = self.ended = True
        if not self._loop.is_closed():
            self._stop_reading()
            self._loop.remove_writer(self._sock.fileno())
        self._unsent.clear()
        with contextlib.suppress(OSError):
            # Forked children may have the socket, too: closing alone would not end the connection.
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for waiter in (self._received, self._sent):
            if waiter is not None and not waiter.done() and not self._loop.is_closed():
                waiter.set_result(None)

    def close_from_anywhere(self) -> None:
        """Close the socket from another thread, or when the event loop is gone."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.close)
            return
        self.close()

"""Replace the standard streams of a runner, and attribute output to the call that writes (runner).

Lines of concurrent calls are kept apart: text is buffered by call, stream and thread until its line
ends or is flushed. There are no locks, because a call may fork a process while other threads write,
and may be interrupted anywhere.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from threading import get_ident
from time import monotonic
from typing import Any, Protocol

from dask.typing import Key

from dask_flame.core import current_call
from dask_flame.core.current_call import within
from dask_flame.core.distributed_internals import workers
from dask_flame.core.messages import CALL_NAME
from dask_flame.core.rate_limit import Limits, RateLimit, left_out
from dask_flame.core.text import label
from dask_flame.prints.frames import BOTH, FREE, KEEP, SHOW, short
from dask_flame.prints.lines import LONGEST

#: Maximum number of pieces, and of characters, to buffer of an unfinished line.
_MAX_PIECES, _MAX_TEXT = 200, 8192
#: Number of last dropped lines to show once the output has stopped.
_LAST_LINES = 10
#: Number of calls to remember, including ended ones whose threads may still print.
_MAX_CALLS = 1_000


class Transport(Protocol):
    """Transport of output to the driver.

    Attributes
    ----------
    beside : bool
        Whether the output is also written to the original stream.
    rest : str
        Where to find lines that are not shown.
    """

    beside: bool
    rest: str

    def send(self, source: Source, stream: int, text: str, kind: str) -> bool:
        """Send output; return False if it was dropped because the buffer is full.

        Parameters
        ----------
        source : Source
            The call that prints.
        stream : int
            1 for standard output, 2 for standard error.
        text : str
            The output.
        kind : str
            Kind of the piece, such as :data:`dask_flame.prints.frames.BOTH`.

        Returns
        -------
        bool
        """

    def end(self, source: Source) -> None:
        """Record that a source has ended."""


class Source:
    """One execution of a call that prints.

    Parameters
    ----------
    prints : PrintStreams
        Streams of the process.
    number : int
        Number of the execution.
    name : str
        Short name of the call.

    Attributes
    ----------
    number : int
        Number of this execution on the runner.
    name : str
        Short name of the call.
    parts : tuple of dict
        Text of unfinished lines, by stream and thread.
    made : dict
        Cache for the transport, by kind and stream.
    """

    def __init__(self, prints: PrintStreams, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.made: dict[tuple[str, int], bytes] = {}
        self.parts: tuple[dict[int, list[str]], ...] = ({}, {}, {})
        self._prints = prints
        self._transport = prints.transport
        self._limit = RateLimit(prints.limits.burst, prints.limits.rate)
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._scheduled = False
        self._unfinished = False

    def flush(self, stream: int) -> None:
        """Send the unfinished line of this thread."""
        self._take(stream, get_ident())

    def end(self) -> None:
        """Send all that is left, as the execution has ended."""
        if any(self.parts):
            for stream, begun in enumerate(self.parts):
                for thread in list(begun):
                    self._take(stream, thread)
        if self._limit.left_out:
            self._send_last()
        if self._unfinished:
            self._transport.end(self)

    def forget(self) -> None:
        """Drop unfinished lines, which belong to the parent process after a fork."""
        for begun in self.parts:
            begun.clear()

    def _take(self, stream: int, thread: int) -> None:
        parts = self.parts[stream].pop(thread, None)
        if parts:
            self.emit(stream, "".join(parts))

    def emit(self, stream: int, text: str) -> None:
        """Send output, as far as the limit allows."""
        if self._prints.forked:
            self._unfinished |= text[-1:] != "\n"
            self._transport.send(self, stream, text, FREE)
            return
        limit = self._limit
        # A line without an end counts as well, by its length.
        lines = text.count("\n") + len(text) // LONGEST
        before = limit.left_out
        given = limit.offer(lines, monotonic()) if lines else 0
        if given == lines and not before:
            self._unfinished |= text[-1] != "\n"
            if not self._transport.send(self, stream, text, BOTH):
                self._leave_out(text, lines)
            return
        if not given:
            self._transport.send(self, stream, text, KEEP)
            self._remember(text)
            return
        if before:
            limit.left_out -= before
            self._send_notice(before)
            self._last.clear()
        ended = text.count("\n") == lines
        whole = text.split("\n")
        shown = "\n".join(whole[:given]) + "\n" if ended else text[: given * LONGEST]
        if not self._transport.send(self, stream, shown, BOTH):
            self._leave_out(shown, given)
        if rest := text[len(shown) :]:
            self._transport.send(self, stream, rest, KEEP)
            self._remember(rest)

    def _leave_out(self, text: str, lines: int) -> None:
        self._limit.left_out += lines
        self._remember(text)

    def _remember(self, text: str) -> None:
        """Remember the last lines that were not shown, to show them after a pause."""
        if "\n" in text[:-1] or len(text) > LONGEST:
            *whole, rest = text.rsplit("\n", _LAST_LINES)
            self._last.extend(line[-LONGEST:] + "\n" for line in whole)
            text = rest[-LONGEST:]
        if text:
            self._last.append(text)
        if not self._scheduled:
            self._scheduled = True
            self._prints.later(self._limit.pause, self._check_pause)

    def _check_pause(self) -> None:
        if self._limit.left_out and not self._limit.full_enough(monotonic()):
            self._prints.later(self._limit.pause, self._check_pause)
            return
        self._scheduled = False
        if self._limit.left_out:
            self._send_last()

    def _send_last(self) -> None:
        """Send the number of dropped lines, and the last of them."""
        last = [self._last.popleft() for _ in range(len(self._last))]
        if count := self._limit.take_left_out() - sum(line.endswith("\n") for line in last):
            self._send_notice(count)
        if last:
            self._transport.send(self, 1, "".join(last), SHOW)

    def _send_notice(self, count: int) -> None:
        if not self._transport.send(self, 1, left_out(count, self._transport.rest), SHOW):
            self._limit.left_out += count


class PrintStreams:
    """Output of the calls in this process.

    Parameters
    ----------
    transport : Transport
        Transport to the driver.
    limits : Limits
        Maximum number of lines of each call.

    Attributes
    ----------
    sources : dict
        Executions that run or have printed, by key.
    later : callable
        Calls a function after some seconds; set by the owner of the event loop.
    forked : bool
        Whether this is a process that a call has forked.
    """

    def __init__(self, transport: Transport, limits: Limits) -> None:
        self.transport = transport
        self.limits = limits
        self.forked = False
        self.later: Callable[[float, Callable[[], None]], object] = lambda seconds, function: None
        self.sources: dict[Key | None, Source] = {}
        #: The runner itself, for lines that belong to no call.
        self.own = Source(self, 0, "")
        self._numbers = itertools.count(1)
        self._streams: list[tuple[str, CallStream]] = []

    def install(self) -> None:
        """Replace the standard streams, also in the handlers of logging."""
        current_call.follow_threads()
        for number, name in ((1, "stdout"), (2, "stderr")):
            behind = getattr(sys, name)
            if behind is not None:
                stream = CallStream(number, behind, self)
                self._streams.append((name, stream))
                setattr(sys, name, stream)
                _redirect_logging(behind, stream)
        me = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forked(me()))

    def uninstall(self) -> None:
        """Restore the original streams."""
        for name, stream in self._streams:
            if getattr(sys, name) is stream:
                setattr(sys, name, stream.behind)
            _redirect_logging(stream, stream.behind)

    def here(self) -> Source | None:
        """Return the source of the call that runs this code, or None."""
        key = within()
        if key is None:
            key = current_call.key_here()
            if key is None:
                return None
        source = self.sources.get(key)
        return source if source is not None else self.open(key)

    def open(self, key: Key) -> Source:
        """Return the source of a call that begins, or that has ended and still prints."""
        new = Source(self, next(self._numbers), short(_name_of(key)))
        source = self.sources.setdefault(key, new)
        while len(self.sources) > _MAX_CALLS:
            with contextlib.suppress(KeyError, RuntimeError):
                del self.sources[next(iter(self.sources))]
        return source

    def end(self, key: Key) -> Source | None:
        """End the source of a call, and return it if it existed."""
        source = self.sources.pop(key, None)
        if source is not None:
            source.end()
        return source

    def forget(self) -> None:
        """Drop all unfinished lines in a forked process."""
        self.forked = True
        for source in list(self.sources.values()):
            source.forget()


def _name_of(key: Key) -> str:
    """Return the name of a call as the scheduler has told it, otherwise a form of its key."""
    for worker in workers():
        ts = worker.state.tasks.get(key)
        if ts is not None and ts.annotations and (name := ts.annotations.get(CALL_NAME)):
            return str(name)
    return label(key)


class CallStream(io.TextIOBase):
    """Replacement of a standard stream: writes to the current call, or to the original stream.

    Parameters
    ----------
    number : int
        1 for standard output, 2 for standard error.
    behind : file
        The original stream.
    prints : PrintStreams
        Streams of the process.
    """

    def __init__(self, number: int, behind: Any, prints: PrintStreams) -> None:
        super().__init__()
        self.behind = behind
        self._number = number
        self._prints = prints
        self._sources = prints.sources
        self._beside = prints.transport.beside
        self._has_buffer = False

    shown_in_driver = True
    encoding = "utf-8"
    errors = "backslashreplace"

    def write(self, text: str) -> int:
        # Called several times for each printed line: avoid any unnecessary function call.
        source = self._sources.get(within()) or self._prints.here()
        if source is None:
            return int(self.behind.write(text) or 0)
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self._beside:
            self.behind.write(text)
        elif self._has_buffer:
            self.behind.flush()  # earlier text, written to the original buffer
        begun, thread = source.parts[self._number], get_ident()
        if "\n" in text or len(text) > _MAX_TEXT:
            parts = begun.pop(thread, None)
            source.emit(self._number, text if parts is None else "".join(parts) + text)
        elif text:
            parts = begun.setdefault(thread, [])
            parts.append(text)
            if len(parts) > _MAX_PIECES:
                source.flush(self._number)
        return len(text)

    def flush(self) -> None:
        source = self._prints.here()
        if source is not None:
            source.flush(self._number)
        if source is None or self._beside or self._has_buffer:
            with contextlib.suppress(ValueError):
                self.behind.flush()

    def keep(self, text: str) -> None:
        """Write a text to the runner's log, but not to the driver."""
        if self._beside:
            self.behind.write(text)
            self.behind.flush()
        else:
            self._prints.transport.send(self._prints.own, self._number, text, KEEP)

    def say(self, text: str) -> None:
        """Show a text of the runner itself in the driver, as far as the limit allows."""
        self._prints.own.emit(self._number, text)

    def close(self) -> None:
        """Do nothing: the stream is removed by :meth:`PrintStreams.uninstall`."""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return bool(self.behind.isatty())

    def fileno(self) -> int:
        return int(self.behind.fileno())

    @property
    def buffer(self) -> Any:
        self._has_buffer = True
        return self.behind.buffer

    def __getattr__(self, name: str) -> Any:
        if name == "behind":  # during construction or copying
            raise AttributeError(name)
        return getattr(self.behind, name)


def _forked(prints: PrintStreams | None) -> None:
    if prints is not None:
        prints.forget()


def _redirect_logging(old: Any, new: Any) -> None:
    """Let handlers of logging that write to the old stream write to the new one."""
    for handler in _handlers():
        if handler.stream is old:
            handler.setStream(new)


def _handlers() -> Iterator[logging.StreamHandler[Any]]:
    loggers = [logging.root, *list(logging.root.manager.loggerDict.values())]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler):
                yield handler

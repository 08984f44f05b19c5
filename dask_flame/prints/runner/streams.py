"""In place of a runner's standard streams: they know which call writes (runner).

Lines of calls that run at the same time are kept apart by keeping what has been written of a line
until it ends, or is flushed: by call, stream and thread. There are no locks: a process that a call
forks may use all this, whatever the other threads were in the middle of; and a call may be
interrupted anywhere.
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
from dask_flame.core.text import label
from dask_flame.prints.frames import BOTH, FREE, KEEP, SHOW, short
from dask_flame.prints.lines import LONGEST
from dask_flame.prints.rate_limit import Limits, RateLimit, left_out

#: Pieces, and characters, of a line that are kept until it ends.
_MOST_PIECES, _MOST_TEXT = 200, 8192
#: The last lines of those left out, which are shown when there are no more.
_LAST = 10
#: Calls that are known after their end, by threads that they have left behind.
_MOST_CALLS = 1_000


class Way(Protocol):
    """How what is printed gets to the driver.

    Attributes
    ----------
    beside : bool
        Whether it is also written where the process wrote before.
    rest : str
        Where lines are that are not shown.
    """

    beside: bool
    rest: str

    def send(self, source: Source, stream: int, text: str, kind: str) -> bool:
        """Take this; false if it is not going to be shown for want of room."""

    def end(self, source: Source) -> None:
        """This prints no more."""


class Source:
    """One execution of a call, as what prints.

    Attributes
    ----------
    number : int
        Of this execution, on this runner.
    name : str
        The call's, in short.
    parts : tuple of dict
        What was written of lines that have not ended, by stream and thread.
    made : dict
        For the way it goes: what is the same each time, by kind and stream.
    """

    def __init__(self, prints: PrintStreams, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.made: dict[tuple[str, int], bytes] = {}
        self.parts: tuple[dict[int, list[str]], ...] = ({}, {}, {})
        self._prints = prints
        self._way = prints.way
        self._limit = RateLimit(prints.limits.burst, prints.limits.rate)
        self._last: deque[str] = deque(maxlen=_LAST)
        self._looking = False
        self._unfinished = False

    def flush(self, stream: int) -> None:
        """Send what this thread has written of a line."""
        self._take(stream, get_ident())

    def end(self) -> None:
        """It is over."""
        if any(self.parts):
            for stream, begun in enumerate(self.parts):
                for thread in list(begun):
                    self._take(stream, thread)
        if self._limit.left_out:
            self._settle()
        if self._unfinished:
            self._way.end(self)

    def forget(self) -> None:
        """Nothing that was written is of this process."""
        for begun in self.parts:
            begun.clear()

    def _take(self, stream: int, thread: int) -> None:
        parts = self.parts[stream].pop(thread, None)
        if parts:
            self.emit(stream, "".join(parts))

    def emit(self, stream: int, text: str) -> None:
        """Send this, or as much of it as may be shown."""
        if self._prints.forked:
            self._unfinished |= text[-1:] != "\n"
            self._way.send(self, stream, text, FREE)
            return
        limit = self._limit
        # One that does not end counts, too, by its length.
        lines = text.count("\n") + len(text) // LONGEST
        before = limit.left_out
        given = limit.offer(lines, monotonic()) if lines else 0
        if given == lines and not before:
            self._unfinished |= text[-1] != "\n"
            if not self._way.send(self, stream, text, BOTH):
                self._leave_out(text, lines)
            return
        if not given:
            self._way.send(self, stream, text, KEEP)
            self._note(text)
            return
        if before:
            limit.left_out -= before
            self._say(before)
            self._last.clear()
        ended = text.count("\n") == lines
        whole = text.split("\n")
        shown = "\n".join(whole[:given]) + "\n" if ended else text[: given * LONGEST]
        if not self._way.send(self, stream, shown, BOTH):
            self._leave_out(shown, given)
        if rest := text[len(shown) :]:
            self._way.send(self, stream, rest, KEEP)
            self._note(rest)

    def _leave_out(self, text: str, lines: int) -> None:
        self._limit.left_out += lines
        self._note(text)

    def _note(self, text: str) -> None:
        """This was not shown: the last lines will be, when there are no more for a while."""
        if "\n" in text[:-1] or len(text) > LONGEST:
            *whole, rest = text.rsplit("\n", _LAST)
            self._last.extend(line[-LONGEST:] + "\n" for line in whole)
            text = rest[-LONGEST:]
        if text:
            self._last.append(text)
        if not self._looking:
            self._looking = True
            self._prints.later(self._limit.pause, self._look)

    def _look(self) -> None:
        if self._limit.left_out and not self._limit.full_enough(monotonic()):
            self._prints.later(self._limit.pause, self._look)
            return
        self._looking = False
        if self._limit.left_out:
            self._settle()

    def _settle(self) -> None:
        """Say what was left out, and show the last of it."""
        last = [self._last.popleft() for _ in range(len(self._last))]
        if count := self._limit.say() - sum(line.endswith("\n") for line in last):
            self._say(count)
        if last:
            self._way.send(self, 1, "".join(last), SHOW)

    def _say(self, count: int) -> None:
        if not self._way.send(self, 1, left_out(count, self._way.rest), SHOW):
            self._limit.left_out += count


class PrintStreams:
    """What the calls of this process print.

    Parameters
    ----------
    way : Way
    limits : Limits

    Attributes
    ----------
    sources : dict
        By key, the executions that have printed, or that run.
    later : callable
        Calls a function after some seconds; set by whoever has an event loop.
    forked : bool
        Whether this is a process that a call has forked.
    """

    def __init__(self, way: Way, limits: Limits) -> None:
        self.way = way
        self.limits = limits
        self.forked = False
        self.later: Callable[[float, Callable[[], None]], object] = lambda seconds, function: None
        self.sources: dict[Key | None, Source] = {}
        self._numbers = itertools.count(1)
        self._streams: list[tuple[str, CallStream]] = []

    def install(self) -> None:
        """Take the place of the standard streams, in the handlers of logging too."""
        current_call.follow_threads()
        for number, name in ((1, "stdout"), (2, "stderr")):
            behind = getattr(sys, name)
            if behind is not None:
                stream = CallStream(number, behind, self)
                self._streams.append((name, stream))
                setattr(sys, name, stream)
                _rebind(behind, stream)
        me = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forked(me()))

    def uninstall(self) -> None:
        """Give the streams back."""
        for name, stream in self._streams:
            if getattr(sys, name) is stream:
                setattr(sys, name, stream.behind)
            _rebind(stream, stream.behind)

    def here(self) -> Source | None:
        """The call that this code belongs to."""
        key = within()
        if key is None:
            key = current_call.key_here()
            if key is None:
                return None
        source = self.sources.get(key)
        return source if source is not None else self.open(key)

    def open(self, key: Key) -> Source:
        """An execution of this call begins, or one that is over has left something behind."""
        new = Source(self, next(self._numbers), short(label(key)))
        source = self.sources.setdefault(key, new)
        while len(self.sources) > _MOST_CALLS:
            with contextlib.suppress(KeyError, RuntimeError):
                del self.sources[next(iter(self.sources))]
        return source

    def end(self, key: Key) -> Source | None:
        """An execution of this call is over; what it was, if it was known."""
        source = self.sources.pop(key, None)
        if source is not None:
            source.end()
        return source

    def forget(self) -> None:
        """This is a process that was forked: it has nothing to tell of what came before."""
        self.forked = True
        for source in list(self.sources.values()):
            source.forget()


class CallStream(io.TextIOBase):
    """In place of a standard stream: to the call that writes, or on to where it went before."""

    def __init__(self, number: int, behind: Any, prints: PrintStreams) -> None:
        super().__init__()
        self.behind = behind
        self._number = number
        self._prints = prints
        self._sources = prints.sources
        self._beside = prints.way.beside
        self._has_buffer = False

    shown_in_driver = True
    encoding = "utf-8"
    errors = "backslashreplace"

    def write(self, text: str) -> int:
        # It is called several times for each line that is printed: hence no more calls than needed.
        source = self._sources.get(within()) or self._prints.here()
        if source is None:
            return int(self.behind.write(text) or 0)
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self._beside:
            self.behind.write(text)
        elif self._has_buffer:
            self.behind.flush()  # what was written before, past this
        begun, thread = source.parts[self._number], get_ident()
        if "\n" in text or len(text) > _MOST_TEXT:
            parts = begun.pop(thread, None)
            source.emit(self._number, text if parts is None else "".join(parts) + text)
        elif text:
            parts = begun.setdefault(thread, [])
            parts.append(text)
            if len(parts) > _MOST_PIECES:
                source.flush(self._number)
        return len(text)

    def flush(self) -> None:
        source = self._prints.here()
        if source is not None:
            source.flush(self._number)
        if source is None or self._beside or self._has_buffer:
            with contextlib.suppress(ValueError):
                self.behind.flush()

    def close(self) -> None:
        """It is for whoever has put this here to take it away."""

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
        if name == "behind":  # while it is made, or copied
            raise AttributeError(name)
        return getattr(self.behind, name)


def _forked(prints: PrintStreams | None) -> None:
    if prints is not None:
        prints.forget()


def _rebind(old: Any, new: Any) -> None:
    """Have logging write to a new stream what it wrote to the old one."""
    for handler in _handlers():
        if handler.stream is old:
            handler.setStream(new)


def _handlers() -> Iterator[logging.StreamHandler[Any]]:
    loggers = [logging.root, *list(logging.root.manager.loggerDict.values())]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler):
                yield handler

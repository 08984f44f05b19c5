"""What the calls of a local runner print, on its way through the runner's own output (runner)."""

from __future__ import annotations

import contextlib
import os
import select
from typing import Any

from dask.typing import Key

from dask_flame.prints.frames import END, NOBODY, SHOW, Owner, beginning, change, frames
from dask_flame.prints.rate_limit import Limits
from dask_flame.prints.runner.streams import PrintStreams, Source
from dask_flame.prints.sole_call import SoleCall, unread

#: The standard output, which is the pipe to the guard.
_PIPE = 1


class Framed:
    """Writes frames into the pipe, at once: what was printed before a process is killed is there.

    Where a call has put something else in the pipe's place, as what captures the output of C code
    does, it gets the text as it is.

    Parameters
    ----------
    word : str
        What the guard has made up for the frames to begin with.
    """

    beside = False
    rest = "cluster.get_logs() has the last of them"

    def __init__(self, word: str) -> None:
        self._word = word.encode()
        self._pipe = _identity(_PIPE)

    def send(self, source: Source, stream: int, text: str, kind: str) -> bool:
        if kind == SHOW and not _ready(stream):
            return False
        data = text.encode(errors="backslashreplace")
        if _identity(stream) == self._pipe:
            begin = source.made.get((kind, stream))
            if begin is None:
                begin = beginning(self._word, kind, stream, source.number, source.name)
                source.made[kind, stream] = begin
            for frame in frames(begin, data):
                _write(stream, frame)
        elif kind != SHOW:
            while data:
                data = data[_write(stream, data) :]
        return True

    def end(self, source: Source) -> None:
        begin = beginning(self._word, END, 1, source.number, source.name)
        self._mark(frames(begin, b"")[0])

    def changed(self, before: Owner, after: Owner) -> None:
        """Say whose it is what is written without a frame, until now and from now on."""
        self._mark(change(self._word, before, after))

    def _mark(self, frame: bytes) -> None:
        if _identity(_PIPE) == self._pipe and _ready(_PIPE):
            _write(_PIPE, frame)


class FramedPrints(PrintStreams):
    """What the calls of a local runner print.

    Parameters
    ----------
    word : str
        See :class:`Framed`.
    whose : str
        The path at which the guard looks for whose it is what has no frame.
    limits : Limits
    """

    way: Framed

    def __init__(self, word: str, whose: str, limits: Limits) -> None:
        super().__init__(Framed(word), limits)
        self._running: dict[Key, Source] = {}
        self._alone = NOBODY
        self._whose: SoleCall | None = None
        with contextlib.suppress(OSError, ValueError):
            self._whose = SoleCall(whose, write=True)

    def begin(self, key: Key) -> None:
        """An execution of this call begins; on the event loop."""
        self.sources.pop(key, None)  # left by an earlier one
        self._running[key] = self.open(key)
        self._tell()

    def end(self, key: Key) -> Source | None:
        source = super().end(key)
        self._running.pop(key, None)
        self._tell()
        return source

    def _tell(self) -> None:
        alone = NOBODY
        if len(self._running) == 1:
            (source,) = self._running.values()
            alone = source.number, source.name
        if alone != self._alone and self._whose is not None:
            if unread(_PIPE):
                self.way.changed(self._alone, alone)
            self._alone = alone
            self._whose.tell(*alone)


def install(orders: dict[str, Any]) -> FramedPrints | None:
    """Do as a runner's orders say of what it prints.

    Parameters
    ----------
    orders : dict
        ``prints``, if its output is read by a guard that knows frames: ``word``, ``whose`` and
        ``limits``.
    """
    told = orders.get("prints")
    if not told:
        return None
    prints = FramedPrints(told["word"], told["whose"], Limits(**told["limits"]))
    prints.install()
    return prints


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _ready(descriptor: int) -> bool:
    """Whether it takes something now: the event loop must not wait for a guard that is stopped."""
    try:
        return bool(select.select([], [descriptor], [], 0)[1])
    except (OSError, ValueError):
        return False


def _write(descriptor: int, data: bytes) -> int:
    """Write this, all of it where a pipe takes it at once; how much that was."""
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:  # a call has made it so
            select.select([], [descriptor], [])
        except OSError:
            return len(data)  # nobody is there to read it

"""Write the output of a local runner's calls into its pipe, in frames (runner)."""

from __future__ import annotations

import contextlib
import os
import select
from typing import Any

from dask.typing import Key

from dask_flame.core.rate_limit import Limits
from dask_flame.prints.frames import END, NOBODY, SHOW, Owner, beginning, change, frames
from dask_flame.prints.runner.streams import PrintStreams, Source
from dask_flame.prints.sole_call import SoleCall, unread

#: Standard output, which is the pipe to the supervisor.
_PIPE = 1


class PipeTransport:
    """Writes frames into the pipe at once, so that nothing is lost if the process is killed.

    If a call has replaced the file descriptor, for instance to capture the output of C code, the
    text is written to it without frames.

    Parameters
    ----------
    word : str
        Word at the beginning of frames, chosen by the supervisor.
    """

    beside = False
    rest = "cluster.get_logs() has the last of them"

    def __init__(self, word: str) -> None:
        self._word = word.encode()
        self._pipe = _file_of(_PIPE)

    def send(self, source: Source, stream: int, text: str, kind: str) -> bool:
        if kind == SHOW and not _ready(stream):
            return False
        data = text.encode(errors="backslashreplace")
        if _file_of(stream) == self._pipe:
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
        """Mark that unframed output belonged to one call and belongs to another from now on."""
        self._mark(change(self._word, before, after))

    def _mark(self, frame: bytes) -> None:
        if _file_of(_PIPE) == self._pipe and _ready(_PIPE):
            _write(_PIPE, frame)


class FramedPrints(PrintStreams):
    """Output of the calls of a local runner.

    Parameters
    ----------
    word : str
        See :class:`PipeTransport`.
    whose : str
        Path of the shared memory in which the supervisor reads the owner of unframed output.
    limits : Limits
        Maximum number of lines.
    """

    transport: PipeTransport

    def __init__(self, word: str, whose: str, limits: Limits) -> None:
        super().__init__(PipeTransport(word), limits)
        self._running: dict[Key, Source] = {}
        self._alone = NOBODY
        self._sole_call: SoleCall | None = None
        with contextlib.suppress(OSError, ValueError):
            self._sole_call = SoleCall(whose, write=True)

    def begin(self, key: Key) -> None:
        """Record that a call begins to run; on the event loop."""
        self.sources.pop(key, None)  # from an earlier execution
        self._running[key] = self.open(key)
        self._update_alone()

    def end(self, key: Key) -> Source | None:
        source = super().end(key)
        self._running.pop(key, None)
        self._update_alone()
        return source

    def _update_alone(self) -> None:
        alone = NOBODY
        if len(self._running) == 1:
            (source,) = self._running.values()
            alone = source.number, source.name
        if alone != self._alone and self._sole_call is not None:
            if unread(_PIPE):
                self.transport.changed(self._alone, alone)
            self._alone = alone
            self._sole_call.set(*alone)


def install(launch_config: dict[str, Any]) -> FramedPrints | None:
    """Replace the standard streams, if the runner's launch configuration asks for it.

    Parameters
    ----------
    launch_config : dict
        Launch configuration. Its entry ``prints`` is present if a supervisor reads the output, and
        has ``word``, ``whose`` and ``limits``.

    Returns
    -------
    FramedPrints or None
    """
    options = launch_config.get("prints")
    if not options:
        return None
    prints = FramedPrints(options["word"], options["whose"], Limits(**options["limits"]))
    prints.install()
    return prints


def _file_of(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _ready(descriptor: int) -> bool:
    """Return whether a write would not block: the supervisor may be stopped."""
    try:
        return bool(select.select([], [descriptor], [], 0)[1])
    except (OSError, ValueError):
        return False


def _write(descriptor: int, data: bytes) -> int:
    """Write once, and return the number of bytes that were written."""
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:  # a call has set the descriptor to non-blocking
            select.select([], [descriptor], [])
        except OSError:
            return len(data)  # the reader has closed it

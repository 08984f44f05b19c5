"""Send the printed and displayed output of a cell to the notebook (runner)."""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from distributed import Worker

#: Seconds for which printed text is collected before it is sent.
_INTERVAL = 0.05
#: Maximum number of unsent characters. Beyond it a print blocks, as with a pipe.
_MAX_UNSENT = 256 * 1024
#: Maximum seconds for which a print blocks.
_MAX_BLOCK = 5.0

#: Outputs of the cell in whose context the code runs.
_own: ContextVar[Outputs | None] = ContextVar("dask_flame_outputs", default=None)
_lock = threading.Lock()
#: Outputs of the cells in this process. While there is one, the standard streams are redirected.
_open: list[Outputs] = []


class Outputs:
    """Sends the output of one cell, in order.

    Parameters
    ----------
    worker : distributed.Worker
    topic : str
        Topic of the events that carry the output.
    cell : str
        Key of the cell, included in each event.
    """

    def __init__(self, worker: Worker, topic: str, cell: str) -> None:
        self.worker = worker
        self._topic = topic
        self._cell = cell
        self._items: list[tuple[Any, ...]] = []
        self._size = 0
        self._awake = False
        self._room = threading.Condition()

    def text(self, stream: str, text: str) -> None:
        """Add text that was written to ``stdout`` or ``stderr``."""
        with self._room:
            last = self._items[-1] if self._items else None
            if last is not None and last[0] == stream:
                last[1].append(text)
            else:
                self._items.append((stream, [text]))
            self._size += len(text)
            self._wake()
            if self._size > _MAX_UNSENT and threading.get_ident() != self.worker.thread_id:
                deadline = time.monotonic() + _MAX_BLOCK
                # Wait in short intervals, because an interrupt is delivered only between them.
                while self._size > _MAX_UNSENT and time.monotonic() < deadline:
                    self._room.wait(0.05)

    def add(self, what: str, *details: Any) -> None:
        """Add an item other than text."""
        with self._room:
            self._items.append((what, *details))
            self._wake()

    def finish(self) -> None:
        """Send the remaining output before the end of the cell is known."""
        with self._room:
            self._wake()
        # The event loop runs this before the thread of the call can report its result.
        self.worker.loop.add_callback(self._flush)

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            self.worker.loop.add_callback(self._later)

    def _later(self) -> None:
        self.worker.loop.call_later(_INTERVAL, self._flush)

    def _flush(self) -> None:
        with self._room:
            items, self._items = self._items, []
            self._size, self._awake = 0, False
            self._room.notify_all()
        if items:
            sendable = [_picklable(item) for item in items]
            self.worker.log_event(
                self._topic, {"cell": self._cell, "items": pickle.dumps(sendable)}
            )


def _picklable(item: tuple[Any, ...]) -> tuple[Any, ...]:
    what, *details = item
    if what in ("stdout", "stderr"):
        return what, "".join(details[0])
    try:
        pickle.dumps(item)
    except Exception as error:
        return "stderr", f"what a cell displayed cannot be sent: {error}\n"
    return item


@contextlib.contextmanager
def gathered(outputs: Outputs) -> Iterator[None]:
    """Redirect output of this context, and of threads without a context, to a cell."""
    with _lock:
        if not _open:
            sys.stdout = _Stream("stdout", sys.stdout)
            sys.stderr = _Stream("stderr", sys.stderr)
        _open.append(outputs)
    token = _own.set(outputs)
    try:
        yield
    finally:
        _own.reset(token)
        with _lock:
            _open.remove(outputs)
            if not _open:
                for name in ("stdout", "stderr"):
                    stream = getattr(sys, name)
                    if isinstance(stream, _Stream):
                        setattr(sys, name, stream.behind)


def current() -> Outputs | None:
    """Return the outputs of the cell that runs this code; None if none or if unknown."""
    own = _own.get()
    if own is not None:
        return own
    # A thread that the cell started does not inherit its context.
    with _lock:
        only = _open[0] if len(_open) == 1 else None
    if only is None:
        return None
    thread, worker = threading.get_ident(), only.worker
    return None if thread in (worker.thread_id, *worker.active_threads) else only


class _Stream(io.TextIOBase):
    """Replacement of a standard stream: writes to the current cell, or to the original stream."""

    def __init__(self, name: str, behind: Any) -> None:
        super().__init__()
        self._name = name
        self.behind = behind

    encoding = "utf-8"

    def write(self, text: str) -> int:
        outputs = current()
        if outputs is None:
            return int(self.behind.write(text) or 0)
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        outputs.text(self._name, text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(ValueError):
            self.behind.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return int(self.behind.fileno())

    @property
    def buffer(self) -> Any:
        return self.behind.buffer

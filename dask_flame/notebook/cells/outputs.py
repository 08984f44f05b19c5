"""Send the printed and displayed output of a cell to the notebook (runner)."""

from __future__ import annotations

import pickle
import threading
import time
import uuid
from typing import Any

from distributed import Worker

from dask_flame.core.output_limit import OutputLimit
from dask_flame.errors import FlameError

#: Seconds for which printed text is collected before it is sent.
_INTERVAL = 0.05
#: Maximum number of unsent characters. Beyond it a print blocks, as with a pipe.
_MAX_UNSENT = 256 * 1024
#: Maximum seconds for which a print blocks.
_MAX_BLOCK = 5.0
#: Maximum seconds for which the beginning of a cell waits for the scheduler's answer.
_MAX_BEGIN = 5.0
_NO_INPUT = (
    "a cell on a runner cannot ask for input; ask in a cell of the notebook before it, for example "
    'name = input("name? "), and use the name here'
)


class Outputs:
    """Sends the output of one cell, in order; see :mod:`dask_flame.core.cell_streams`.

    Parameters
    ----------
    worker : distributed.Worker
    topic : str
        Topic of the events that carry the output.
    cell : str
        Key of the cell, included in each event.
    """

    #: Threads that the cell has started may print after its end.
    closed = False

    def __init__(self, worker: Worker, topic: str, cell: str) -> None:
        self.worker = worker
        self._topic = topic
        self._cell = cell
        self._items: list[tuple[Any, ...]] = []
        self._size = 0
        self._awake = False
        self._room = threading.Condition()
        self._limit = OutputLimit()
        self._notes: set[str] = set()

    def begin(self) -> None:
        """Tell the notebook that the cell begins here, and wait until the scheduler knows it.

        A cell may end its process at once. From a second beginning the notebook knows that the
        first runner was lost, so the first must not be lost with it.
        """
        known = threading.Event()
        # With a number of its own, as it may arrive twice.
        item = ("begin", str(self.worker.name), uuid.uuid4().hex)

        async def tell() -> None:
            try:
                await self.worker.scheduler.log_event(topic=self._topic, msg=self._message([item]))
            except OSError:
                # The connection is lost. The stream of events resumes when it is back.
                self.add(*item)
            finally:
                known.set()

        self.worker.loop.add_callback(tell)
        deadline = time.monotonic() + _MAX_BEGIN
        # Wait in short intervals, because an interrupt is delivered only between them.
        while not known.wait(0.05) and time.monotonic() < deadline:
            pass

    def text(self, stream: str, text: str) -> None:
        """Add text that was written to ``stdout`` or ``stderr``, within the limit."""
        with self._room:
            self._add(self._limit.text(stream, text, time.monotonic()))
            if self._size > _MAX_UNSENT and threading.get_ident() != self.worker.thread_id:
                deadline = time.monotonic() + _MAX_BLOCK
                # Wait in short intervals, because an interrupt is delivered only between them.
                while self._size > _MAX_UNSENT and time.monotonic() < deadline:
                    self._room.wait(0.05)

    def takes(self, thread: int) -> bool:
        """Return whether the output of a thread without a context is this cell's."""
        return thread != self.worker.thread_id and thread not in self.worker.active_threads

    def no_input(self) -> Exception:
        """Return the error of a cell that reads from the standard input."""
        return FlameError(_NO_INPUT)

    def add(self, what: str, *details: Any) -> None:
        """Add an item other than text and displays."""
        with self._room:
            self._items.append((what, *details))
            self._wake()

    def display(self, data: dict[str, Any], metadata: Any, transient: Any, *, update: bool) -> None:
        """Add a display, within the limit, or an update of one."""
        item = ("display", data, metadata, transient, update)
        with self._room:
            if update:
                self._items[:] = [old for old in self._items if not _replaced(old, item)]
                shown = True
            else:
                size = sum(len(value) for value in data.values() if isinstance(value, str))
                pieces, shown = self._limit.display(size, time.monotonic())
                self._add(pieces)
            if shown:
                self._items.append(item)
                self._wake()

    def note(self, text: str) -> None:
        """Add a message to the error stream; each message only once."""
        if text not in self._notes:
            self._notes.add(text)
            self.text("stderr", text)

    def finish(self) -> None:
        """Send the remaining output before the end of the cell is known."""
        with self._room:
            self._add(self._limit.end())
            self._wake()
        # The event loop runs this before the thread of the call can report its result.
        self.worker.loop.add_callback(self._flush)

    def _add(self, pieces: list[tuple[str, str]]) -> None:
        for stream, text in pieces:
            last = self._items[-1] if self._items else None
            if last is not None and last[0] == stream:
                last[1].append(text)
            else:
                self._items.append((stream, [text]))
            self._size += len(text)
        if pieces:
            self._wake()

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
            self.worker.log_event(self._topic, self._message(items))

    def _message(self, items: list[tuple[Any, ...]]) -> dict[str, Any]:
        sendable = [_picklable(item) for item in items]
        return {"cell": self._cell, "items": pickle.dumps(sendable)}


def _replaced(old: tuple[Any, ...], new: tuple[Any, ...]) -> bool:
    """Return whether an unsent update of a display is outdated by another."""
    return old[0] == "display" and bool(old[4]) and old[3] == new[3]


def _picklable(item: tuple[Any, ...]) -> tuple[Any, ...]:
    what, *details = item
    if what in ("stdout", "stderr"):
        return what, "".join(details[0])
    try:
        pickle.dumps(item)
    except Exception as error:
        return "stderr", f"what a cell displayed cannot be sent: {error}\n"
    return item

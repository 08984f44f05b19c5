"""``PrintSender``: sends the output of a runner's calls to the scheduler (runner)."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any

from dask.typing import Key
from distributed import Worker, WorkerPlugin

from dask_flame.core.current_call import count_forks, forks
from dask_flame.core.distributed_internals import has_scheduler
from dask_flame.core.rate_limit import Limits
from dask_flame.prints.frames import KEEP, SHOW
from dask_flame.prints.lines import trimmed
from dask_flame.prints.runner.streams import CallStream, PrintStreams, Source
from dask_flame.prints.wire import NAME, SAID

#: Maximum number of unsent characters; beyond it output is dropped, with a message.
_MAX_CHARACTERS = 256 * 1024
#: Minimum seconds between two messages, unless a call ends; and seconds to wait before the first.
_INTERVAL, _BURST = 0.1, 0.02

#: States of a task whose code may still be running.
_RUNNING = frozenset({"executing", "long-running", "cancelled", "resumed"})


#: Where to find lines that are not shown.
_REST = "cluster.get_logs() has the last of them"


class StreamTransport:
    """Buffers output, and sends it on the stream that also carries task results.

    Parameters
    ----------
    worker : distributed.Worker
    """

    beside = True

    def __init__(self, worker: Worker) -> None:
        count_forks()
        self._forks = forks()
        self._worker = worker
        self._items: list[tuple[int, str, int, str]] = []
        self._size = 0
        self._awake = False
        self._timer: object | None = None
        self._sent = float("-inf")
        # Logs of other workers are perhaps not kept anywhere.
        ours = hasattr(worker, "prints")
        self.rest = _REST if ours else "the worker's own output has them"

    def send(self, source: Source, stream: int, text: str, kind: str) -> bool:
        if kind == KEEP or self._forks != forks():
            return True
        if self._size + len(text) > _MAX_CHARACTERS and kind != SHOW:  # pieces of kind SHOW are few
            return False
        self._size += len(text)
        self._items.append((source.number, source.name, stream, text))
        self._wake()
        return True

    def end(self, source: Source) -> None:
        self._items.append((source.number, source.name, 0, ""))
        self._wake()

    def flush(self) -> None:
        """Send the buffered output; on the event loop only."""
        self._awake = False
        if self._timer is not None:
            self._worker.loop.remove_timeout(self._timer)
            self._timer = None
        # Take a fixed number, because calls may append meanwhile.
        n = len(self._items)
        items = self._items[:n]
        del self._items[:n]
        if items:
            self._size -= sum(len(item[3]) for item in items)
            self._sent = monotonic()
            said = {"op": SAID, "runner": str(self._worker.name), "pieces": _joined(items)}
            self._worker.batched_send(said)

    def _wake(self) -> None:
        # `flush` clears the flag before it takes the items: an item that finds it set is included.
        if not self._awake:
            self._awake = True
            self._worker.loop.add_callback(self._wait)

    def _wait(self) -> None:
        if self._awake and self._timer is None:
            delay = max(_BURST, self._sent + _INTERVAL - monotonic())
            self._timer = self._worker.loop.call_later(delay, self.flush)


def _joined(items: list[tuple[int, str, int, str]]) -> list[list[Any]]:
    """Join consecutive output of a call, and drop the invisible text of unfinished lines."""
    pieces: list[list[Any]] = []
    for number, name, stream, text in items:
        if pieces and pieces[-1][0] == number and pieces[-1][2] == stream:
            pieces[-1][3].append(text)
        else:
            pieces.append([number, name, stream, [text]])
    for piece in pieces:
        whole, end, rest = "".join(piece[3]).rpartition("\n")
        piece[3] = whole + end + trimmed(rest)
    return pieces


class PrintSender(WorkerPlugin):
    """Sends the output of one worker's calls; registered by :class:`Prints`.

    It does nothing on a runner whose output has frames, and in the scheduler's own process, whose
    output is visible already.

    Parameters
    ----------
    limits : Limits
        Maximum number of lines.
    """

    name = NAME

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._prints: PrintStreams | None = None
        self._transport: StreamTransport | None = None

    def setup(self, worker: Worker) -> None:
        if isinstance(sys.stdout, CallStream) or has_scheduler():
            return
        self._transport = StreamTransport(worker)
        self._prints = PrintStreams(self._transport, self.limits)
        self._prints.later = later(worker)
        self._prints.install()

    def teardown(self, worker: Worker) -> None:
        if self._prints is not None and self._transport is not None:
            self._prints.uninstall()
            self._transport.flush()

    def transition(self, key: Key, start: str, finish: str, **kwargs: Any) -> None:
        # Runs before the worker sends the same transition to the scheduler on the same stream, so
        # that the output arrives before the result.
        if self._prints is None or self._transport is None or finish in _RUNNING:
            return
        if self._prints.end(key) is not None:
            self._transport.flush()


def later(worker: Worker) -> Any:
    """Return a thread-safe function that calls another on the worker's event loop after a delay."""
    loop = worker.loop
    return lambda seconds, function: loop.add_callback(loop.call_later, seconds, function)

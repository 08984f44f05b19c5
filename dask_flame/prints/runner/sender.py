"""``PrintSender``: brings what the calls of a runner print to the scheduler (runner)."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any

from dask.typing import Key
from distributed import Worker, WorkerPlugin

from dask_flame.core.current_call import count_forks, forks
from dask_flame.core.distributed_internals import has_scheduler
from dask_flame.prints.frames import KEEP, SHOW
from dask_flame.prints.lines import trimmed
from dask_flame.prints.rate_limit import Limits
from dask_flame.prints.runner.streams import CallStream, PrintStreams, Source
from dask_flame.prints.wire import NAME, SAID

#: Characters that may wait to be sent; beyond it they are left out, and that is said.
_MOST = 256 * 1024
#: Least seconds between two messages, unless a call ends; and those that wait for the first.
_INTERVAL, _BURST = 0.1, 0.02

#: States of a task whose code may still be running.
_RUNNING = frozenset({"executing", "long-running", "cancelled", "resumed"})


#: Where lines of runners are that are not shown.
_REST = "cluster.get_logs() has the last of them"


class Sent:
    """Gathers what is printed, and sends it on the stream on which results are told.

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
        # Whether somebody keeps what this process writes is known of our own runners only.
        ours = hasattr(worker, "prints")
        self.rest = _REST if ours else "the worker's own output has them"

    def send(self, source: Source, stream: int, text: str, kind: str) -> bool:
        if kind == KEEP or self._forks != forks():
            return True
        if self._size + len(text) > _MOST and kind != SHOW:  # of that there is little
            return False
        self._size += len(text)
        self._items.append((source.number, source.name, stream, text))
        self._wake()
        return True

    def end(self, source: Source) -> None:
        self._items.append((source.number, source.name, 0, ""))
        self._wake()

    def flush(self) -> None:
        """Send what is there; on the event loop only."""
        self._awake = False
        if self._timer is not None:
            self._worker.loop.remove_timeout(self._timer)
            self._timer = None
        # By their number, as calls may add to them meanwhile.
        n = len(self._items)
        items = self._items[:n]
        del self._items[:n]
        if items:
            self._size -= sum(len(item[3]) for item in items)
            self._sent = monotonic()
            said = {"op": SAID, "runner": str(self._worker.name), "pieces": _together(items)}
            self._worker.batched_send(said)

    def _wake(self) -> None:
        # `flush` lowers the flag before it takes what there is: who finds it up has added to that.
        if not self._awake:
            self._awake = True
            self._worker.loop.add_callback(self._wait)

    def _wait(self) -> None:
        if self._awake and self._timer is None:
            delay = max(_BURST, self._sent + _INTERVAL - monotonic())
            self._timer = self._worker.loop.call_later(delay, self.flush)


def _together(items: list[tuple[int, str, int, str]]) -> list[list[Any]]:
    """What one call has written after another, as one; of a line that goes on what will be seen."""
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
    """Sends what the calls of one worker print; :class:`PrintStreams` registers it.

    On a runner whose output somebody reads who knows what of it is whose, it does nothing; nor in
    the scheduler's own process, where what is printed is seen without it.

    Parameters
    ----------
    limits : Limits
    """

    name = NAME

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._prints: PrintStreams | None = None
        self._way: Sent | None = None

    def setup(self, worker: Worker) -> None:
        if isinstance(sys.stdout, CallStream) or has_scheduler():
            return
        self._way = Sent(worker)
        self._prints = PrintStreams(self._way, self.limits)
        self._prints.later = later(worker)
        self._prints.install()

    def teardown(self, worker: Worker) -> None:
        if self._prints is not None and self._way is not None:
            self._prints.uninstall()
            self._way.flush()

    def transition(self, key: Key, start: str, finish: str, **kwargs: Any) -> None:
        # Runs before the worker tells the scheduler of the same change, on the same stream: what
        # is sent here is there first.
        if self._prints is None or self._way is None or finish in _RUNNING:
            return
        if self._prints.end(key) is not None:
            self._way.flush()


def later(worker: Worker) -> Any:
    """A function, for any thread, that has the worker's event loop call another one later."""
    loop = worker.loop
    return lambda seconds, function: loop.add_callback(loop.call_later, seconds, function)

"""How a runner goes: told to, or taken away by its substrate (runner)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distributed import Status

from dask_flame.protocol import LEAVING

if TYPE_CHECKING:
    from dask_flame.runner.worker import RunnerWorker

_GOING = frozenset({Status.closing, Status.closing_gracefully, Status.closed, Status.failed})


class Departure:
    """What a running worker does when it is told to end, and when it gets a SIGTERM.

    A SIGTERM means that the substrate takes the machine back, some seconds from now. The scheduler
    is told; it gives the runner no more calls, brings its results to safety, and tells it to close.

    Parameters
    ----------
    worker : RunnerWorker
    limit : float
        Seconds after a SIGTERM that the scheduler has for that.
    """

    def __init__(self, worker: RunnerWorker, *, limit: float) -> None:
        self.worker = worker
        self.limit = limit
        self._leaving = False

    def told_to_end(self) -> None:
        """Close the worker; from any thread."""
        self._on_loop(self._close, "runner-told-to-end")

    def taken_away(self) -> None:
        """A SIGTERM has come; from any thread, and from a signal's handler."""
        self._on_loop(self._leave)

    def _leave(self) -> None:
        worker = self.worker
        comm = worker.batched_stream.comm
        heard = worker.calls.acquainted and comm is not None and not comm.closed()
        if self._leaving or not heard or worker.status in _GOING:
            self._close("runner-preempted")
            return
        self._leaving = True
        worker.calls.say(LEAVING, why="preempted (SIGTERM)")
        worker.loop.call_later(self.limit, self._close, "runner-preempted")

    def _close(self, reason: str) -> None:
        self.worker.loop.add_callback(self.worker.close, reason=reason)

    def _on_loop(self, what: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: it is ending already
            self.worker.loop.asyncio_loop.call_soon_threadsafe(what, *args)

"""End a runner, on request or when its substrate reclaims it (runner)."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distributed import Status

from dask_flame.core.messages import LEAVING

if TYPE_CHECKING:
    from dask_flame.runner.worker import RunnerWorker

#: Seconds after its registration within which a dask-flame scheduler greets a runner.
_GREETING = 1.0
_GOING = frozenset({Status.closing, Status.closing_gracefully, Status.closed, Status.failed})


class Shutdown:
    """Handle requests to end, and SIGTERM.

    A SIGTERM means that the substrate reclaims the machine within seconds. The scheduler is
    notified: it gives the runner no more calls, moves its results away, and asks it to close.

    Parameters
    ----------
    worker : RunnerWorker
    limit : float
        Maximum time for this after a SIGTERM, in seconds.
    """

    def __init__(self, worker: RunnerWorker, *, limit: float) -> None:
        self.worker = worker
        self.limit = limit
        self._leaving = False
        self._since: float | None = None
        self._asked: float | None = None

    def started(self) -> None:
        """Record that the worker has registered."""
        self._since = time.monotonic()

    def end(self) -> None:
        """Close the worker; callable from any thread."""
        self._on_loop(self._close, "runner-asked-to-end")

    def preempted(self) -> None:
        """Handle a SIGTERM; callable from any thread, and from a signal handler."""
        self._on_loop(self._leave)

    def _leave(self) -> None:
        worker = self.worker
        now = time.monotonic()
        self._asked = self._asked or now
        comm = worker.batched_stream.comm
        heard = worker.calls.flame_scheduler and comm is not None and not comm.closed()
        if not heard and worker.status not in _GOING and not self._leaving:
            if now - (self._since or self._asked) < _GREETING:
                # The scheduler may know the messages without having had time to greet.
                worker.loop.call_later(0.05, self._leave)
                return
            if self._since is None:
                # It never registered: let the signal end it, so that the boot is seen to fail.
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGTERM)
                return
        if self._leaving or not heard or worker.status in _GOING:
            self._close("runner-preempted")
            return
        self._leaving = True
        worker.calls.say(LEAVING, why="preempted (SIGTERM)")
        worker.loop.call_later(self.limit, self._close, "runner-preempted")

    def _close(self, reason: str) -> None:
        self.worker.loop.add_callback(self.worker.close, reason=reason)

    def _on_loop(self, what: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the runner is ending
            self.worker.loop.asyncio_loop.call_soon_threadsafe(what, *args)

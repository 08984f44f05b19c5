"""Pause the worker's profiler while it runs no task (runner).

distributed samples a worker's threads 100 times a second for its profile, and measures the delay of
the event loop 50 times a second. This takes a few percent of a core for each worker, busy or idle:
64 idle workers keep two cores busy.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from distributed import Worker

from dask_flame.core.distributed_internals import restart_ticks

#: Callbacks of :class:`distributed.Worker` that are of no use on an idle worker.
_CALLBACKS = ("profile", "profile-cycle", "tick", "ticks")
#: Seconds between the last call and the pause.
_DELAY = 1.0


class IdleProfiling:
    """Pause the measurements of a worker while it has no call and no actor.

    Parameters
    ----------
    worker : distributed.Worker
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._calls = 0
        self._since = 0.0
        self._paused = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def paused(self) -> bool:
        """Whether the measurements are paused."""
        return self._paused

    def started(self) -> None:
        """Begin to watch for idleness, once the worker has started."""
        self._since = monotonic() - _DELAY
        self._look()

    def begin(self) -> None:
        """Resume the measurements for a call."""
        self._calls += 1
        if self._paused and not self._closed:
            self._paused = False
            # Or the pause would count as a delay.
            worker = self._worker
            restart_ticks(worker)
            for name in _CALLBACKS:
                if name in worker.periodic_callbacks:
                    worker.periodic_callbacks[name].start()

    def end(self) -> None:
        """Record the end of a call."""
        self._calls -= 1
        self._since = monotonic()
        if not self._calls and self._timer is None and not self._closed:
            self._wait(_DELAY)

    def close(self) -> None:
        """Cancel the timer, and resume nothing any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._calls or self._paused:
            return
        left = self._since + _DELAY - monotonic()
        if left > 0 or self._worker.state.actors:
            self._wait(max(left, _DELAY))
            return
        self._paused = True
        for name in _CALLBACKS:
            if name in self._worker.periodic_callbacks:
                self._worker.periodic_callbacks[name].stop()

"""What a worker measures of the calls that it executes, it does not while it has none (runner).

distributed looks at a worker's threads 100 times a second, for its profile, and 50 times at how
late its event loop is. That takes a few percent of a core for each worker, be it busy or not: 64
idle ones keep two cores busy.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from distributed import Worker

from dask_flame.core.distributed_internals import restart_ticks

#: Callbacks of :class:`distributed.Worker` that tell nothing of an idle one.
_OF_CALLS = ("profile", "profile-cycle", "tick", "ticks")
#: Seconds after the last call.
_LINGER = 1.0


class IdleProfiling:
    """Stops a worker's measurements while it has no call, and no actor.

    Parameters
    ----------
    worker : distributed.Worker
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._calls = 0
        self._since = 0.0
        self._resting = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def resting(self) -> bool:
        """Whether nothing is measured now."""
        return self._resting

    def started(self) -> None:
        """The worker has started."""
        self._since = monotonic() - _LINGER
        self._look()

    def begin(self) -> None:
        """A call begins."""
        self._calls += 1
        if self._resting and not self._closed:
            self._resting = False
            # What the measurements compare with, or else the rest would be taken for a delay.
            worker = self._worker
            restart_ticks(worker)
            for name in _OF_CALLS:
                if name in worker.periodic_callbacks:
                    worker.periodic_callbacks[name].start()

    def end(self) -> None:
        """A call has ended."""
        self._calls -= 1
        self._since = monotonic()
        if not self._calls and self._timer is None and not self._closed:
            self._wait(_LINGER)

    def close(self) -> None:
        """Start nothing any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._calls or self._resting:
            return
        left = self._since + _LINGER - monotonic()
        if left > 0 or self._worker.state.actors:
            self._wait(max(left, _LINGER))
            return
        self._resting = True
        for name in _OF_CALLS:
            if name in self._worker.periodic_callbacks:
                self._worker.periodic_callbacks[name].stop()

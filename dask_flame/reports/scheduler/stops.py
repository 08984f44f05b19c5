"""Pass the stops of calls on to their runners (scheduler)."""

from __future__ import annotations

from collections.abc import Iterable
from time import time

from dask.typing import Key
from distributed import Scheduler
from distributed.protocol import pickle
from distributed.scheduler import TaskState

from dask_flame.core.client_ids import ONLY_LOOKS, is_observer
from dask_flame.core.messages import STOP
from dask_flame.errors import CallStopped, FlameError

#: States of a task that waits for a worker.
_WAITING = frozenset({"queued", "no-worker"})
#: States after which a call does not run any more, unless somebody asks for it again.
_ENDED = frozenset({"memory", "erred", "forgotten"})
#: Maximum number of stops of calls that are not known yet, and may never be.
_MOST = 10_000


class CallStops:
    """Stops of calls that have not ended.

    A stop applies to a call until it ends, on each runner that it runs on: it may be lost with its
    runner, or move to another one before it begins. A call that waits for a runner fails at once.

    Parameters
    ----------
    scheduler : Scheduler

    Attributes
    ----------
    wanted : dict
        How reports tell each of these calls; see :meth:`stop`.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.wanted: dict[Key, str] = {}
        scheduler.handlers[STOP] = self.stop

    def __bool__(self) -> bool:
        return bool(self.wanted)

    def close(self) -> None:
        """Accept no more stops."""
        self._scheduler.handlers.pop(STOP, None)
        self.wanted.clear()

    def stop(self, keys: Iterable[Key], how: str, client: str = "") -> bool:
        """Stop calls; the tasks of those that have just been submitted may arrive later.

        Parameters
        ----------
        keys : iterable of Key
        how : str
            ``raise`` or ``return``: how reports tell; then a space and the reason, if there is one.
        client : str, optional
            The id of the client that asks.

        Raises
        ------
        FlameError
            It only observes.
        """
        if is_observer(client):
            raise FlameError(f"stop() {ONLY_LOOKS}")
        for key in keys:
            ts = self._scheduler.tasks.get(key)
            if ts is not None and ts.state in _ENDED:
                continue
            self.wanted.pop(key, None)
            self.wanted[key] = how
            if ts is not None:
                self._apply(ts)
        while len(self.wanted) > _MOST:
            del self.wanted[next(iter(self.wanted))]
        return True

    def transition(self, key: Key, state: str) -> None:
        """Note that a task has reached this state."""
        if key not in self.wanted:
            return
        if state in _ENDED:
            del self.wanted[key]
        elif state == "processing" or state in _WAITING:
            # Not here, in the middle of a transition.
            self._scheduler.loop.add_callback(self.again, key)

    def again(self, key: Key) -> None:
        """Stop a call again, if it is to be stopped: it may have moved to another runner."""
        ts = self._scheduler.tasks.get(key)
        if key in self.wanted and ts is not None:
            self._apply(ts)

    def _apply(self, ts: TaskState) -> None:
        # An error that is no failure must not be retried.
        ts.retries = 0
        if ts.state in _WAITING:
            self._fail(ts.key)
        elif ts.state == "processing" and ts.processing_on is not None:
            message = {"op": STOP, "key": ts.key, "run_id": ts.run_id, "how": self.wanted[ts.key]}
            self._scheduler.worker_send(ts.processing_on.address, message)

    def _fail(self, key: Key) -> None:
        _, _, why = self.wanted[key].partition(" ")
        error = CallStopped(
            f"{key} was stopped by dask_flame.stop() before it began{': ' * bool(why)}{why}"
        )
        stimulus = f"flame-stopped-{time()}"
        further = self._scheduler.transition(
            key,
            "erred",
            stimulus,
            exception=pickle.dumps(error),
            exception_text=repr(error),
            cause=key,
        )
        self._scheduler.transitions(further, stimulus)

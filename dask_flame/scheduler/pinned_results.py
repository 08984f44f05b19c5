"""Results that cannot be sent, and the calls that depend on them (scheduler)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed import Scheduler
from distributed.scheduler import TaskState, WorkerState

from dask_flame.errors import CallFailed


class PinnedResults:
    """Results that cannot be sent, such as a socket or a lock: calls run on their workers.

    Stock Dask may assign a dependent call to any worker, which then requests its input forever.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    may_run : callable
        Returns whether a worker may run a call, now or later.
    """

    def __init__(
        self, scheduler: Scheduler, may_run: Callable[[WorkerState, TaskState], bool]
    ) -> None:
        self.scheduler = scheduler
        self._may_run = may_run
        self._why: dict[Any, str] = {}

    def note(self, key: Any, why: str) -> bool:
        """Record that a result could not be sent or read; return False if that was known."""
        ts = self.scheduler.tasks.get(key)
        if ts is None or ts.state != "memory" or key in self._why:
            return False
        self._why[key] = why
        return True

    def forget(self, key: Any) -> None:
        """Forget a result that no longer exists."""
        self._why.pop(key, None)

    def why(self, key: Any) -> str:
        """Return why a result cannot be sent; empty if it is not known to be pinned."""
        return self._why.get(key, "")

    def holders(self, ts: TaskState) -> list[WorkerState] | None:
        """Return the workers that hold all pinned inputs of a call.

        Returns
        -------
        list of WorkerState or None
            The holders that may run the call; None if it has no pinned inputs.
        """
        if not self._why:
            return None
        needed = [dts for dts in ts.dependencies if dts.key in self._why]
        if not needed:
            return None
        having = set.intersection(*(set(dts.who_has or ()) for dts in needed))
        return [ws for ws in having if self._may_run(ws, ts)]

    def error(self, ts: TaskState) -> CallFailed:
        """Return the error of a call that no holder of its inputs can run."""
        told = [
            f"{dts.key} is on {', '.join(sorted(str(ws.name) for ws in dts.who_has or ()))} "
            f"({self._why[dts.key]})"
            for dts in ts.dependencies
            if dts.key in self._why
        ]
        return CallFailed(
            f"{ts.key} needs results that cannot be sent to another runner, and cannot run where "
            f"they are: {'; '.join(told)}. Return what can be pickled from the calls that make "
            "them, or make and use them in one call"
        )

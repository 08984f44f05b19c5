"""Results that cannot leave the runner that has them, and the calls that use them (scheduler)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed import Scheduler
from distributed.scheduler import TaskState, WorkerState

from dask_flame.errors import CallFailed


class PinnedResults:
    """Results that could not be sent, such as an open socket or a lock: calls go where they are.

    Stock Dask gives a call to any worker, which asks for its input for ever.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    may_run : callable
        Whether a worker may ever run a call, be it busy at the moment or not.
    """

    def __init__(
        self, scheduler: Scheduler, may_run: Callable[[WorkerState, TaskState], bool]
    ) -> None:
        self.scheduler = scheduler
        self._may_run = may_run
        self._why: dict[Any, str] = {}

    def note(self, key: Any, why: str) -> bool:
        """A runner could not send this result, or another could not read it; whether it is news."""
        ts = self.scheduler.tasks.get(key)
        if ts is None or ts.state != "memory" or key in self._why:
            return False
        self._why[key] = why
        return True

    def forget(self, key: Any) -> None:
        """A result is gone."""
        self._why.pop(key, None)

    def why(self, key: Any) -> str:
        """Return why a result cannot be sent; empty where nothing is known of it."""
        return self._why.get(key, "")

    def holders(self, ts: TaskState) -> list[WorkerState] | None:
        """Return the workers that have what this call needs and others cannot be sent.

        Returns
        -------
        list of WorkerState or None
            Those on which it may run. None where all that it needs can be sent.
        """
        if not self._why:
            return None
        needed = [dts for dts in ts.dependencies if dts.key in self._why]
        if not needed:
            return None
        having = set.intersection(*(set(dts.who_has or ()) for dts in needed))
        return [ws for ws in having if self._may_run(ws, ts)]

    def error(self, ts: TaskState) -> CallFailed:
        """Return the error of a call that can run on none of them."""
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

"""Calls whose runner is lost: run them again, or fail them (scheduler).

As in Dask, such a call runs again elsewhere, until it has lost
``distributed.scheduler.allowed-failures`` + 1 runners; a call with ``rerun=False`` does not. Calls
that do not run again are held until the reason for the runner's end is known, so that their error
includes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distributed.metrics import time
from distributed.scheduler import TaskState, WorkerState

from dask_flame.core.runner_lost import RunnerLost
from dask_flame.scheduler.base import SchedulerBase

#: Seconds after which a call fails without a reason, if none is known.
_TELL_WITHIN = 10.0
#: Number of lost scattered keys whose reasons are kept.
_KEPT = 1000


class LostCalls:
    """The calls that are held because their runner was lost, with the reasons.

    Parameters
    ----------
    scheduler : SchedulerBase

    Attributes
    ----------
    limit : int
        Maximum number of lost runners after which a call still runs again.
    """

    def __init__(self, scheduler: SchedulerBase) -> None:
        self.scheduler = scheduler
        self.limit = 0
        self._runner: dict[Any, str] = {}
        self._tried: dict[Any, int] = {}
        self._why: dict[Any, str] = {}
        self._cancelled: dict[Any, str] = {}
        self._ended: dict[str, str] = {}  # reasons by runner, the latest ones

    def __contains__(self, key: Any) -> bool:
        return key in self._runner

    def leaves(self, ws: WorkerState, *, expected: bool) -> None:
        """Hold the calls that must not run again after the removal of a worker.

        Called before the removal; `expected` removals do not count as failures.
        """
        held = []
        for ts in ws.processing:
            tried = ts.suspicious + (not expected)
            if _only_once(ts):
                self._tried[ts.key] = 0
            elif tried > self.limit:
                self._tried[ts.key] = tried
            else:
                continue
            held.append(ts.key)
        # Dask would recompute results of which this worker has the only copy.
        held += [
            ts.key
            for ts in ws.has_what
            if _only_once(ts) and len(ts.who_has or ()) == 1 and not ts.actor
        ]
        name = str(ws.name)
        for key in held:
            self._runner[key] = name
            if name in self._ended:  # the substrate was faster than the connection
                self._why[key] = self._ended[name]
        if held:
            self.scheduler.loop.call_later(
                _TELL_WITHIN, self.settle, name, "nobody could say what ended it"
            )

    def broken(self, address: str, why: Mapping[Any, str]) -> None:
        """Handle results that a worker can no longer read: recompute those without another copy.

        Results of calls with ``rerun=False``, scattered data, and tasks that depend on them fail.

        Parameters
        ----------
        address : str
            Address of the worker.
        why : mapping
            Reasons by key.
        """
        scheduler = self.scheduler
        ws = scheduler.workers.get(address)
        lost = []
        for key, reason in why.items():
            ts = scheduler.tasks.get(key)
            if ws is None or ts is None or ws not in (ts.who_has or ()):
                continue
            lost.append(key)
            if _only_once(ts) and len(ts.who_has or ()) == 1:
                self._runner[key], self._tried[key], self._why[key] = str(ws.name), 0, reason
            wanted = [] if ts.run_spec else _wanted_with(ts)
            # The worker sends the same message a moment later.
            scheduler.release_worker_data(key, address, stimulus_id=f"flame-broken-{time()}")
            self._cancel(wanted, f"what was scattered is lost: {reason}; scatter it again")
        if lost:
            others = f", and of {len(lost) - 1} others" if lost[1:] else ""
            scheduler.observer.happened("lost", f"the result of {lost[0]}{others}: {why[lost[0]]}")
            scheduler.demand_changed()

    def _cancel(self, wanted: list[tuple[str, Any]], why: str) -> None:
        """Notify clients why those of these keys that no longer exist have no result."""
        for client, key in wanted:
            if key not in self.scheduler.tasks:
                self._cancelled[key] = why
                self.scheduler.client_send(client, self.cancelled(key))
        while len(self._cancelled) > _KEPT:
            del self._cancelled[next(iter(self._cancelled))]

    def cancelled(self, key: Any) -> dict[str, Any]:
        """Return the message for a client that requests a lost key; empty without a reason."""
        if key not in self._cancelled:
            return {}
        why = self._cancelled[key]
        return {"op": "cancelled-keys", "keys": [key], "reason": "flame-lost", "msg": why}

    def settle(self, name: str, why: str) -> None:
        """Fail the held calls of a runner, with the reason for its end.

        The runner may not have left yet.
        """
        self._ended.setdefault(name, why)
        while len(self._ended) > _KEPT:
            del self._ended[next(iter(self._ended))]
        for key, runner in list(self._runner.items()):
            if runner == name and key not in self._why:
                self._why[key] = why
                self.waits(key)

    def waits(self, key: Any) -> None:
        """Fail a held call that waits for a slot, if the reason is known."""
        ts = self.scheduler.tasks.get(key)
        if key in self._why and ts is not None and ts.state == "no-worker":
            tried = self._tried.get(key, 0)
            error = RunnerLost(key, self._runner[key], self._why[key], tried)
            self.scheduler.fail_soon([key], error)

    def forget(self, key: Any) -> None:
        """Forget a call that was removed, has failed, or is tried again."""
        for known in (self._runner, self._tried, self._why):
            known.pop(key, None)


def _wanted_with(ts: TaskState) -> list[tuple[str, Any]]:
    """Return the clients and keys that want a task or its dependents."""
    wanted, seen, todo = [], {ts}, [ts]
    while todo:
        each = todo.pop()
        wanted += [(cs.client_key, each.key) for cs in each.who_wants or ()]
        new = each.dependents - seen
        seen |= new
        todo += new
    return wanted


def _only_once(ts: Any) -> bool:
    return (ts.annotations or {}).get("rerun") is False

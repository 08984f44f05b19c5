"""Calls that go down with their runner: which run again, and what the others are told (scheduler).

A call whose runner is lost runs again elsewhere, as in Dask, until it has gone down with
``distributed.scheduler.allowed-failures`` + 1 runners; a call with ``rerun=False`` does not. Those
that do not run again are held back until it is known what ended the runner, so that the error
says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distributed.metrics import time
from distributed.scheduler import TaskState, WorkerState

from dask_flame.core.runner_lost import RunnerLost
from dask_flame.scheduler.base import SchedulerBase

#: Seconds after which a call fails without the reason, if nobody has told it.
_TELL_WITHIN = 10.0
#: Keys that nobody can make again of which it is remembered why they are gone.
_KEPT = 1000


class LostCalls:
    """The calls that are held back, and why.

    Parameters
    ----------
    scheduler : SchedulerBase

    Attributes
    ----------
    limit : int
        How many runners a call may go down with and run again.
    """

    def __init__(self, scheduler: SchedulerBase) -> None:
        self.scheduler = scheduler
        self.limit = 0
        self._runner: dict[Any, str] = {}
        self._tried: dict[Any, int] = {}
        self._why: dict[Any, str] = {}
        self._cancelled: dict[Any, str] = {}

    def __contains__(self, key: Any) -> bool:
        return key in self._runner

    def leaves(self, ws: WorkerState, *, expected: bool) -> None:
        """A worker is about to be removed: hold back what must not run again because of it."""
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
        # A result that nobody else has would be computed again.
        held += [
            ts.key
            for ts in ws.has_what
            if _only_once(ts) and len(ts.who_has or ()) == 1 and not ts.actor
        ]
        for key in held:
            self._runner[key] = str(ws.name)
        if held:
            name = str(ws.name)
            self.scheduler.loop.call_later(
                _TELL_WITHIN, self.settle, name, "nobody could say what ended it"
            )

    def broken(self, address: str, why: Mapping[Any, str]) -> None:
        """A worker cannot read these results any more: have those that nobody else has made again.

        Those of ``rerun=False`` fail, with what has been scattered, and all that needs it.
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
            # As when the worker itself says so, which it does a moment later.
            scheduler.release_worker_data(key, address, stimulus_id=f"flame-broken-{time()}")
            self._cancel(wanted, f"what was scattered is lost: {reason}; scatter it again")
        if lost:
            others = f", and of {len(lost) - 1} others" if lost[1:] else ""
            scheduler.observer.happened("lost", f"the result of {lost[0]}{others}: {why[lost[0]]}")
            scheduler.demand_changed()

    def _cancel(self, wanted: list[tuple[str, Any]], why: str) -> None:
        """Say why these keys, as far as they are not known any more, have no result."""
        for client, key in wanted:
            if key not in self.scheduler.tasks:
                self._cancelled[key] = why
                self.scheduler.client_send(client, self.cancelled(key))
        while len(self._cancelled) > _KEPT:
            del self._cancelled[next(iter(self._cancelled))]

    def cancelled(self, key: Any) -> dict[str, Any]:
        """What a client is told that asks for this; empty where it is not known why it is gone."""
        if key not in self._cancelled:
            return {}
        why = self._cancelled[key]
        return {"op": "cancelled-keys", "keys": [key], "reason": "flame-lost", "msg": why}

    def settle(self, name: str, why: str) -> None:
        """It is known what ended a runner: the calls that went down with it fail with it."""
        for key, runner in list(self._runner.items()):
            if runner == name and key not in self._why:
                self._why[key] = why
                self.waits(key)

    def waits(self, key: Any) -> None:
        """A call that is held back has come to wait for a slot, where it can be failed."""
        ts = self.scheduler.tasks.get(key)
        if key in self._why and ts is not None and ts.state == "no-worker":
            tried = self._tried.get(key, 0)
            error = RunnerLost(key, self._runner[key], self._why[key], tried)
            self.scheduler.fail_soon([key], error)

    def forget(self, key: Any) -> None:
        """A call is known no more, or is being tried anew."""
        for known in (self._runner, self._tried, self._why):
            known.pop(key, None)


def _wanted_with(ts: TaskState) -> list[tuple[str, Any]]:
    """Who wants something, and all that depends on it, by client and key."""
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

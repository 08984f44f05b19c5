"""Which slots are free, and which calls wait for one (scheduler)."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed import Scheduler, SchedulerPlugin
from distributed.collections import HeapSet
from distributed.scheduler import TaskState, WorkerState

from dask_flame.protocol import RESTING, RUNNER, WATCH

if TYPE_CHECKING:
    from dask_flame.scheduler import FlameScheduler

#: What calls that wait for the same runners have in common: the workers, hosts and resources they
#: are restricted to, and whether others will do.
Lane = tuple[frozenset[str], frozenset[str], frozenset[tuple[str, float]], bool]


class Slots(SchedulerPlugin):
    """Which slots are free, and which calls wait for one.

    Calls that wait are in distributed's state ``no-worker``. Those that could run on the same
    workers form a lane, in order of priority; when slots open, only the heads of the lanes have to
    be looked at.
    """

    name = "flame-slots"

    def __init__(self, scheduler: FlameScheduler) -> None:
        self.scheduler = scheduler
        self._lanes: dict[Lane, HeapSet[TaskState]] = {}
        self._lane_of: dict[Any, Lane] = {}
        self._on: dict[Any, WorkerState] = {}
        self._cancelled: dict[str, set[Any]] = {}
        self._names: dict[str, str] = {}

    def waiting(self, resources: Mapping[str, float] | None) -> int:
        """Calls that wait: all, or those that a new runner with these resources could take."""
        return sum(
            len(tasks)
            for lane, tasks in self._lanes.items()
            if resources is None or _would_help(lane, resources)
        )

    def keys(self) -> list[Any]:
        return list(self._lane_of)

    def cancelled(self, ws: WorkerState) -> int:
        return len(self._cancelled.get(ws.address, ()))

    def free(self, ws: WorkerState) -> int:
        """Slots of a worker that nothing occupies."""
        taken = len(ws.processing) - len(ws.long_running) + self.cancelled(ws)
        return int(ws.nthreads) - taken

    def open(self) -> list[WorkerState]:
        """Workers with a free slot that may be given a call."""
        scheduler = self.scheduler
        return [
            ws
            for ws in scheduler.idle_task_count
            if ws.address not in scheduler.draining
            and ws.address not in scheduler.resting
            and self.free(ws) > 0
        ]

    def choose(self, ts: TaskState) -> WorkerState | None:
        """The worker for a call that is ready to run; None where it has to wait."""
        candidates = self.open()
        if candidates and (ts.worker_restrictions or ts.host_restrictions):
            valid = self.scheduler.valid_workers(ts) or set()
            preferred = [ws for ws in candidates if ws in valid]
            if preferred or not ts.loose_restrictions:
                candidates = preferred
        if candidates and ts.resource_restrictions:
            candidates = [ws for ws in candidates if _affords(ws, ts.resource_restrictions)]
        if not candidates:
            return None
        if ts.dependencies or ts.actor:
            return min(candidates, key=partial(self.scheduler.worker_objective, ts))
        return max(candidates, key=lambda ws: (self.free(ws) / ws.nthreads, -ws.nbytes))

    def next(self) -> Any | None:
        """Key of the call that should have the next free slot; None where none can have one."""
        if not self._lanes or not self.open():
            return None
        heads = sorted((lane.peek() for lane in self._lanes.values()), key=_PRIORITY)
        return next((ts.key for ts in heads if self.choose(ts) is not None), None)

    def freed(self, key: Any, worker: str, **kwargs: Any) -> None:
        """A runner says that the thread of a cancelled call is free again."""
        self._cancelled.get(worker, set()).discard(key)
        ws = self.scheduler.workers.get(worker)
        if ws is not None:
            self.scheduler.note(ws.name)
            self.scheduler.reopen()

    # Hooks

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        ts = self.scheduler.tasks[key]
        if start == "no-worker" != finish:
            self._leave(ts)
        if start == "processing" != finish:
            self._stopped(key, over=finish in ("memory", "erred"))
        if finish == "no-worker" != start:
            self._wait(ts)
        elif finish == "processing" != start:
            self._on[key] = ts.processing_on
            self.scheduler.note(ts.processing_on.name)
        elif ts.actor:
            self.scheduler.note(*(ws.name for ws in self.scheduler.workers.values()))

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        ws = scheduler.workers[worker]
        self._names[worker] = ws.name
        if ws.extra.get(RESTING):
            self.scheduler.resting.add(worker)
        if ws.name in self.scheduler.unwelcome:
            self.scheduler.draining.add(worker)
        self.scheduler.note(self._names[worker])

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        self._cancelled.pop(worker, None)
        self.scheduler.draining.discard(worker)
        self.scheduler.resting.discard(worker)
        self.scheduler.note(self._names.pop(worker))

    def restart(self, scheduler: Scheduler) -> None:
        for known in (self._lanes, self._lane_of, self._on, self._cancelled):
            known.clear()
        self.scheduler.note()

    # Lanes and slots

    def _wait(self, ts: TaskState) -> None:
        lane = _lane(ts)
        self._lane_of[ts.key] = lane
        if lane not in self._lanes:
            self._lanes[lane] = HeapSet(key=_PRIORITY)
        self._lanes[lane].add(ts)
        self.scheduler.note()

    def _leave(self, ts: TaskState) -> None:
        lane = self._lane_of.pop(ts.key, None)
        if lane is not None:
            self._lanes[lane].discard(ts)
            if not self._lanes[lane]:
                del self._lanes[lane]
            self.scheduler.note()

    def _stopped(self, key: Any, *, over: bool) -> None:
        ws = self._on.pop(key, None)
        if ws is None or self.scheduler.workers.get(ws.address) is not ws:
            self.scheduler.note()
            return
        if not over and ws.extra.get(RUNNER):
            # The call was taken back, but its thread may go on: the slot is free when the runner
            # says so. distributed itself takes it for free at once.
            self._cancelled.setdefault(ws.address, set()).add(key)
            self.scheduler.worker_send(ws.address, {"op": WATCH, "key": key})
        elif not over:
            self.scheduler.reopen()
        self.scheduler.note(ws.name)


_PRIORITY = operator.attrgetter("priority")


def _lane(ts: TaskState) -> Lane:
    return (
        frozenset(ts.worker_restrictions or ()),
        frozenset(ts.host_restrictions or ()),
        frozenset((ts.resource_restrictions or {}).items()),
        bool(ts.loose_restrictions),
    )


def _would_help(lane: Lane, resources: Mapping[str, float]) -> bool:
    workers, hosts, needs, loose = lane
    return (loose or not (workers or hosts)) and all(
        resources.get(name, 0) >= amount for name, amount in needs
    )


def _affords(ws: WorkerState, needs: Mapping[str, float]) -> bool:
    return all(
        ws.resources.get(name, 0) - ws.used_resources.get(name, 0) >= amount
        for name, amount in needs.items()
    )

"""Placement and demand (scheduler): which runner takes which call, and how many slots are wanted.

The one room that touches the inside of distributed's scheduler. Stock Dask gives a worker more
tasks than it has threads, unless the tasks belong to a group that looks "root-ish", and moves them
later by stealing. Here no runner is given more calls than it has slots, whatever the calls depend
on; the others wait in the scheduler, in order of priority, and go to the first slot that opens.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from distributed import Scheduler, SchedulerPlugin
from distributed.collections import HeapSet
from distributed.metrics import time
from distributed.protocol import pickle
from distributed.scheduler import DEFAULT_EXTENSIONS, TaskState, WorkerState

from dask_flame.protocol import FREED, RESTING, RUNNER, WATCH

#: What calls that wait for the same runners have in common: the workers, hosts and resources they
#: are restricted to, and whether others will do.
Lane = tuple[frozenset[str], frozenset[str], frozenset[tuple[str, float]], bool]


@dataclass(frozen=True, slots=True)
class Load:
    """What one runner is doing.

    Attributes
    ----------
    busy : int
        Calls on it that somebody wants, those that left their slot (``secede``) and actors too.
    cancelled : int
        Calls on it that nobody wants any more and whose thread has not come back.
    """

    busy: int
    cancelled: int


class FlameScheduler(Scheduler):
    """A :class:`distributed.Scheduler` whose workers never hold more calls than they have slots.

    A worker's slots are its ``nthreads``. A task that called ``secede`` has left its slot; a
    cancelled call keeps its slot until its thread comes back. Takes what ``Scheduler`` takes.

    Attributes
    ----------
    on_change : callable or None
        Called with no argument whenever demand or a runner's load may have changed.
    changed : set of str
        Names of the workers that came, went, or whose load may have changed since the reader last
        cleared it.
    draining : set of str
        Addresses of workers that get no further calls.
    unwelcome : set of str
        Names of workers that get no calls should they still register: they are being ended.
    resting : set of str
        Addresses of workers that only hold data: never given calls, left out of broadcasts.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.on_change: Callable[[], None] | None = None
        self.changed: set[str] = set()
        self.draining: set[str] = set()
        self.unwelcome: set[str] = set()
        self.resting: set[str] = set()
        self._scattering = 0
        self._slots = _Slots(self)
        extensions = {k: v for k, v in DEFAULT_EXTENSIONS.items() if k != "stealing"}
        plugins = (self._slots, *kwargs.pop("plugins", ()))
        super().__init__(extensions=extensions, plugins=plugins, **kwargs)
        # One task a thread: `idle_task_count` is then the set of workers with a free thread.
        self.WORKER_SATURATION = 1.0
        # Calls wait here for runners that boot; boots that fail are the fleet's to judge.
        self.no_workers_timeout = None
        self.stream_handlers[FREED] = self._slots.freed

    # What the driver's half reads and does

    def demand(self, resources: Mapping[str, float] | None = None) -> int:
        """Slots that could be used now: calls running and calls ready to run.

        Parameters
        ----------
        resources : mapping of str to float, optional
            The resources that a new runner would offer. Calls that ask for others, or for a
            worker by name, are not counted: booting a runner would not help them.
        """
        running = sum(
            len(ws.processing) - len(ws.long_running)
            for ws in self.workers.values()
            if ws.address not in self.resting
        )
        # To scatter needs a runner to scatter to.
        scattering = 1 if self._scattering and not self.running else 0
        return running + scattering + self._slots.waiting(resources or {})

    def waiting(self) -> int:
        """Calls that are ready to run and have no slot."""
        return self._slots.waiting(None)

    def load(self, name: str) -> Load:
        """What the worker of this name is doing; nothing, where it is unknown."""
        ws = self.workers.get(self.aliases.get(name, ""))
        if ws is None:
            return Load(0, 0)
        return Load(len(ws.processing) + len(ws.actors), self._slots.cancelled(ws))

    def fail_waiting(self, error: Exception) -> int:
        """Fail every call that waits for a slot with this error; returns their number."""
        pickled = pickle.dumps(error)
        keys = self._slots.keys()
        for key in keys:
            # As distributed does it when `no-workers-timeout` has passed.
            stimulus = f"flame-boots-failed-{time()}"
            further = self.transition(key, "erred", stimulus, exception=pickled, cause=key)
            self.transitions(further, stimulus)
        return len(keys)

    def note(self, *names: str) -> None:
        """Tell the reader that demand, or the load of these workers, may have changed."""
        self.changed.update(names)
        if self.on_change is not None:
            self.on_change()

    def reopen(self) -> None:
        """Give out slots that may have opened, after all that happens in this turn of the loop."""
        self.loop.add_callback(
            lambda: self.stimulus_queue_slots_maybe_opened(stimulus_id=f"flame-slots-{time()}")
        )

    # What distributed asks, answered here instead

    def is_rootish(self, ts: TaskState) -> bool:
        # Root-ish tasks would wait in the stock queue, which knows neither lanes nor draining.
        return False

    def decide_worker_non_rootish(self, ts: TaskState) -> WorkerState | None:
        if not ts._queueable:
            # Private, and set by the P2P shuffle alone, on tasks that only reschedule themselves:
            # holding them back would slow the shuffle down, and they keep no slot.
            return super().decide_worker_non_rootish(ts)
        return self._slots.choose(ts)

    def bulk_schedule_unrunnable_after_adding_worker(self, ws: WorkerState) -> dict[Any, Any]:
        # Stock offers all that waits to the newcomer. Its slots are given out, in order, by
        # `stimulus_queue_slots_maybe_opened`, which distributed calls right after this.
        return {}

    def stimulus_queue_slots_maybe_opened(self, *, stimulus_id: str) -> None:
        while (key := self._slots.next()) is not None:
            self.transitions({key: "processing"}, stimulus_id)

    def handle_long_running(self, **kwargs: Any) -> None:
        super().handle_long_running(**kwargs)
        self.note()

    async def scatter(self, *args: Any, **kwargs: Any) -> Any:
        self._scattering += 1
        self.note()
        try:
            return await super().scatter(*args, **kwargs)
        finally:
            self._scattering -= 1
            self.note()

    async def restart_workers(self, *args: Any, **kwargs: Any) -> Any:
        # Stock waits until as many workers have come back: here they come when they are wanted.
        return await super().restart_workers(*args, **{**kwargs, "wait_for_workers": False})

    async def broadcast(self, *, workers: list[str] | None = None, **kwargs: Any) -> Any:
        if workers is None and kwargs.get("hosts") is None and self.resting:
            workers = [a for a in self.workers if a not in self.resting]
        return await super().broadcast(workers=workers, **kwargs)


class _Slots(SchedulerPlugin):
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

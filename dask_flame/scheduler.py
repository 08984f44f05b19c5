"""Placement and demand (scheduler): which runner takes which call, and how many slots are wanted.

With :mod:`dask_flame.slots` the one place that touches the inside of distributed's scheduler. Stock
Dask gives a worker more tasks than it has threads, unless the tasks belong to a group that looks
"root-ish", and moves them later by stealing. Here no runner is given more calls than it has slots,
whatever the calls depend on; the others wait in the scheduler, in order of priority, and go to the
first slot that opens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distributed import Scheduler
from distributed.metrics import time
from distributed.protocol import pickle
from distributed.scheduler import DEFAULT_EXTENSIONS, TaskState, WorkerState

from dask_flame.protocol import FREED
from dask_flame.slots import Slots


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
        self._slots = Slots(self)
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

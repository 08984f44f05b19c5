"""The scheduler as its parts know it: a stock scheduler, and the states of its runners (scheduler).

:class:`~dask_flame.scheduler.scheduler.FlameScheduler` consists of parts, each of which needs only
what is here, and the parts that it is handed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from distributed import Scheduler
from distributed.metrics import time
from distributed.protocol import pickle

from dask_flame.scheduler.observer import NoObserver, SchedulerObserver


class SchedulerBase(Scheduler):
    """A :class:`distributed.Scheduler` that knows which runners take calls.

    Takes what ``Scheduler`` takes.

    Attributes
    ----------
    observer : SchedulerObserver
        It is told of changes; see :meth:`report_to`.
    draining : set of str
        Addresses of workers that get no further calls.
    unwelcome : set of str
        Names of workers that get no calls should they still register: they are being ended.
    resting : set of str
        Addresses of workers that only hold data: never given calls, left out of broadcasts.
    spent : set of str
        Names of workers of single-use pools on which a call has ended.
    paused : dict of str to str
        Names of workers that Dask has begin no calls for now, and why.
    waiters : set of asyncio.Event
        Set whenever demand or a runner's load may have changed.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.observer: SchedulerObserver = NoObserver()
        self.draining: set[str] = set()
        self.unwelcome: set[str] = set()
        self.resting: set[str] = set()
        self.spent: set[str] = set()
        self.paused: dict[str, str] = {}
        self.waiters: set[asyncio.Event] = set()
        super().__init__(**kwargs)

    def report_to(self, observer: SchedulerObserver) -> None:
        """Tell this observer of changes from now on, and no other."""
        self.observer = observer

    def demand_changed(self) -> None:
        """Tell all that wait that demand may have changed."""
        for event in self.waiters:
            event.set()
        self.observer.demand_changed()

    def runner_changed(self, name: str) -> None:
        """Tell all that wait that demand, or the load of this worker, may have changed."""
        for event in self.waiters:
            event.set()
        self.observer.runner_changed(name)

    def reopen(self) -> None:
        """Give out slots that may have opened, after all that happens in this turn of the loop."""
        self.loop.add_callback(
            lambda: self.stimulus_queue_slots_maybe_opened(stimulus_id=f"flame-slots-{time()}")
        )

    def fail(self, keys: Iterable[Any], error: Exception) -> None:
        """Fail those of these calls that wait for a slot."""
        pickled = pickle.dumps(error)
        for key in keys:
            ts = self.tasks.get(key)
            if ts is not None and ts.state == "no-worker":
                # As distributed does it when `no-workers-timeout` has passed.
                stimulus = f"flame-failed-{time()}"
                further = self.transition(
                    key,
                    "erred",
                    stimulus,
                    exception=pickled,
                    exception_text=repr(error),
                    cause=key,
                )
                self.transitions(further, stimulus)

    def fail_soon(self, keys: Iterable[Any], error: Exception) -> None:
        """Fail these calls, as far as they then wait, after this turn of the loop."""
        self.loop.add_callback(self.fail, list(keys), error)

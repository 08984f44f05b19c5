"""The scheduler as its parts know it: a stock scheduler, and the states of its runners (scheduler).

:class:`~dask_flame.scheduler.scheduler.FlameScheduler` consists of parts, each of which needs only
what is here, and the parts that it is handed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from distributed import Scheduler
from distributed.metrics import time
from distributed.protocol import pickle


class SchedulerBase(Scheduler):
    """A :class:`distributed.Scheduler` that knows which runners take calls.

    Takes what ``Scheduler`` takes.

    Attributes
    ----------
    on_change : callable or None
        Called with no argument whenever demand or a runner's load may have changed.
    changed : set of str
        Names of the workers that came, went, or whose load may have changed since the reader last
        cleared it.
    began : set of str
        Names of the workers on which a call has begun since the reader last cleared it.
    draining : set of str
        Addresses of workers that get no further calls.
    unwelcome : set of str
        Names of workers that get no calls should they still register: they are being ended.
    resting : set of str
        Addresses of workers that only hold data: never given calls, left out of broadcasts.
    spent : set of str
        Names of workers of single-use pools on which a call has ended.
    leaving : dict of str to str
        Names of workers that are being taken away, and why.
    paused : dict of str to str
        Names of workers that Dask has begin no calls for now, and why.
    unfit : dict of str to str
        Names of workers that were not let in, and why.
    parted : set of str
        Names of workers that have been retired, and close.
    mishaps : deque of (str, str)
        What calls have met with, as a kind of event and a sentence, until the reader takes it.
    waiters : set of asyncio.Event
        Set whenever demand or a runner's load may have changed.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.on_change: Callable[[], None] | None = None
        self.changed: set[str] = set()
        self.began: set[str] = set()
        self.draining: set[str] = set()
        self.unwelcome: set[str] = set()
        self.resting: set[str] = set()
        self.spent: set[str] = set()
        self.leaving: dict[str, str] = {}
        self.paused: dict[str, str] = {}
        self.unfit: dict[str, str] = {}
        self.parted: set[str] = set()
        self.mishaps: deque[tuple[str, str]] = deque(maxlen=1000)
        self.waiters: set[asyncio.Event] = set()
        super().__init__(**kwargs)

    def note(self, *names: str) -> None:
        """Tell the reader that demand, or the load of these workers, may have changed."""
        self.changed.update(names)
        for event in self.waiters:
            event.set()
        if self.on_change is not None:
            self.on_change()

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

"""The base class of the scheduler: a stock scheduler with states of its runners (scheduler).

Each part of :class:`~dask_flame.scheduler.scheduler.FlameScheduler` depends only on this class and
the other parts that it receives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import Any

from distributed import Scheduler
from distributed.metrics import time
from distributed.protocol import pickle

from dask_flame.core.messages import INLINE
from dask_flame.core.settings import configured
from dask_flame.scheduler.inline_results import InlineResults
from dask_flame.scheduler.observer import NoObserver, SchedulerObserver


class SchedulerBase(Scheduler):
    """A :class:`distributed.Scheduler` that knows which runners take calls.

    It accepts the parameters of ``Scheduler``.

    Attributes
    ----------
    observer : SchedulerObserver
        Is notified of changes; see :meth:`report_to`.
    inline_results : InlineResults
        Copies of small results.
    draining : set of str
        Addresses of workers that get no further calls.
    unwelcome : set of str
        Names of workers that are being ended, and get no calls if they still register.
    resting : set of str
        Addresses of workers that only hold data: they get no calls and no broadcasts.
    spent : set of str
        Names of workers of single-use pools on which a call has ended.
    paused : dict of str to str
        Names of workers that Dask has paused, with the reason.
    restarting : set of str
        Addresses of workers that end because a client has asked for a restart.
    ending : bool
        Whether the whole cluster closes.
    waiters : set of asyncio.Event
        Events that are set whenever demand or a runner's load may have changed.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.observer: SchedulerObserver = NoObserver()
        self.inline_results = InlineResults(configured("inline-result"))
        self.draining: set[str] = set()
        self.unwelcome: set[str] = set()
        self.resting: set[str] = set()
        self.spent: set[str] = set()
        self.paused: dict[str, str] = {}
        self.restarting: set[str] = set()
        self.ending = False
        self.waiters: set[asyncio.Event] = set()
        plugins = (*kwargs.pop("plugins", ()), self.inline_results)
        super().__init__(plugins=plugins, **kwargs)
        self.extensions[INLINE] = self.inline_results

    def report_to(self, observer: SchedulerObserver) -> None:
        """Notify this observer of changes, in place of the previous one."""
        self.observer = observer

    def demand_changed(self) -> None:
        """Notify the observer and all waiters that demand may have changed."""
        for event in self.waiters:
            event.set()
        self.observer.demand_changed()

    def runner_changed(self, name: str) -> None:
        """Notify the observer and all waiters that this worker's load may have changed."""
        for event in self.waiters:
            event.set()
        self.observer.runner_changed(name)

    # Small results, which come with the end of their call

    def handle_task_finished(
        self, key: Any, worker: str, stimulus_id: str, flame_inline: bytes | None = None, **msg: Any
    ) -> None:
        super().handle_task_finished(key=key, worker=worker, stimulus_id=stimulus_id, **msg)
        if flame_inline is not None:
            ts, ws = self.tasks.get(key), self.workers.get(worker)
            # Not of an earlier run, and not if nobody wants it.
            if ts is not None and ws in (ts.who_has or ()) and ts.run_id == msg["run_id"]:
                self.inline_results.keep(key, flame_inline)

    def update_data(self, *, who_has: dict[Any, list[str]], **kwargs: Any) -> None:
        self.inline_results.forget(who_has)  # these may be other data with the same keys
        super().update_data(who_has=who_has, **kwargs)

    async def gather(
        self, keys: Collection[Any], serializers: list[str] | None = None
    ) -> dict[Any, Any]:
        inline = {} if serializers else self.inline_results.serialized(keys)
        rest = [key for key in keys if key not in inline]
        if inline and not rest:
            self.log_event("all", {"action": "gather", "count": len(keys)})
            return {"status": "OK", "data": inline}
        answer: dict[Any, Any] = await super().gather(rest, serializers)
        if answer["status"] == "OK":
            answer["data"].update(inline)
        return answer

    # Calls

    def reopen(self) -> None:
        """Assign free slots in the next iteration of the event loop."""
        self.loop.add_callback(
            lambda: self.stimulus_queue_slots_maybe_opened(stimulus_id=f"flame-slots-{time()}")
        )

    def fail(self, keys: Iterable[Any], error: Exception) -> None:
        """Fail these calls if they wait for a slot."""
        pickled = pickle.dumps(error)
        for key in keys:
            ts = self.tasks.get(key)
            if ts is not None and ts.state == "no-worker":
                # As distributed does after `no-workers-timeout`.
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
        """Fail these calls in the loop's next iteration, if they then wait for a slot."""
        self.loop.add_callback(self.fail, list(keys), error)

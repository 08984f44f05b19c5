"""Which runners a P2P shuffle may use (scheduler)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed.scheduler import TaskState
from distributed.shuffle import ShuffleSchedulerPlugin

from dask_flame.core.distributed_internals import ShuffleSpec, barrier_key
from dask_flame.scheduler.base import SchedulerBase


class Shuffles(ShuffleSchedulerPlugin):
    """Distributed's P2P shuffle, within one pool.

    Stock pins the outputs to all workers there are: to other pools' runners, to those that take no
    further calls, and to home.

    Parameters
    ----------
    scheduler : SchedulerBase
    fit : callable
        Returns the addresses of the workers that a call may run on.
    """

    scheduler: SchedulerBase

    def __init__(self, scheduler: SchedulerBase, fit: Callable[[TaskState], set[str]]) -> None:
        super().__init__(scheduler)
        self._fit = fit

    def _calculate_worker_for(self, spec: ShuffleSpec) -> dict[Any, str]:
        # Private, as there is no other place where stock can be told which workers to take.
        barrier = self.scheduler.tasks[barrier_key(spec.id)]
        asked = barrier.worker_restrictions
        if not asked:
            barrier.worker_restrictions = self._fit(barrier)
        try:
            pinned: dict[Any, str] = super()._calculate_worker_for(spec)
            return pinned
        finally:
            barrier.worker_restrictions = asked

    def takes_part(self, address: str) -> bool:
        """Whether a worker holds a part of a shuffle that goes on."""
        ws = self.scheduler.workers.get(address)
        return ws is not None and not self.valid_workers_downscaling(self.scheduler, [ws])

    def transition(self, *args: Any, **kwargs: Any) -> None:
        if not self.active_shuffles:
            super().transition(*args, **kwargs)
            return
        before = dict(self.active_shuffles)
        super().transition(*args, **kwargs)
        for shuffle_id, shuffle in before.items():
            if shuffle_id not in self.active_shuffles:
                # Those that took part in it are free to go.
                workers = self.scheduler.workers
                for address in shuffle.participating_workers:
                    if address in workers:
                        self.scheduler.runner_changed(workers[address].name)

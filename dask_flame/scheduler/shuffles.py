"""Restrict P2P shuffles to runners of one pool (scheduler)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed.scheduler import TaskState
from distributed.shuffle import ShuffleSchedulerPlugin

from dask_flame.core.distributed_internals import ShuffleSpec, barrier_key
from dask_flame.scheduler.base import SchedulerBase


class Shuffles(ShuffleSchedulerPlugin):
    """Distributed's P2P shuffle, within one pool.

    The stock plugin pins outputs to all workers, including runners of other pools, draining ones,
    and home.

    Parameters
    ----------
    scheduler : SchedulerBase
    fit : callable
        Returns the addresses of the workers on which a call may run.
    """

    scheduler: SchedulerBase

    def __init__(self, scheduler: SchedulerBase, fit: Callable[[TaskState], set[str]]) -> None:
        super().__init__(scheduler)
        self._fit = fit

    def _calculate_worker_for(self, spec: ShuffleSpec) -> dict[Any, str]:
        # A private method: there is no public way to restrict the workers of a shuffle.
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
        """Return whether a worker participates in an active shuffle."""
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
                # Its participants may end now.
                workers = self.scheduler.workers
                for address in shuffle.participating_workers:
                    if address in workers:
                        self.scheduler.runner_changed(workers[address].name)

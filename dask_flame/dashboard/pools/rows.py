"""State of the pools for the pages; pure, except for one reader of the scheduler (scheduler)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import time
from typing import Any

from dask_flame.history.state import PoolSummary, RunnerSummary, Sample, Snapshot
from dask_flame.history.timeline import BUSY, IDLE, RunnerTimeline
from dask_flame.reports.scheduler.lookup import plugin_of


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of a pool's runners by state; ``ready`` is the sum of ``busy`` and ``idle``."""

    booting: int
    busy: int
    idle: int
    ending: int
    draining: int = 0

    @property
    def ready(self) -> int:
        return self.busy + self.idle

    @property
    def asked(self) -> int:
        return self.booting + self.ready


def count(runners: Sequence[RunnerSummary]) -> Counts:
    """Count a pool's runners by state."""
    states = [(r.state, r.busy > 0) for r in runners]
    return Counts(
        booting=sum(state == "booting" for state, _ in states),
        busy=sum(state == "ready" and busy for state, busy in states),
        idle=sum(state == "ready" and not busy for state, busy in states),
        ending=sum(state == "ending" for state, _ in states),
        draining=sum(state in ("draining", "paused") for state, _ in states),
    )


def total(histories: Sequence[Sequence[Sample]]) -> list[Sample]:
    """Return the sum of several histories; each sample holds until the next one of its pool."""
    histories = [history for history in histories if history]
    if len(histories) == 1:
        return list(histories[0])
    changes = sorted(
        (sample[0], i, sample) for i, history in enumerate(histories) for sample in history
    )
    last: dict[int, Sample] = {}
    summed: list[Sample] = []
    for at, i, sample in changes:
        last[i] = sample
        if summed and summed[-1][0] == at:
            summed.pop()
        _, *numbers = map(sum, zip(*last.values(), strict=True))
        demand, booting, ready, busy, target = map(int, numbers)
        summed.append((at, demand, booting, ready, busy, target))
    return summed


class WorkersAsPool:
    """Summarizes the workers of any scheduler as one pool, for clusters without pools.

    Its history grows only while a page is open.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    interval : float, default 0.5
        Seconds between two samples.
    samples : int, default 1200
        Maximum number of samples.
    """

    def __init__(self, scheduler: Any, *, interval: float = 0.5, samples: int = 1200) -> None:
        self._scheduler = scheduler
        self._interval = interval
        self._history: deque[Sample] = deque(maxlen=samples)
        self._lives = RunnerTimeline()
        self._since: dict[str, float] = {}
        self._looked = 0.0

    def __call__(self) -> Snapshot:
        """Return the current state of the workers."""
        now = time()
        scheduler = self._scheduler
        workers = list(scheduler.workers.values())
        waiting = len(scheduler.queued) + len(scheduler.unrunnable)
        processing = sum(len(ws.processing) for ws in workers)
        busy = sum(bool(ws.processing) for ws in workers)
        if now - self._looked >= self._interval:
            self._looked = now
            self._look(workers, now)
            there = len(workers)
            sample = (now, processing + waiting, 0, there, busy, there)
            if not self._history or self._history[-1][1:] != sample[1:]:
                self._history.append(sample)
        pool = PoolSummary(
            name="workers",
            min=0,
            max=None,
            concurrency=max((ws.nthreads for ws in workers), default=1),
            demand=processing + waiting,
            waiting=waiting,
            runners=[
                RunnerSummary(
                    str(ws.name), "ready", self._since.get(str(ws.name), now), len(ws.processing)
                )
                for ws in workers
            ],
            history=list(self._history),
        )
        return Snapshot(now, [pool], lives=self._lives)

    def _look(self, workers: Sequence[Any], now: float) -> None:
        there = {str(ws.name): ws for ws in workers}
        new = [name for name in there if name not in self._since]
        self._lives.asked(new, "workers", now, "")
        for gone in self._since.keys() - there.keys():
            del self._since[gone]
            self._lives.ended(gone, now, "ended", "it has left the scheduler")
        self._since.update(dict.fromkeys(new, now))
        for name, ws in there.items():
            call = next(iter(ws.processing), None)
            state, note = (IDLE, "") if call is None else (BUSY, str(call.key))
            self._lives.seen(name, state, now, note)


def state_of(scheduler: Any, workers: WorkersAsPool) -> Snapshot:
    """Return the state of the pools, or the workers as one pool if there are none."""
    reports = plugin_of(scheduler)
    pools = reports.pools if reports is not None else None
    return workers() if pools is None else pools()

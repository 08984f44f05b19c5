"""The pools' state, as the page shows it; pure but for one reader of the scheduler (scheduler)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import time
from typing import Any

#: (unix seconds, demand, booting, ready, busy runners)
Sample = tuple[float, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Counts:
    """Runners of one pool, counted: ``ready`` is ``busy`` and ``idle`` together."""

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


def count(runners: Sequence[Mapping[str, Any]]) -> Counts:
    """Count a pool's runners by what they do."""
    states = [(r["state"], r["busy"] > 0) for r in runners]
    return Counts(
        booting=sum(state == "booting" for state, _ in states),
        busy=sum(state == "ready" and busy for state, busy in states),
        idle=sum(state == "ready" and not busy for state, busy in states),
        ending=sum(state == "ending" for state, _ in states),
        draining=sum(state == "draining" for state, _ in states),
    )


def total(histories: Sequence[Sequence[Sample]]) -> list[Sample]:
    """The sum of several pools' histories, each pool's last sample holding until its next."""
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
        _, demand, booting, ready, busy = map(sum, zip(*last.values(), strict=True))
        summed.append((at, int(demand), int(booting), int(ready), int(busy)))
    return summed


class WorkersAsPool:
    """Makes a pool's state of any scheduler's workers, for a cluster without pools.

    Its history grows only while it is read, that is while a page is open.
    """

    def __init__(self, scheduler: Any, *, interval: float = 0.5, samples: int = 1200) -> None:
        self._scheduler = scheduler
        self._interval = interval
        self._history: deque[Sample] = deque(maxlen=samples)

    def __call__(self) -> dict[str, Any]:
        """The state, in the form that ``Reports.pools`` describes."""
        now = time()
        scheduler = self._scheduler
        workers = list(scheduler.workers.values())
        waiting = len(scheduler.queued) + len(scheduler.unrunnable)
        processing = sum(len(ws.processing) for ws in workers)
        busy = sum(bool(ws.processing) for ws in workers)
        if not self._history or now - self._history[-1][0] >= self._interval:
            self._history.append((now, processing + waiting, 0, len(workers), busy))
        pool = {
            "name": "workers",
            "min": 0,
            "max": None,
            "concurrency": max((ws.nthreads for ws in workers), default=1),
            "demand": processing + waiting,
            "waiting": waiting,
            "runners": [
                {"name": str(ws.name), "state": "ready", "busy": len(ws.processing), "since": now}
                for ws in workers
            ],
            "history": list(self._history),
        }
        return {"now": now, "pools": [pool], "events": None}

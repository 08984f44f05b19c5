"""Compare idle timeouts on the traces of work, by playing the policy without processes (pure).

The fleet of dask-flame decides; boots take the given time, calls run on the runner that was used
last, and a runner is paid for from its boot to its end. The known future is the same schedule, in
which each gap is bridged or booted again, whichever is cheaper, and no runner is kept at the end.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cost_traces import Part, Trace, traces  # beside this file

from dask_flame import Pool
from dask_flame.scaling.fleet import Fleet

#: Longer than any trace.
_FOREVER = 1e7
#: Idle timeouts by the heading of their column.
TIMEOUTS: Mapping[str, float | str] = {"2.5 s": 2.5, "60 s": 60.0, "10 min": 600.0, "auto": "auto"}


@dataclass
class Paid:
    """What a trace has cost.

    Attributes
    ----------
    paid : float
        Runner-seconds.
    boots : int
    waited : float
        Seconds from the submission of calls to their begin, summed.
    gaps : list of float
        Idle times that ended with a call.
    """

    paid: float = 0.0
    boots: int = 0
    waited: float = 0.0
    gaps: list[float] = field(default_factory=list)


class Simulation:
    """A fleet that serves a trace.

    Parameters
    ----------
    trace : Trace
    boot : float
        Seconds that each boot takes.
    idle_timeout : float or "auto"
    """

    def __init__(self, trace: Trace, boot: float, idle_timeout: float | str) -> None:
        pool = Pool(max=trace.max, idle_timeout=idle_timeout, boot_timeout=_FOREVER)
        self._fleet = Fleet(pool, chance=lambda: 0.0)
        self._trace = trace
        self._boot = boot
        self._now = 0.0
        self._events: list[tuple[float, int, str, object]] = []
        self._number = 0
        self._waiting: deque[tuple[float, float]] = deque()
        self._running = self._left = 0
        self._free: dict[str, float] = {}  # since when each is idle; the one used last at the end
        self._booted: dict[str, float] = {}
        self._account = Paid()

    def play(self) -> Paid:
        """Serve the trace until no runner is left, and return what it has cost."""
        for part in self._trace.parts:
            self._advance(self._now + part.pause)
            begin = self._now
            for at, seconds in part.calls:
                self._push(begin + at, "call", seconds)
            self._left += len(part.calls)
            while self._left:
                self._step(self._next())
        while self._booted and (wake := self._decide()) is not None and wake < _FOREVER:
            self._now = wake
        self._account.paid += sum(self._now - asked for asked in self._booted.values())
        return self._account

    def _push(self, at: float, kind: str, what: object) -> None:
        self._number += 1
        heapq.heappush(self._events, (at, self._number, kind, what))

    def _next(self) -> float:
        wake = self._decide()
        first = self._events[0][0] if self._events else _FOREVER
        return first if wake is None else min(first, wake)

    def _advance(self, until: float) -> None:
        while (at := self._next()) <= until:
            self._step(at)
        self._now = until

    def _step(self, at: float) -> None:
        self._now = at
        while self._events and self._events[0][0] <= at:
            _, _, kind, what = heapq.heappop(self._events)
            if kind == "call":
                self._waiting.append((at, float(str(what))))
            elif kind == "done":
                self._running -= 1
                self._left -= 1
                self._fleet.load(str(what), 0, at)
                self._free[str(what)] = at
            elif what in self._booted:  # else its boot was given up
                self._fleet.registered(str(what), at)
                self._free[str(what)] = at
        while self._waiting and self._free:
            submitted, seconds = self._waiting.popleft()
            name, since = self._free.popitem()
            self._account.waited += at - submitted
            self._account.gaps.append(at - since)
            self._running += 1
            self._fleet.load(name, 1, at)
            self._push(at + seconds, "done", name)

    def _decide(self) -> float | None:
        decision = self._fleet.decide(self._now, len(self._waiting) + self._running)
        for name in decision.boot.names if decision.boot else ():
            self._account.boots += 1
            self._booted[name] = self._now
            self._push(self._now + self._boot, "boot", name)
        for item in decision.retire:
            self._account.paid += self._now - self._booted.pop(item.name)
            self._free.pop(item.name, None)
            self._fleet.ended(item.name, self._now)
        return decision.wake


def known(trace: Trace, boot: float) -> float:
    """Return what a trace costs if the future is known, in runner-seconds."""
    kept = Simulation(trace, boot, _FOREVER).play()
    return trace.busy + kept.boots * boot + sum(min(gap, boot) for gap in kept.gaps)


def day() -> Trace:
    """Return eight hours in a notebook: bursts of calls, a few seconds to an hour apart."""
    some = random.Random(0)
    parts = [
        Part(
            tuple((0.0, some.uniform(5, 60)) for _ in range(some.choice((1, 4, 8)))),
            pause=min(some.lognormvariate(4, 1.5), 3600.0),
        )
        for _ in range(120)
    ]
    return Trace("a day in a notebook", tuple(parts))


def rows() -> list[list[str]]:
    """Return the rows of the table: cost over that of a known future, and boots, by timeout."""
    lines = [["trace", "boot", "known future", *TIMEOUTS]]
    minutes = [trace.scaled(60) for trace in traces().values()]
    cases: list[tuple[str, Trace, float]] = [
        *((t.name, t, 0.05) for t in traces().values()),
        *((f"{t.name}, in minutes", t, 240.0) for t in minutes),
        *((day().name, day(), boot) for boot in (0.05, 5.0, 60.0, 240.0)),
    ]
    for name, trace, boot in cases:
        best = known(trace, boot)
        line = [name, f"{boot:g} s", f"{best:,.0f}"]
        for timeout in TIMEOUTS.values():
            got = Simulation(trace, boot, timeout).play()
            line.append(f"{got.paid / best:.2f} ({got.boots})")
        lines.append(line)
    return lines


def worst(lines: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the largest ratio of each timeout."""
    return {
        name: max(float(line[3 + i].split()[0]) for line in lines[1:])
        for i, name in enumerate(TIMEOUTS)
    }

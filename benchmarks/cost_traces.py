"""Traces of work, and the ideal schedule for each (pure)."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Part:
    """Calls submitted once all calls of the previous part have returned.

    Attributes
    ----------
    calls : tuple of (float, float)
        Submission time of each call, in seconds since the part began, and its duration.
    pause : float
        Seconds from the last result of the previous part to the beginning of this one.
    """

    calls: tuple[tuple[float, float], ...]
    pause: float = 0.0


@dataclass(frozen=True)
class Trace:
    """The work of a user in a notebook, and the pool for it.

    Attributes
    ----------
    name : str
    parts : tuple of Part
    max : int
        Maximum number of runners, with one call at a time each.
    idle : float
        The idle timeout, in seconds.
    """

    name: str
    parts: tuple[Part, ...]
    max: int = 8
    idle: float = 2.5  # by default, stock Dask ends a worker 2 to 3 s after its last call

    @property
    def busy(self) -> float:
        """Seconds of work: the minimum that any pool has to pay."""
        return sum(seconds for part in self.parts for _, seconds in part.calls)

    def scaled(self, factor: float) -> Trace:
        """Return the trace with all times multiplied."""
        parts = tuple(
            Part(tuple((at * factor, s * factor) for at, s in part.calls), part.pause * factor)
            for part in self.parts
        )
        return replace(self, parts=parts, idle=self.idle * factor)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, of: Mapping[str, Any]) -> Trace:
        parts = tuple(
            Part(tuple((at, s) for at, s in part["calls"]), part["pause"]) for part in of["parts"]
        )
        return cls(**{**of, "parts": parts})


@dataclass(frozen=True)
class Schedule:
    """The result of serving a trace.

    Attributes
    ----------
    makespan : float
        Seconds from the beginning of each part to its last result, summed. Pauses do not count.
    waiting : float
        Seconds with at least one unfinished call. For a burst this is the makespan; for a trickle,
        whose makespan is fixed by the submissions, it shows the time lost.
    paid : float
        Sum of the lifetimes of runners: boots, calls, and idle time.
    runners : int
        Number of runners booted.
    calls : tuple of (float, float)
        Begin and end of each call, in seconds since the trace began.
    """

    makespan: float
    waiting: float
    paid: float
    runners: int
    calls: tuple[tuple[float, float], ...]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the total time covered by at least one of these spans."""
    total, until = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


@dataclass
class _Runner:
    asked: float
    free: float


def ideal(trace: Trace, boots: Sequence[float] = ()) -> Schedule:
    """Serve a trace as well as possible without knowledge of the future.

    A runner is booted at the moment when a call finds no free runner, calls run in the order of
    their submission, the runner used last is preferred, and each runner ends once it has been idle
    for the idle timeout.

    Parameters
    ----------
    trace : Trace
    boots : sequence of float
        Duration of each boot in seconds, in order; the last one applies to all later boots. By
        default boots take no time: this gives the best makespan of list scheduling, and `paid`
        contains only calls and the idle time that the idle timeout demands.
    """
    runners: list[_Runner] = []
    calls: list[tuple[float, float]] = []
    waits: list[tuple[float, float]] = []
    begin = makespan = 0.0
    for part in trace.parts:
        begin += part.pause
        end = begin
        for at, seconds in sorted(part.calls, key=lambda call: call[0]):
            now = begin + at
            alive = [r for r in runners if r.free + trace.idle > now]
            free = [r for r in alive if r.free <= now]
            if not free and len(alive) < trace.max:
                boot = boots[min(len(runners), len(boots) - 1)] if boots else 0.0
                runners.append(_Runner(now, now + boot))
                alive.append(runners[-1])
            runner = max(free, key=lambda r: r.free) if free else min(alive, key=lambda r: r.free)
            start = max(now, runner.free)
            runner.free = start + seconds
            calls.append((start, runner.free))
            waits.append((now, runner.free))
            end = max(end, runner.free)
        makespan += end - begin
        begin = end
    paid = sum(r.free + trace.idle - r.asked for r in runners)
    return Schedule(makespan, covered(waits), paid, len(runners), tuple(calls))


def traces() -> dict[str, Trace]:
    """Return the traces of the benchmark, by name; the same in every run."""
    some = random.Random(0)
    burst = [(0.0, some.uniform(2, 4)) for _ in range(24)]
    again = tuple((0.0, 2.5) for _ in range(16))
    tail = [(0.0, 12.0 if i in (2, 5, 7) else some.uniform(1, 2)) for i in range(35)]
    drops = tuple((2.5 * i, 0.8) for i in range(9))
    # Frequent enough that each call could keep one of several runners of a burst alive.
    rain = tuple((0.6 * i, 0.3) for i in range(20))
    found = [
        Trace("burst", (Part(tuple(burst)),)),
        # A pause shorter than the idle timeout, then longer ones.
        Trace("burst, short pause, burst", (Part(again), Part(again, pause=1.5))),
        Trace("burst, long pause, burst", (Part(again), Part(again, pause=6.0))),
        Trace("long tail", (Part(tuple(tail)),)),
        Trace("trickle", (Part(drops),)),
        Trace("burst, then trickle", (Part(again), Part(rain, pause=1.0))),
    ]
    return {trace.name: trace for trace in found}

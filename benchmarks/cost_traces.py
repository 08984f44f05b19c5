"""Traces of work, and what a pool that is never late would make of each (pure)."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Part:
    """Calls that are submitted after those of the part before have all returned.

    Attributes
    ----------
    calls : tuple of (float, float)
        When each is submitted, in seconds since the part began, and how long it works.
    pause : float
        Seconds from the last result of the part before to the beginning of this one.
    """

    calls: tuple[tuple[float, float], ...]
    pause: float = 0.0


@dataclass(frozen=True)
class Trace:
    """What somebody does in a notebook, and the pool that it is done with.

    Attributes
    ----------
    name : str
    parts : tuple of Part
    max : int
        Most runners, of one call at a time each.
    idle : float
        The idle timeout, in seconds.
    """

    name: str
    parts: tuple[Part, ...]
    max: int = 8
    idle: float = 2.5  # by default, stock Dask ends a worker 2 to 3 s after its last call

    @property
    def busy(self) -> float:
        """Seconds of work: the least that any pool has to pay."""
        return sum(seconds for part in self.parts for _, seconds in part.calls)

    def scaled(self, factor: float) -> Trace:
        """The same with all times multiplied."""
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
    """What became of a trace.

    Attributes
    ----------
    makespan : float
        Seconds from the beginning of each part to its last result, summed. Pauses do not count.
    waiting : float
        Seconds in which there was a call without a result. Of a burst that is the makespan; of a
        trickle, whose makespan is that of the trickle, it shows what is lost.
    paid : float
        Seconds that runners existed, summed: boots, calls, and idle time with its tails.
    runners : int
        How many were booted.
    calls : tuple of (float, float)
        When each call began and ended, in seconds since the trace began.
    """

    makespan: float
    waiting: float
    paid: float
    runners: int
    calls: tuple[tuple[float, float], ...]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How long there was at least one of these spans."""
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
    """Serve a trace as well as can be done without knowing what comes.

    A runner is booted at the very moment when a call comes that no runner is free for, calls run
    in the order in which they came, the runner that worked last is used first, and each ends as
    soon as it was idle for the idle timeout.

    Parameters
    ----------
    trace : Trace
    boots : sequence of float
        Seconds that each boot takes, in order; the last one is that of all further boots. By
        default they take no time, which makes this the best makespan that list scheduling has,
        and `paid` the calls plus the idle time that the idle timeout itself asks for.
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
    """The traces of the benchmark, by name; the same in every run."""
    some = random.Random(0)
    burst = [(0.0, some.uniform(2, 4)) for _ in range(24)]
    again = tuple((0.0, 2.5) for _ in range(16))
    tail = [(0.0, 12.0 if i in (2, 5, 7) else some.uniform(1, 2)) for i in range(35)]
    drops = tuple((2.5 * i, 0.8) for i in range(9))
    # So often that several of a burst's runners could be kept, each by a call now and then.
    rain = tuple((0.6 * i, 0.3) for i in range(20))
    found = [
        Trace("burst", (Part(tuple(burst)),)),
        # Shorter than the idle timeout, then longer.
        Trace("burst, short pause, burst", (Part(again), Part(again, pause=1.5))),
        Trace("burst, long pause, burst", (Part(again), Part(again, pause=6.0))),
        Trace("long tail", (Part(tuple(tail)),)),
        Trace("trickle", (Part(drops),)),
        Trace("burst, then trickle", (Part(again), Part(rain, pause=1.0))),
    ]
    return {trace.name: trace for trace in found}

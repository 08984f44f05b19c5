"""The account of one run of a trace (pure)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from cost_processes import Life  # beside this file
from cost_traces import Schedule, Trace, covered, ideal


@dataclass(frozen=True)
class Account:
    """The account of one run of a trace, in the terms of the benchmark's tables.

    Attributes
    ----------
    trace : Trace
    who : str
    start : float
        When the first call was submitted, on the monotonic clock.
    lives : tuple of Life
        The runners, as seen by the operating system.
    parts : tuple of (float, float)
        When each part began and when its last result arrived, in seconds since `start`.
    waits : tuple of (float, float)
        When each call was submitted and when it ended.
    """

    trace: Trace
    who: str
    start: float
    lives: tuple[Life, ...]
    parts: tuple[tuple[float, float], ...]
    waits: tuple[tuple[float, float], ...]

    @property
    def makespan(self) -> float:
        return sum(end - begin for begin, end in self.parts)

    @property
    def waiting(self) -> float:
        return covered(self.waits)

    @property
    def paid(self) -> float:
        return sum(life.end - life.begin for life in self.lives)

    @property
    def booting(self) -> float:
        return sum(life.boot for life in self.lives)

    @property
    def working(self) -> float:
        return sum(end - begin for life in self.lives for begin, end in life.calls)

    @property
    def idle(self) -> float:
        return self.paid - self.booting - self.working - self.ending

    @property
    def ending(self) -> float:
        return sum(life.ending for life in self.lives)

    @property
    def unused(self) -> int:
        return sum(not life.calls for life in self.lives)

    @property
    def best(self) -> Schedule:
        """The ideal schedule with boots that take no time."""
        return ideal(self.trace)

    @property
    def makespan_ratio(self) -> float:
        return self.makespan / self.best.makespan

    @property
    def makespan_ratio_without_boots(self) -> float:
        boots = [life.boot for life in self.lives if life.registered is not None]
        lost = ideal(self.trace, boots).makespan - self.best.makespan
        # Not below the ideal, if boots took longer than the time lost to them.
        return max(1.0, (self.makespan - lost) / self.best.makespan)

    @property
    def over_work(self) -> float:
        return self.paid / self.trace.busy

    @property
    def over_tails(self) -> float:
        return self.paid / self.best.paid

    @property
    def over_tails_without_boots(self) -> float:
        return (self.paid - self.booting) / self.best.paid


def grouped(accounts: Iterable[Account]) -> dict[str, dict[str, list[Account]]]:
    """Group accounts by the name of the trace, and then by contender."""
    groups: dict[str, dict[str, list[Account]]] = {}
    for account in accounts:
        groups.setdefault(account.trace.name, {}).setdefault(account.who, []).append(account)
    return groups


def kept(accounts: Iterable[Account]) -> str:
    """Return accounts as JSON, from which :func:`restored` makes them again."""
    return json.dumps([asdict(account) for account in accounts])


def restored(text: str) -> list[Account]:
    """Return the accounts that :func:`kept` has written."""
    return [
        Account(
            Trace.from_dict(one["trace"]),
            one["who"],
            one["start"],
            tuple(Life(**{**life, "calls": _pairs(life["calls"])}) for life in one["lives"]),
            _pairs(one["parts"]),
            _pairs(one["waits"]),
        )
        for one in json.loads(text)
    ]


def _pairs(lists: Iterable[list[Any]]) -> tuple[tuple[float, float], ...]:
    return tuple((first, second) for first, second in lists)

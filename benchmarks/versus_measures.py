"""The measures, their contenders and their goals (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: The contenders, in the order of the table; dask-flame first.
CONTENDERS = {
    "flame": "dask-flame",
    "stock": "plain Dask",
    "ray": "Ray",
    "loky": "loky",
    "parsl": "Parsl",
}
#: Packages needed for each of them.
PACKAGES = {
    "flame": "dask-flame",
    "stock": "distributed",
    "ray": "ray",
    "loky": "loky",
    "parsl": "parsl",
}
_DASK = ("flame", "stock")
_ALL = tuple(CONTENDERS)


@dataclass(frozen=True)
class Goal:
    """An upper bound for dask-flame, absolute or relative to the best of others.

    Attributes
    ----------
    limit : float
        In the quantity's unit; a ratio, if there are others.
    of : tuple of str
        The other contenders, as far as they were measured.
    text : str
    """

    limit: float
    of: tuple[str, ...] = ()
    text: str = ""


def at_most(limit: float, text: str) -> Goal:
    return Goal(limit, text=f"≤ {text}")


def times_less(times: float, word: str = "faster") -> Goal:
    return Goal(1 / times, ("stock",), f"≥ {times:g}x {word} than {CONTENDERS['stock']}")


def no_more_than(share: float, who: str) -> Goal:
    return Goal(share, (who,), f"≤ {share:.2f}x {CONTENDERS[who]}")


def least() -> Goal:
    return Goal(1.0, tuple(who for who in _ALL if who != "flame"), "the least of all")


@dataclass(frozen=True)
class Quantity:
    """One line of the table.

    Attributes
    ----------
    name : str
        Its key in the results of runs.
    label : str
    unit : str
    goal : Goal or None
    drawn : bool
        Whether it is in the picture, where less is better.
    """

    name: str
    label: str
    unit: str = "s"
    goal: Goal | None = None
    drawn: bool = True


@dataclass(frozen=True)
class Measure:
    """A task for each contender in turn.

    Attributes
    ----------
    name : str
    quantities : tuple of Quantity
    contenders : tuple of str
    options : mapping
        Options of a run; numbers in labels are written as ``{name}`` of these.
    short : mapping
        Options that differ with ``--short``.
    timeout : float
        Time limit of a run, or of one of its blocks, in seconds.
    blocks : int
        0: each run is a fresh process. Otherwise all contenders are up at the same time, and run so
        many blocks per round, in turn.
    """

    name: str
    quantities: tuple[Quantity, ...]
    contenders: tuple[str, ...] = _ALL
    options: Mapping[str, Any] = field(default_factory=dict)
    short: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 240.0
    blocks: int = 0


_MAKESPAN = "{runners} calls of {seconds:g} s from nothing"

MEASURES = {
    measure.name: measure
    for measure in (
        Measure(
            "register64",
            (Quantity("registered", "{runners} runners registered", goal=times_less(12)),),
            _DASK,
            {"runners": 64},
            {"runners": 4},
        ),
        Measure(
            "cold",
            (
                Quantity("constructor", "first result, from the constructor", goal=least()),
                Quantity("process", "first result, from python's start", goal=least()),
            ),
            options={"runners": 8},
            short={"runners": 2},
            timeout=120,
        ),
        Measure(
            "wave16",
            (Quantity("makespan", _MAKESPAN, goal=Goal(1.05, ("loky",), "as loky (≤ 1.05x)")),),
            options={"runners": 16, "seconds": 5.0},
            short={"runners": 2, "seconds": 0.2},
        ),
        Measure(
            "ml64",
            (
                Quantity("ready", "{runners} runners with {what} imported", goal=times_less(10)),
                Quantity(
                    "memory",
                    "memory of these {runners} runners (PSS)",
                    "GB",
                    goal=times_less(4, "less"),
                ),
            ),
            _DASK,
            {"runners": 64, "what": "torch and transformers"},
            {"runners": 2, "what": "nothing"},
            timeout=600,
        ),
        Measure(
            "wave64",
            (
                Quantity("makespan", _MAKESPAN),
                Quantity("over", "{runners} calls of {seconds:g} s, over the ideal", "x"),
                Quantity(
                    "without_boots",
                    "the same ratio, without boots",
                    "x",
                    at_most(1.10, "1.10x"),
                ),
            ),
            options={"runners": 64, "seconds": 5.0},
            short={"runners": 3, "seconds": 0.2},
        ),
        Measure(
            "warm",
            (
                Quantity(
                    "median", "warm call and back, median", "ms", goal=no_more_than(1.05, "stock")
                ),
                Quantity("p95", "warm call and back, 95th percentile", "ms"),
            ),
            options={"runners": 1, "calls": 50},
            short={"calls": 10},
            timeout=60,
            blocks=10,
        ),
        Measure(
            "map10k",
            (
                Quantity(
                    "seconds",
                    "{calls:,} no-op calls on {runners} runners",
                    goal=no_more_than(1.05, "stock"),
                ),
            ),
            options={"runners": 2, "calls": 10_000},
            short={"calls": 100},
            timeout=120,
            blocks=1,
        ),
        Measure(
            "report",
            (
                Quantity(
                    "micros", "one report() (plain: log_event())", "µs", goal=at_most(5, "5 µs")
                ),
            ),
            _DASK,
            {"times": 20_000, "loops": 5},
            {"times": 1_000, "loops": 2},
        ),
        Measure(
            "reports64",
            (
                Quantity(
                    "share",
                    "{runners} runners x {rate:g} reports/s: scheduler",
                    "cores",
                    goal=at_most(0.15, "0.15 cores"),
                ),
                Quantity("arrived", "reports that arrived in the same time", "%", drawn=False),
                Quantity("p50", "report to subscriber, median", "ms"),
                Quantity(
                    "p99",
                    "report to subscriber, 99th percentile",
                    "ms",
                    goal=at_most(250, "250 ms"),
                ),
            ),
            _DASK,
            {"runners": 64, "rate": 100.0, "seconds": 60.0},
            {"runners": 2, "rate": 100.0, "seconds": 1.5},
            timeout=600,
        ),
        Measure(
            "kill",
            (
                Quantity(
                    "gone",
                    "kill -9 of the driver until {runners} runners are gone",
                    goal=at_most(2, "2 s"),
                ),
            ),
            _DASK,
            {"runners": 64, "wait": 120.0},
            {"runners": 2, "wait": 20.0},
        ),
    )
}

"""Medians, verdicts and the table (pure)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from versus_measures import CONTENDERS, MEASURES, Quantity  # beside this file


@dataclass(frozen=True)
class Sample:
    """The results of one run, or of one of its blocks.

    Attributes
    ----------
    measure, contender : str
    turn : int
        Number of the round.
    values : mapping of str to number
        By the names of the measure's quantities, with additional values. Empty after a failure.
    error : str
        Why it failed.
    load : tuple of float
        The machine's load average before and after.
    """

    measure: str
    contender: str
    turn: int
    values: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    load: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def from_dict(cls, of: Mapping[str, Any]) -> Sample:
        return cls(**{**of, "load": tuple(of["load"])})


@dataclass(frozen=True)
class Row:
    """One quantity, for all contenders measured.

    Attributes
    ----------
    measure : str
    quantity : Quantity
    label : str
        With the numbers used.
    values : mapping of str to tuple of float
        The results of each contender's runs; empty if all failed.
    failed : mapping of str to int
        Number of failed runs of each contender.
    """

    measure: str
    quantity: Quantity
    label: str
    values: Mapping[str, tuple[float, ...]]
    failed: Mapping[str, int]

    def median(self, who: str) -> float | None:
        found = self.values.get(who)
        return statistics.median(found) if found else None

    @property
    def bound(self) -> float | None:
        """The upper bound for dask-flame, in the quantity's unit; None if it is unknown."""
        goal = self.quantity.goal
        if goal is None:
            return None
        if not goal.of:
            return goal.limit
        others = [found for who in goal.of if (found := self.median(who)) is not None]
        return goal.limit * min(others) if others else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal, or without figures to compare."""
        ours, bound = self.median("flame"), self.bound
        if self.quantity.goal is not None and ours is None and self.failed.get("flame"):
            return False
        return None if ours is None or bound is None else ours <= bound


def rows(samples: Iterable[Sample], options: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Return the lines of the table.

    Parameters
    ----------
    samples : iterable of Sample
    options : mapping
        The options of each measure's runs.
    """
    found: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        found.setdefault(sample.measure, {}).setdefault(sample.contender, []).append(sample)
    lines = []
    for name, measure in MEASURES.items():
        for quantity in measure.quantities if name in found else ():
            values = {
                who: tuple(float(s.values[quantity.name]) for s in runs if not s.error)
                for who, runs in found[name].items()
            }
            failed = {who: sum(bool(s.error) for s in runs) for who, runs in found[name].items()}
            label = quantity.label.format(**options[name])
            lines.append(Row(name, quantity, label, values, failed))
    return lines


def table(lines: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    there = [who for who in CONTENDERS if any(who in row.values for row in lines)]
    head = ["", "", *(CONTENDERS[who] for who in there), "goal", "", "ours / best other"]
    body = [
        [
            row.label,
            row.quantity.unit,
            *(_cell(row, who) for who in there),
            "" if row.quantity.goal is None else row.quantity.goal.text,
            verdict(row),
            _ratio(row),
        ]
        for row in lines
    ]
    return markdown([head, *body])


def verdict(row: Row) -> str:
    """Return the verdict, with the ratio to the goal if that is a factor."""
    goal, ours, bound = row.quantity.goal, row.median("flame"), row.bound
    if goal is None:
        return ""
    if row.met is None:
        return "nothing to compare with"
    word = "met" if row.met else "MISSED"
    if goal.of and ours and bound is not None:
        ratio = ours * goal.limit / bound
        word += f" ({1 / ratio:.1f}x)" if goal.limit < 1 else f" ({ratio:.2f}x)"
    return word


def number(value: float) -> str:
    """Format a number with three significant digits, or all before the decimal point."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits + (abs(value) < 0.1)}f}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    rows = [list(lines[0]), ["---"] * len(lines[0]), *map(list, lines[1:])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "| " + " | ".join(f"{c:<{width}}" for c, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    )


def failures(samples: Iterable[Sample]) -> list[str]:
    """Return the failures and their reasons, each reason once."""
    seen = {
        f"{s.measure}, {CONTENDERS[s.contender]}: {(s.error.splitlines() or [''])[-1][:200]}": None
        for s in samples
        if s.error
    }
    return list(seen)


def _cell(row: Row, who: str) -> str:
    if who not in row.values:
        return ""
    middle, failed = row.median(who), row.failed.get(who, 0)
    if middle is None:
        return "FAILED"
    runs = failed + len(row.values[who])
    return number(middle) + (f" ({failed} of {runs} FAILED)" if failed else "")


def _ratio(row: Row) -> str:
    ours = row.median("flame")
    others = [row.median(who) for who in row.values if who != "flame"]
    best = min((value for value in others if value is not None), default=0)
    return f"{ours / best:.2f}" if ours is not None and best > 0 else ""

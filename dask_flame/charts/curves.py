"""What is drawn of calls that report: their curves, ranked, each with a colour; pure (driver)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.typing import Key

from dask_flame.charts.colors import COLOURS, DASHES
from dask_flame.charts.ranking import best, counted, higher_is_better, labels, metrics, shown
from dask_flame.core.terminal_text import plain
from dask_flame.reports.series import CallReports

#: Curves that are drawn strongly; more would hide each other.
FEW = 8

#: Beyond it, there would be no room for an axis.
_LARGEST = 1e290


@dataclass(frozen=True, eq=False)
class Curve:
    """A call's curve, and its place.

    Attributes
    ----------
    name : str
        Short, and its own.
    call : CallReports
    steps, values : numpy.ndarray of float
        What cannot be drawn is NaN: infinities, and numbers that are next to them.
    best : float or None
    at : int or None
        The step of the best value.
    colour : str
    dash : str
        One of :data:`dask_flame.charts.colors.DASHES`.
    """

    name: str
    call: CallReports
    steps: Any
    values: Any
    best: float | None
    at: int | None
    colour: str
    dash: str

    @property
    def last(self) -> tuple[float, float] | None:
        """The last step with a value that can be drawn."""
        drawable = np.flatnonzero(np.isfinite(self.values))
        if not len(drawable):
            return None
        return float(self.steps[drawable[-1]]), float(self.values[drawable[-1]])


@dataclass(frozen=True, eq=False)
class Board:
    """All that is drawn at one moment.

    Attributes
    ----------
    metric : str
        What is drawn; empty before anything was reported.
    others : tuple of str
        What else was reported.
    higher : bool
        Whether a larger value is a better one.
    log : bool
    curves : tuple of Curve
        Best first. Those without a value of that name come last.
    states : mapping of str to int
        How many calls there are of each state, ``waiting`` for those that have reported nothing.
    """

    metric: str
    others: tuple[str, ...]
    higher: bool
    log: bool
    curves: tuple[Curve, ...]
    states: Mapping[str, int]

    @property
    def calls(self) -> int:
        return sum(self.states.values())

    @property
    def leader(self) -> Curve | None:
        """The best so far."""
        return self.curves[0] if self.curves and self.curves[0].best is not None else None

    @property
    def title(self) -> str:
        """All of it in a line."""
        order = ("running", "done", "failed", "cancelled", "lost", "waiting")
        told = [f"{self.states[state]} {state}" for state in order if self.states.get(state)]
        return f"{counted(self.calls, 'call')}: {', '.join(told)}" if told else "no calls"

    @property
    def headline(self) -> str:
        """The best in a line; empty before there is one."""
        leader = self.leader
        if leader is None:
            return ""
        return f"best {self.metric} {shown(leader.best)} at step {leader.at:,} by {leader.name}"

    @property
    def alive(self) -> bool:
        """Whether more may be reported."""
        return any(self.states.get(state) for state in ("running", "waiting"))

    @property
    def unreported(self) -> bool:
        """Whether calls report, and none of them by the name that is drawn."""
        return bool(self.others) and not any(self.metric in c.call.series for c in self.curves)

    @property
    def nothing(self) -> tuple[str, str]:
        """Why there is nothing to draw, where that is so, and what there is."""
        there = f"there is {', '.join(self.others)}" if self.others else ""
        if self.unreported:
            return f"{self.metric} was not reported{' yet' if self.alive else ''}", there
        if self.curves and self.metric:
            hint = "a logarithmic axis shows what is above zero" if self.log else there
            return f"no value of {self.metric} that can be drawn", hint
        said = "nothing reported yet" if self.alive else "nothing was reported"
        return said, "calls report by dask_flame.report(step=1, loss=0.25)"


def board(
    keys: Sequence[Key],
    calls: Mapping[Key, CallReports],
    ended: Mapping[Key, str],
    *,
    metric: str | None = None,
    best_is: str | None = None,
    log: bool = False,
) -> Board:
    """What there is to draw of these calls.

    Parameters
    ----------
    keys : sequence of Key
        In the order in which they were submitted, which gives them their colours.
    calls : mapping of Key to CallReports
        What is known of those that have reported.
    ended : mapping of Key to str
        ``done``, ``failed`` or ``cancelled``, of calls that have ended.
    metric : str, optional
        By default ``loss``, or whatever was reported first.
    best_is : {"min", "max"}, optional
        By default judged by the metric's name.
    log : bool
        Draw it on a logarithmic axis.
    """
    there = [calls[key] for key in keys if key in calls]
    named = metrics(there)
    metric = metric or (named[0] if named else "")
    higher = higher_is_better(metric) if best_is is None else best_is == "max"
    names = labels(list(dict.fromkeys(keys)))
    curves = [
        _curve(number, names[key], calls[key], metric, higher)
        for number, key in enumerate(dict.fromkeys(keys))
        if key in calls
    ]
    sign = -1 if higher else 1
    curves.sort(key=lambda c: np.inf if c.best is None else sign * c.best)
    # What a call reports may be known later than that it has ended.
    states = Counter(
        ended.get(key) or (calls[key].state if key in calls else "waiting")
        for key in dict.fromkeys(keys)
    )
    others = tuple(name for name in named if name != metric)
    return Board(metric, others, higher, log, tuple(curves), states)


def _curve(number: int, name: str, call: CallReports, metric: str, higher: bool) -> Curve:
    series = call.series.get(metric)
    found = best(series, higher=higher) if series else None
    steps = np.asarray(series.steps if series else [], dtype=float)
    values = np.asarray(series.values if series else [], dtype=float)
    value, at = found or (None, None)
    return Curve(
        name=name,
        call=call,
        steps=steps,
        values=np.where(np.abs(values) < _LARGEST, values, np.nan),
        best=value,
        at=at,
        colour=COLOURS[number % len(COLOURS)],
        dash=DASHES[number // len(COLOURS) % len(DASHES)],
    )


def text(board: Board, rows: int = 10) -> str:
    """The ranking as plain text."""
    lines = [board.title]
    ranked = [c for c in board.curves if c.best is not None]
    if ranked:
        width = max(len(c.name) for c in ranked[:rows])
        lines += [
            f"{place:>3}  {c.name:<{width}}  {shown(c.best):>10} at step {c.at:<8,} {c.call.state}"
            for place, c in enumerate(ranked[:rows], 1)
        ]
        lines[0] += f"; best {plain(board.metric)} first"
    elif board.calls:
        lines.append("; ".join(filter(None, board.nothing)))
    if len(ranked) > rows:
        lines.append(f"     and {len(ranked) - rows:,} more")
    return "\n".join(lines)


def span(board: Board) -> tuple[float, float, float, float] | None:
    """The smallest and the largest step and value; None where nothing can be drawn.

    On a logarithmic axis the values are decimal logarithms.
    """
    steps, values = [], []
    for curve in board.curves:
        drawn = scaled(curve.values, log=board.log)
        here = np.isfinite(drawn)
        if here.any():
            steps += [curve.steps[here].min(), curve.steps[here].max()]
            values += [drawn[here].min(), drawn[here].max()]
    if not steps:
        return None
    return float(min(steps)), float(max(steps)), float(min(values)), float(max(values))


def scaled(values: Any, *, log: bool) -> Any:
    """Values as they are drawn: on a logarithmic axis those above zero, else NaN."""
    if not log:
        return values
    return np.log10(values, out=np.full_like(values, np.nan), where=values > 0)

"""Ranked curves of calls, prepared for drawing; pure (driver)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.typing import Key

from dask_flame.charts.colors import CALL_LINES
from dask_flame.charts.ranking import (
    NOTHING,
    UNRANKED,
    best,
    counted,
    labels,
    metrics,
    shown,
)
from dask_flame.core.terminal_text import plain
from dask_flame.reports.better import direction
from dask_flame.reports.series import CallReports

#: Maximum number of curves to highlight.
FEW = 8

#: Larger values would overflow the axis.
_LARGEST = 1e290


@dataclass(frozen=True, eq=False)
class Curve:
    """Curve of a call.

    Attributes
    ----------
    name : str
        Short unique name.
    call : CallReports
        Reports of the call.
    steps : numpy.ndarray of float
        Steps of the metric.
    values : numpy.ndarray of float
        Values of the metric. Infinite and extremely large values are NaN.
    best : float or None
        Best value.
    at : int or None
        Step of the best value.
    latest : float or None
        Last reported value of the metric, which need not be finite.
    color, dark : str
        Colors on a light and on a dark background, as hexadecimal RGB.
    dash : str
        As in :data:`dask_flame.charts.colors.CALL_LINES`.
    """

    name: str
    call: CallReports
    steps: Any
    values: Any
    best: float | None
    at: int | None
    latest: float | None
    color: str
    dark: str
    dash: str

    @property
    def ranks(self) -> bool:
        """Whether the call can be the best one: it has not failed, and was not stopped."""
        return self.call.state not in UNRANKED

    @property
    def diverged(self) -> bool:
        """Whether the last reported value of the metric is NaN or infinite."""
        return self.latest is not None and not math.isfinite(self.latest)

    @property
    def last(self) -> tuple[float, float] | None:
        """Last step with a finite value, and the value; None if there is none."""
        drawable = np.flatnonzero(np.isfinite(self.values))
        if not len(drawable):
            return None
        return float(self.steps[drawable[-1]]), float(self.values[drawable[-1]])


@dataclass(frozen=True, eq=False)
class Board:
    """Everything to draw at one time.

    Attributes
    ----------
    metric : str
        Name of the metric to draw; empty before the first report.
    others : tuple of str
        Names of the other reported metrics.
    higher : bool
        Whether larger values are better.
    log : bool
        Whether the axis is logarithmic.
    curves : tuple of Curve
        Curves, the best first and those without a value of the metric last.
    states : mapping of str to int
        Numbers of calls by state; ``waiting`` for calls that have not reported.
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
        """Curve with the best value so far, or None."""
        first = self.curves[0] if self.curves else None
        return first if first is not None and first.ranks and first.best is not None else None

    @property
    def title(self) -> str:
        """Summary of the calls in one line."""
        order = ("running", "done", "failed", "stopped", "cancelled", "lost", "waiting")
        parts = [f"{self.states[state]} {state}" for state in order if self.states.get(state)]
        return f"{counted(self.calls, 'call')}: {', '.join(parts)}" if parts else "no calls"

    @property
    def headline(self) -> str:
        """Best value in one line; empty if there is none."""
        leader = self.leader
        if leader is None:
            return ""
        metric = f"{self.metric} so far" if self.alive else self.metric
        since = f", last {shown(leader.latest)}" if leader.diverged else ""
        return f"best {metric} {shown(leader.best)} at step {leader.at:,} by {leader.name}{since}"

    @property
    def alive(self) -> bool:
        """Whether more reports may arrive."""
        return any(self.states.get(state) for state in ("running", "waiting"))

    @property
    def unreported(self) -> bool:
        """Whether calls have reported, but none of them the chosen metric."""
        return bool(self.others) and not any(self.metric in c.call.series for c in self.curves)

    @property
    def nothing(self) -> tuple[str, str]:
        """Reason for an empty chart, and a hint."""
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
    names: Mapping[Key, str] | None = None,
    places: Mapping[Key, int] | None = None,
) -> Board:
    """Return the board for some calls.

    Parameters
    ----------
    keys : sequence of Key
        Keys in order of submission.
    calls : mapping of Key to CallReports
        Reports of the calls that have reported.
    ended : mapping of Key to str
        ``done``, ``failed`` or ``cancelled`` for each call that has ended.
    metric : str, optional
        Metric to draw. By default ``loss``, or the first one that was reported.
    best_is : {"min", "max"}, optional
        Whether small or large values are better. By default as the calls have declared it, or
        decided by the metric's name.
    log : bool, default False
        Whether to use a logarithmic axis.
    names : mapping of Key to str, optional
        Names of the calls. By default made of their keys.
    places : mapping of Key to int, optional
        Places of the calls among all calls of their cluster, which determine the colors. By default
        their places in `keys`.

    Returns
    -------
    Board
    """
    there = [calls[key] for key in keys if key in calls]
    named = metrics(there)
    metric = metric or (named[0] if named else "")
    higher = (best_is or direction(metric, there)) == "max"
    shown_names = {**labels(list(dict.fromkeys(keys))), **(names or {})}
    curves = [
        _curve((places or {}).get(key, number), shown_names[key], calls[key], metric, higher)
        for number, key in enumerate(dict.fromkeys(keys))
        if key in calls
    ]
    sign = -1 if higher else 1
    curves.sort(
        key=lambda c: (c.best is None, not c.ranks, 0.0 if c.best is None else sign * c.best)
    )
    states = Counter(_state(calls.get(key), ended.get(key)) for key in dict.fromkeys(keys))
    others = tuple(name for name in named if name != metric)
    return Board(metric, others, higher, log, tuple(curves), states)


def _state(call: CallReports | None, ended: str | None) -> str:
    if call is not None and call.outcome == "stopped":
        return "stopped"  # its future has an error, as that of a failed one
    # The end of a call may be known before its reports.
    return ended or (call.outcome if call else "waiting")


def _curve(number: int, name: str, call: CallReports, metric: str, higher: bool) -> Curve:
    series = call.series.get(metric)
    found = best(series, higher=higher) if series else None
    steps = np.asarray(series.steps if series else [], dtype=float)
    values = np.asarray(series.values if series else [], dtype=float)
    value, at = found or (None, None)
    look = CALL_LINES[number % len(CALL_LINES)]
    return Curve(
        name=name,
        call=call,
        steps=steps,
        values=np.where(np.abs(values) < _LARGEST, values, np.nan),
        best=value,
        at=at,
        latest=float(series.values[-1]) if series else None,
        color=look["light"],
        dark=look["dark"],
        dash=look["dash"],
    )


def text(board: Board, rows: int = 10) -> str:
    """Return the ranking as plain text."""
    lines = [board.title]
    # Those that have a rank have not failed, and were not stopped.
    ranked = [c for c in board.curves if c.best is not None and c.ranks]
    if ranked:
        lines[0] += f"; best {plain(board.metric)} first"
    elif board.calls:
        lines.append("; ".join(filter(None, board.nothing)))
    listed = ranked + [c for c in board.curves if c.best is None and c.ranks and c.diverged]
    width = max((len(c.name) for c in listed[:rows]), default=0)
    for place, curve in enumerate(listed[:rows], 1):
        beginning = f"{place if curve.best is not None else NOTHING:>3}  {curve.name:<{width}}"
        lines.append(f"{beginning}  {_result(curve)} {curve.call.state}{_since(curve)}")
    if more := further(listed[rows:]):
        lines.append(f"     {more}")
    return "\n".join(lines)


def _result(curve: Curve) -> str:
    if curve.best is None:
        return f"{shown(curve.latest):>10}{'':17}"
    return f"{shown(curve.best):>10} at step {curve.at:<8,}"


def _since(curve: Curve) -> str:
    return f", last {shown(curve.latest)}" if curve.diverged and curve.best is not None else ""


def further(curves: Sequence[Curve]) -> str:
    """Return a line for the curves that a ranking has no row for; empty without any."""
    if not curves:
        return ""
    lost = sum(curve.best is None and curve.diverged and curve.ranks for curve in curves)
    return f"and {len(curves):,} more" + (f", {lost:,} of them nan" if lost else "")


def span(board: Board) -> tuple[float, float, float, float] | None:
    """Return the smallest and largest step and value; None if nothing can be drawn.

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
    """Return the values to draw; on a logarithmic axis their logarithms, NaN at 0 and below."""
    if not log:
        return values
    return np.log10(values, out=np.full_like(values, np.nan), where=values > 0)

"""The points of curves that a page has, and those that it needs; pure (scheduler)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_flame.charts.ranking import best
from dask_flame.reports.downsample import thin
from dask_flame.reports.series import Series


@dataclass(slots=True)
class SentCurve:
    """One curve as a page has it, and its best value so far."""

    made: int = 0
    dropped: int = 0
    points: int = 0
    _seen: int = 0
    _higher: bool = False
    _best: tuple[float, int] | None = None

    def forget(self) -> None:
        """Note that the page has no points of this curve."""
        self.made = self.dropped = self.points = 0

    def best(self, series: Series, *, higher: bool) -> tuple[float, int] | None:
        """Return the best value of a curve and its step, from the values that are new."""
        made = max(series.made, len(series))
        new = made - self._seen
        if not 0 <= new <= len(series) or self._best is None or self._higher != higher:
            self._best = best(series, higher=higher)
        elif new:
            last = Series(series.steps[-new:], series.values[-new:], series.times[-new:])
            found = best(last, higher=higher)
            if found and (found[0] > self._best[0] if higher else found[0] < self._best[0]):
                self._best = found
        self._seen, self._higher = made, higher
        return self._best


class Points:
    """New points of several curves, concatenated.

    Parameters
    ----------
    limit : int
        Number of points of a curve from which it is downsampled. A page may hold twice as many
        before it gets a downsampled curve.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._told: list[list[Any]] = []
        self._x: list[Any] = []
        self._y: list[Any] = []
        self._t: list[Any] = []

    def __bool__(self) -> bool:
        return bool(self._told)

    def add(
        self, attempt: int, metric: str, sent: SentCurve, series: Series, started: float
    ) -> None:
        """Add the new points of a curve, or all points if it was downsampled meanwhile."""
        n = len(series)
        made = max(series.made, n)
        dropped, new = made - n, made - sent.made
        same = bool(sent.made) and dropped == sent.dropped and new >= 0
        few = sent.points + new <= 2 * self._limit
        if same and few and not new:
            return
        if same and few:
            chosen: Any = slice(n - new, n)
            points = sent.points + new
        else:
            chosen = slice(None) if n <= self._limit else thin(series.values, self._limit)
            points = n if n <= self._limit else len(chosen)
        sent.made, sent.dropped, sent.points = made, dropped, points
        x = np.asarray(series.steps, dtype=float)[chosen]
        self._x.append(x)
        self._y.append(np.asarray(series.values, dtype=float)[chosen])
        self._t.append((np.asarray(series.times) - started)[chosen])
        self._told.append([attempt, metric, len(x), not (same and few)])

    def columns(self) -> dict[str, Any]:
        """Return the points as the browser takes them."""

        def joined(parts: list[Any], kind: str) -> Any:
            return np.concatenate([*parts, np.empty(0)]).astype(kind)

        return {
            "points": self._told,
            "x": joined(self._x, "float64"),
            "y": joined(self._y, "float64"),
            "t": joined(self._t, "float32"),
        }

"""Compute updates for an open page: all data once, then the changes; pure (scheduler).

Each point is sent once. The page draws, smooths and ranks on its own, and requests the next update
when it is ready. A slow or hidden page therefore gets fewer updates, each limited in size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from dask.typing import Key

from dask_flame.charts.colors import Palette
from dask_flame.charts.ranking import best, higher_is_better, labels, metrics
from dask_flame.core.text import label
from dask_flame.reports.downsample import thin
from dask_flame.reports.series import CallReports, Series

#: Approximate number of points of all curves in a page (24 bytes each).
POINTS = 300_000
#: Minimum number of points of a curve; with fewer the curve would look different.
_MIN_POINTS = 200
#: Number of other metrics whose last values are sent.
_OTHERS = 4


@dataclass(slots=True)
class _SentAttempt:
    """Data of one attempt that a page already has."""

    id: int
    call: CallReports | None = None  # as of the last update
    name: str = ""
    made: int = 0
    dropped: int = 0
    points: int = 0


class Feed:
    """Computes the updates of one page.

    Parameters
    ----------
    palette : Palette
        Assigns colors to runners, the same on all pages.
    points : int
        Approximate maximum number of points in the page.
    """

    def __init__(self, palette: Palette, points: int = POINTS) -> None:
        self._palette = palette
        self._points = points
        self._ids = count()
        self.forget()

    def forget(self) -> None:
        """Send everything again, because earlier updates did not arrive."""
        self._sent: dict[tuple[Key, int], _SentAttempt] = {}
        self._places: dict[Key, int] = {}
        self._metric: str | None = None
        self._metrics: list[str] = []
        self._begun = False

    def next(
        self, calls: Mapping[Key, CallReports], wanted: str | None = None
    ) -> dict[str, Any] | None:
        """Return the next update, or None if the page has all data.

        Parameters
        ----------
        calls : mapping of Key to CallReports
            Current reports of each call.
        wanted : str, optional
            Metric that the user has chosen. By default the first one.

        Returns
        -------
        dict or None
            - ``metric``, ``metrics``: name of the chosen metric, and names of all metrics.
            - ``higher``: whether larger values are better.
            - ``anew``: whether to drop all data of the page first.
            - ``gone``: ids of attempts that no longer exist.
            - ``rows``: changed attributes of attempts, one dict with an ``id`` for each.
            - ``runs``: for each attempt with new points its id, the number of points, and whether
              they replace the existing ones.
            - ``x``, ``y``, ``t``: steps, values, and seconds since the attempt began, of all new
              points, concatenated.
        """
        known = metrics(calls.values())
        metric = known[0] if known else ""
        if wanted is not None and wanted in known:
            metric = wanted
        anew = not self._begun or metric != self._metric
        if anew:
            self._sent.clear()
        heading = (metric, known) != (self._metric, self._metrics)
        self._begun, self._metric, self._metrics = True, metric, known
        attempts = list(_attempts(calls))
        self._palette.assign(list(dict.fromkeys(call.runner for call, _ in attempts)))
        names = _names(calls)
        gone = self._drop({(call.key, call.attempt) for call, _ in attempts})
        limit = max(_MIN_POINTS, self._points // max(1, len(attempts)))
        rows: list[dict[str, Any]] = []
        points = _Points()
        for call, latest in attempts:
            sent = self._sent.setdefault((call.key, call.attempt), _SentAttempt(-1))
            if sent.id < 0:
                sent.id = next(self._ids)
            name = names[call.key]
            if sent.call is call and sent.name == name:
                continue
            rows.append(self._row(sent.id, call, name, latest=latest))
            series = call.series.get(metric)
            if series is not None and len(series):
                points.add(sent, series, call.started, limit)
            sent.call, sent.name = call, name
        if not (anew or heading or rows or gone):
            return None
        return {
            "anew": anew,
            "metric": metric,
            "metrics": known,
            "higher": higher_is_better(metric),
            "gone": gone,
            "rows": rows,
            **points.columns(),
        }

    def _drop(self, there: Collection[tuple[Key, int]]) -> list[int]:
        gone = [which for which in self._sent if which not in there]
        return [self._sent.pop(which).id for which in gone]

    def _row(self, number: int, call: CallReports, name: str, *, latest: bool) -> dict[str, Any]:
        metric = self._metric or ""
        series = call.series.get(metric)
        found = best(series, higher=higher_is_better(metric)) if series else None
        value, at = found or (None, None)
        others = [m for m in self._metrics if m != metric][:_OTHERS]
        return {
            "id": number,
            "place": self._places.setdefault(call.key, len(self._places)),
            "key": str(call.key),
            "name": name,
            "arguments": call.arguments,
            "why": call.why,
            "runner": call.runner,
            "color": self._palette.number(call.runner),
            "pool": call.pool,
            "state": call.state,
            "attempt": call.attempt,
            "latest": latest,
            "best": value,
            "at": at,
            "step": series.steps[-1] if series else None,
            "last": series.values[-1] if series else None,
            # Pairs, because some names are reserved in a JavaScript object.
            "others": [[m, call.series[m].values[-1]] for m in others if call.series.get(m)],
            "took": None if call.finished is None else max(0.0, call.finished - call.started),
        }


class _Points:
    """Points of several attempts, concatenated."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, int, bool]] = []
        self._x: list[Any] = []
        self._y: list[Any] = []
        self._t: list[Any] = []

    def add(self, sent: _SentAttempt, series: Series, started: float, limit: int) -> None:
        """Add the new points of a series, or all points if it was downsampled meanwhile."""
        n = len(series)
        made = max(series.made, n)
        dropped, new = made - n, made - sent.made
        # The page may hold twice the limit before it gets a downsampled curve.
        same = sent.made and dropped == sent.dropped and new >= 0
        if same and not new:
            return
        if same and sent.points + new <= 2 * limit:
            chosen: Any = slice(n - new, n)
            points, replace = sent.points + new, False
        else:
            chosen = slice(None) if n <= limit else thin(series.values, limit)
            replace = True
            points = n if n <= limit else len(chosen)
        sent.made, sent.dropped, sent.points = made, dropped, points
        x = np.asarray(series.steps, dtype=float)[chosen]
        self._x.append(x)
        self._y.append(np.asarray(series.values, dtype=float)[chosen])
        self._t.append((np.asarray(series.times) - started)[chosen])
        self._runs.append((sent.id, len(x), replace))

    def columns(self) -> dict[str, Any]:
        def joined(parts: list[Any], kind: str) -> Any:
            return np.concatenate([*parts, np.empty(0)]).astype(kind)

        return {
            "runs": [[number, n, replace] for number, n, replace in self._runs],
            "x": joined(self._x, "float64"),
            "y": joined(self._y, "float64"),
            "t": joined(self._t, "float32"),
        }


def _names(calls: Mapping[Key, CallReports]) -> dict[Key, str]:
    """Return a name for each call: its key, or its arguments if Dask generated the key."""
    names = dict(labels(list(calls)))
    made_up = {key: calls[key].arguments for key in calls if label(key) != str(key)}
    made_up = dict(zip(made_up, apart(list(made_up.values())), strict=True))
    seen = Counter(made_up.values())
    for key, arguments in made_up.items():
        if arguments:
            names[key] = arguments if seen[arguments] == 1 else f"{arguments} ({names[key]})"
    return names


def apart(arguments: Sequence[str]) -> list[str]:
    """Drop the arguments that are the same in all calls.

    Examples
    --------
    >>> apart(["rate=0.1, layers=4", "rate=0.2, layers=4"])
    ['rate=0.1', 'rate=0.2']
    """
    parts = [text.split(", ") for text in arguments]
    names = {tuple(part.partition("=")[0] for part in own) for own in parts}
    if len(set(arguments)) < 2 or len(names) != 1:
        return list(arguments)
    differ = [len(set(column)) > 1 for column in zip(*parts, strict=True)]
    return [", ".join(p for p, own in zip(part, differ, strict=True) if own) for part in parts]


def _attempts(calls: Mapping[Key, CallReports]) -> Iterator[tuple[CallReports, bool]]:
    """Yield each attempt, and whether it is the latest of its call."""
    for call in calls.values():
        for before in call.earlier:
            yield before, False
        yield call, True

"""What an open page is told of the calls: once all of it, then what has changed; pure (scheduler).

A page gets each point once. It draws, smooths and ranks by itself, and says when it is ready for
more: a page that is slow, or hidden, is told less often, never more at a time than there is.
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

#: Points of all curves together that a page is to hold, about: 24 bytes each.
POINTS = 300_000
#: Fewer points than this would draw another curve.
_LEAST = 200
#: Further metrics whose last values are told, beside the chosen one.
_OTHERS = 4


@dataclass(slots=True)
class _Told:
    """What a page has of one attempt of a call."""

    id: int
    call: CallReports | None = None  # as it was then
    name: str = ""
    made: int = 0
    dropped: int = 0
    points: int = 0


class Feed:
    """What one page has been told.

    Parameters
    ----------
    palette : Palette
        Gives runners their colours, the same ones on all pages.
    points : int
        About the most points that the page is to hold.
    """

    def __init__(self, palette: Palette, points: int = POINTS) -> None:
        self._palette = palette
        self._points = points
        self._ids = count()
        self.forget()

    def forget(self) -> None:
        """Tell everything anew: what was told has not arrived."""
        self._told: dict[tuple[Key, int], _Told] = {}
        self._places: dict[Key, int] = {}
        self._metric: str | None = None
        self._metrics: list[str] = []
        self._begun = False

    def next(
        self, calls: Mapping[Key, CallReports], wanted: str | None = None
    ) -> dict[str, Any] | None:
        """What is to be told next; None if the page knows all of it.

        Parameters
        ----------
        calls : mapping of Key to CallReports
            What is known now.
        wanted : str, optional
            The metric that the page's user has chosen; by default the first one.

        Returns
        -------
        dict or None
            ``metric``, ``metrics`` (their names) and ``higher`` (whether more is better);
            ``anew``: whether what the page has is to be forgotten; ``gone``: ids of attempts that
            are no longer known; ``rows``: what has changed but points, one dict each with an
            ``id``; and new points: ``runs``, of each the id, the number, and whether they replace
            what was there, with ``x`` (steps), ``y`` (values) and ``t`` (seconds since the attempt
            began) of all of them, one after the other.
        """
        known = metrics(calls.values())
        metric = known[0] if known else ""
        if wanted is not None and wanted in known:
            metric = wanted
        anew = not self._begun or metric != self._metric
        if anew:
            self._told.clear()
        heading = (metric, known) != (self._metric, self._metrics)
        self._begun, self._metric, self._metrics = True, metric, known
        attempts = list(_attempts(calls))
        self._palette.assign(list(dict.fromkeys(call.runner for call, _ in attempts)))
        names = _names(calls)
        gone = self._drop({(call.key, call.attempt) for call, _ in attempts})
        limit = max(_LEAST, self._points // max(1, len(attempts)))
        rows: list[dict[str, Any]] = []
        points = _Points()
        for call, latest in attempts:
            told = self._told.setdefault((call.key, call.attempt), _Told(-1))
            if told.id < 0:
                told.id = next(self._ids)
            name = names[call.key]
            if told.call is call and told.name == name:
                continue
            rows.append(self._row(told.id, call, name, latest=latest))
            series = call.series.get(metric)
            if series is not None and len(series):
                points.add(told, series, call.started, limit)
            told.call, told.name = call, name
        if not (anew or heading or rows or gone):
            return None
        return {
            "anew": anew,
            "metric": metric,
            "metrics": known,
            "higher": higher_is_better(metric),
            "gone": gone,
            "rows": rows,
            **points.told(),
        }

    def _drop(self, there: Collection[tuple[Key, int]]) -> list[int]:
        gone = [which for which in self._told if which not in there]
        return [self._told.pop(which).id for which in gone]

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
            "colour": self._palette.number(call.runner),
            "pool": call.pool,
            "state": call.state,
            "attempt": call.attempt,
            "latest": latest,
            "best": value,
            "at": at,
            "step": series.steps[-1] if series else None,
            "last": series.values[-1] if series else None,
            # Pairs, as there are names that an object in the browser takes for its own.
            "others": [[m, call.series[m].values[-1]] for m in others if call.series.get(m)],
            "took": None if call.finished is None else max(0.0, call.finished - call.started),
        }


class _Points:
    """Points of several attempts, one after the other."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, int, bool]] = []
        self._x: list[Any] = []
        self._y: list[Any] = []
        self._t: list[Any] = []

    def add(self, told: _Told, series: Series, started: float, limit: int) -> None:
        """Those of a series that a page does not have, or all, if it was thinned meanwhile."""
        n = len(series)
        made = max(series.made, n)
        dropped, new = made - n, made - told.made
        # The page's own copy may grow to twice the limit before it is sent a thinner one.
        same = told.made and dropped == told.dropped and new >= 0
        if same and not new:
            return
        if same and told.points + new <= 2 * limit:
            chosen: Any = slice(n - new, n)
            points, replace = told.points + new, False
        else:
            chosen = slice(None) if n <= limit else thin(series.values, limit)
            replace = True
            points = n if n <= limit else len(chosen)
        told.made, told.dropped, told.points = made, dropped, points
        x = np.asarray(series.steps, dtype=float)[chosen]
        self._x.append(x)
        self._y.append(np.asarray(series.values, dtype=float)[chosen])
        self._t.append((np.asarray(series.times) - started)[chosen])
        self._runs.append((told.id, len(x), replace))

    def told(self) -> dict[str, Any]:
        def joined(parts: list[Any], kind: str) -> Any:
            return np.concatenate([*parts, np.empty(0)]).astype(kind)

        return {
            "runs": [[number, n, replace] for number, n, replace in self._runs],
            "x": joined(self._x, "float64"),
            "y": joined(self._y, "float64"),
            "t": joined(self._t, "float32"),
        }


def _names(calls: Mapping[Key, CallReports]) -> dict[Key, str]:
    """A name for each call: its key, or its arguments where Dask has made up the key."""
    names = dict(labels(list(calls)))
    made_up = {key: calls[key].arguments for key in calls if label(key) != str(key)}
    made_up = dict(zip(made_up, apart(list(made_up.values())), strict=True))
    seen = Counter(made_up.values())
    for key, arguments in made_up.items():
        if arguments:
            names[key] = arguments if seen[arguments] == 1 else f"{arguments} ({names[key]})"
    return names


def apart(arguments: Sequence[str]) -> list[str]:
    """Arguments of several calls without those that are the same in all.

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
    """All attempts, and whether each is its call's latest."""
    for call in calls.values():
        for before in call.earlier:
            yield before, False
        yield call, True

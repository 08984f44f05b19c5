"""Compute updates for an open page: all data once, then the changes; pure (scheduler).

Each point is sent once. The page draws, smooths and ranks on its own, and requests the next update
when it is ready. A slow or hidden page therefore gets fewer updates, each limited in size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from statistics import median
from typing import Any

from dask.typing import Key

from dask_flame.charts.colors import Palette
from dask_flame.charts.ranking import metrics
from dask_flame.dashboard.flame.points import Points, SentCurve
from dask_flame.reports.better import direction
from dask_flame.reports.names import differing, names
from dask_flame.reports.runs import Run, progress, seconds_left, silent
from dask_flame.reports.series import CallReports

#: Approximate number of points of all curves in a page (24 bytes each).
POINTS = 300_000
#: Minimum number of points of a curve; with fewer the curve would look different.
_MIN_POINTS = 200
#: Maximum number of metrics that are drawn side by side.
MOST_DRAWN = 4
#: Number of metrics whose best and last values are sent, beside those that are drawn.
_LISTED = 24
#: Maximum number of parameters that are listed.
_PARAMETERS = 40


@dataclass(frozen=True, slots=True)
class Wanted:
    """Choices of a page's user that decide which data are sent.

    Attributes
    ----------
    metrics : tuple of str
        Metrics to draw; by default the first one.
    runs : frozenset of str or None
        Ids of the runs to show; None for all.
    """

    metrics: tuple[str, ...] = ()
    runs: frozenset[str] | None = None

    @classmethod
    def read(cls, sent: Any) -> Wanted:
        """Read what a browser has sent; ignore everything that is not understood."""
        if not isinstance(sent, Mapping):
            return cls()

        def texts(name: str) -> list[str]:
            value = sent.get(name)
            listed = value if isinstance(value, list | tuple) else ()
            return list(dict.fromkeys(text for text in listed if isinstance(text, str)))

        runs = texts("runs")
        return cls(tuple(texts("metrics")[:MOST_DRAWN]), frozenset(runs) if runs else None)

    def sent(self) -> dict[str, Any]:
        """Return the choices as a browser sends them."""
        return {"metrics": list(self.metrics), "runs": sorted(self.runs) if self.runs else None}


@dataclass(slots=True)
class _SentAttempt:
    """Data of one attempt that a page already has."""

    id: int
    call: CallReports | None = None  # as of the last update
    name: str = ""
    curves: dict[str, SentCurve] = field(default_factory=dict)


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
        self._heading: dict[str, Any] | None = None

    def next(
        self,
        calls: Mapping[Key, CallReports],
        runs: Sequence[Run] = (),
        *,
        now: float = 0.0,
        wanted: Wanted | None = None,
    ) -> dict[str, Any] | None:
        """Return the next update, or None if the page has all data.

        Parameters
        ----------
        calls : mapping of Key to CallReports
            All calls, also those that have not reported.
        runs : sequence of Run
            Their runs, oldest first.
        now : float
            Unix time in seconds.
        wanted : Wanted, optional
            Choices of the user.

        Returns
        -------
        dict or None
            - ``metrics``: names of all metrics; ``drawn``: those whose points are sent.
            - ``better``: whether small or large values are better, by metric; ``declared``: names
              of those for which the user has said so.
            - ``parameters``: names of the arguments that differ between calls.
            - ``runs``: all runs, with the numbers of their calls, an estimate of the time left, and
              whether they are ``shown``.
            - ``now``: the scheduler's time.
            - ``anew``: whether to drop all data of the page first.
            - ``gone``: ids of attempts that no longer exist.
            - ``rows``: changed attributes of attempts, one dict with an ``id`` for each.
            - ``points``: for each curve with new points the id of its attempt, the metric, the
              number of points, and whether they replace the existing ones.
            - ``x``, ``y``, ``t``: steps, values, and seconds since the attempt began, of all new
              points, concatenated.
        """
        wanted = wanted or Wanted()
        hidden = _hidden(calls, wanted)
        shown = {k: c for k, c in calls.items() if c.run not in hidden} if hidden else calls
        heading = self._head(shown, _runs(runs, calls, hidden, now), now, wanted)
        before, self._heading = self._heading, heading
        redraw = before is None or before["drawn"] != heading["drawn"]
        attempts = list(_attempts(shown))
        there = dict.fromkeys(call.runner for call, _ in attempts if call.runner)
        self._palette.assign(list(there))
        called = names(shown.values())
        gone = self._drop({(call.key, call.attempt) for call, _ in attempts})
        limit = self._points // max(1, len(attempts) * len(heading["drawn"]))
        limit = max(_MIN_POINTS, limit)
        typical = _typical(shown.values())
        rows: list[dict[str, Any]] = []
        points = Points(limit)
        for call, latest in attempts:
            sent = self._sent.setdefault((call.key, call.attempt), _SentAttempt(-1))
            if sent.id < 0:
                sent.id = next(self._ids)
            name = called[call.key]
            known = sent.call is call and sent.name == name
            if known and not redraw:
                continue
            if not known:
                left = seconds_left(call, now, typical.get(call.run))
                rows.append(self._row(sent, call, name, left, latest=latest))
            for metric in heading["drawn"]:
                if series := call.series.get(metric):
                    points.add(sent.id, metric, self._curve(sent, metric), series, call.started)
            sent.call, sent.name = call, name
        if before is not None and _same(before, heading) and not (rows or gone or points):
            return None
        return {
            "anew": before is None,
            "gone": gone,
            "rows": rows,
            **heading,
            **points.columns(),
        }

    def _head(
        self,
        shown: Mapping[Key, CallReports],
        runs: list[dict[str, Any]],
        now: float,
        wanted: Wanted,
    ) -> dict[str, Any]:
        # Earlier attempts count: a call that has just begun again has no curve yet.
        known = metrics(attempt for attempt, _ in _attempts(shown))
        drawn = [metric for metric in wanted.metrics if metric in known] or known[:1]
        listed = list(dict.fromkeys([*drawn, *known[:_LISTED]]))
        self._listed = listed
        declared = {name for call in shown.values() for name in call.better}
        return {
            "metrics": known,
            "drawn": drawn,
            # Pairs, because some names are reserved in a JavaScript object.
            "better": [[name, direction(name, shown.values())] for name in listed],
            "declared": [name for name in known if name in declared],
            "parameters": differing(shown.values())[:_PARAMETERS],
            "runs": runs,
            "now": now,
        }

    def _curve(self, sent: _SentAttempt, metric: str) -> SentCurve:
        return sent.curves.setdefault(metric, SentCurve())

    def _drop(self, there: Collection[tuple[Key, int]]) -> list[int]:
        """Forget attempts that are not there, and the points of metrics that are not drawn."""
        drawn = self._heading["drawn"] if self._heading else ()
        for sent in self._sent.values():
            for metric, curve in sent.curves.items():
                if metric not in drawn:
                    curve.forget()
        gone = [which for which in self._sent if which not in there]
        return [self._sent.pop(which).id for which in gone]

    def _row(
        self, sent: _SentAttempt, call: CallReports, name: str, left: float | None, *, latest: bool
    ) -> dict[str, Any]:
        better = dict(self._heading["better"]) if self._heading else {}
        values = []
        for metric in self._listed:
            if series := call.series.get(metric):
                curve = self._curve(sent, metric)
                best, at = curve.best(series, higher=better[metric] == "max") or (None, None)
                made = max(series.made, len(series))
                values.append([metric, best, at, series.values[-1], len(series), made])
        waiting = call.state == "waiting"
        took = None if call.finished is None else max(0.0, call.finished - call.started)
        return {
            "id": sent.id,
            "place": self._places.setdefault(call.key, len(self._places)),
            "key": str(call.key),
            "name": name,
            "function": call.function,
            "arguments": call.arguments,
            "parameters": [[key, value] for key, value in call.parameters.items()],
            "run": call.run,
            "runner": call.runner,
            "color": self._palette.number(call.runner) if call.runner else 0,
            "pool": call.pool,
            "state": call.state,
            "why": call.why,
            "attempt": call.attempt,
            "latest": latest,
            "submitted": call.submitted,
            "started": None if waiting else call.started,
            "finished": call.finished,
            "took": took,
            "progress": call.progress,
            "left": left if call.state == "running" else None,
            "step": max((s.steps[-1] for s in call.series.values() if s), default=None),
            "metrics": values,
        }


def _same(before: Mapping[str, Any], heading: Mapping[str, Any]) -> bool:
    """Whether two headings differ only by the time."""

    def timeless(head: Mapping[str, Any]) -> Any:
        runs = [{**run, "left": run["left"] is None} for run in head["runs"]]
        return {**head, "now": 0, "runs": runs}

    return bool(timeless(before) == timeless(heading))


def _hidden(calls: Mapping[Key, CallReports], wanted: Wanted) -> set[str]:
    """Return the ids of the runs that are not shown."""
    if wanted.runs is None:
        return silent(calls.values())
    there = {call.run for call in calls.values()}
    # Runs of an earlier cluster may be chosen in an old address.
    return there - wanted.runs if there & wanted.runs else set()


def _runs(
    runs: Sequence[Run],
    calls: Mapping[Key, CallReports],
    hidden: Collection[str],
    now: float,
) -> list[dict[str, Any]]:
    own: dict[str, list[CallReports]] = {run.id: [] for run in runs}
    for call in calls.values():
        if call.run in own:
            own[call.run].append(call)
    told = []
    for run in runs:
        known = asdict(progress(own[run.id], now, run.total))
        head = {"id": run.id, "name": run.name, "begun": run.begun, "shown": run.id not in hidden}
        told.append({**head, **known})
    return told


def _typical(calls: Collection[CallReports]) -> dict[str, float]:
    """Return the median duration of the calls that are done, by run."""
    took: dict[str, list[float]] = {}
    for call in calls:
        if call.state == "done" and call.finished is not None:
            took.setdefault(call.run, []).append(call.finished - call.started)
    return {run: median(times) for run, times in took.items()}


def _attempts(calls: Mapping[Key, CallReports]) -> Iterator[tuple[CallReports, bool]]:
    """Yield each attempt, and whether it is the latest of its call."""
    for call in calls.values():
        for before in call.earlier:
            yield before, False
        yield call, True

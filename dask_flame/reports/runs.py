"""Runs: groups of calls that were submitted together; without Dask (all places)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from statistics import median

from dask_flame.reports.series import CallReports


@dataclass(frozen=True, slots=True)
class Run:
    """Calls that were submitted together, or inside of one :func:`dask_flame.run` block.

    Attributes
    ----------
    id : str
        Unique id of the run.
    name : str
        Name given to :func:`dask_flame.run`, otherwise the name of the function, with a number if
        it is not the first run of that name: ``"train"``, ``"train 2"``.
    begun : float
        Unix time in seconds of the first submission.
    total : int
        Number of submitted calls.
    named : bool
        Whether the user has named it.
    """

    id: str
    name: str
    begun: float
    total: int
    named: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the calls of a run have come.

    Attributes
    ----------
    total, waiting, running, done, failed, cancelled : int
        Numbers of calls. Lost calls, which run again, count as waiting.
    left : float or None
        Estimated seconds until the last call ends; None if it cannot be known yet, 0 if all calls
        have ended.
    """

    total: int
    waiting: int
    running: int
    done: int
    failed: int
    cancelled: int
    left: float | None


def progress(calls: Collection[CallReports], now: float, total: int | None = None) -> Progress:
    """Return how far calls have come, and estimate the time until all have ended.

    The estimate takes a running call's own progress where it reports it, otherwise the median
    duration of the calls that are done. Waiting calls are assumed to take the median duration, and
    to run as many at a time as run now.

    Parameters
    ----------
    calls : collection of CallReports
        The known calls of the run.
    now : float
        Unix time in seconds.
    total : int, optional
        Number of calls, if not all are known; the others count as waiting.

    Returns
    -------
    Progress
    """
    states = Counter(call.state for call in calls)
    unknown = max(0, (total or 0) - len(calls))
    waiting = states["waiting"] + states["lost"] + unknown
    return Progress(
        len(calls) + unknown,
        waiting,
        states["running"],
        states["done"],
        states["failed"],
        states["cancelled"],
        _left(calls, waiting, now),
    )


def seconds_left(call: CallReports, now: float, typical: float | None = None) -> float | None:
    """Return the estimated seconds until a running call ends; None if unknown.

    Parameters
    ----------
    call : CallReports
    now : float
        Unix time in seconds.
    typical : float, optional
        Duration of calls like this one, for calls that do not report their progress.
    """
    ran = max(0.0, now - call.started)
    if call.progress:
        return ran * (1 - call.progress) / call.progress
    return None if typical is None else max(0.0, typical - ran)


def _left(calls: Collection[CallReports], waiting: int, now: float) -> float | None:
    running = [call for call in calls if call.state == "running"]
    if not running:
        return None if waiting else 0.0
    done = [c.finished - c.started for c in calls if c.state == "done" and c.finished is not None]
    typical = median(done) if done else None
    each = [seconds_left(call, now, typical) for call in running]
    known = [left for left in each if left is not None]
    if len(known) < len(each):
        return None
    if not waiting:
        return max(known)
    if typical is None:
        typical = median(now - c.started + left for c, left in zip(running, known, strict=True))
    return max(max(known), (sum(known) + waiting * typical) / len(running))

"""Runs: groups of calls that were submitted together; without Dask (all places)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from statistics import median

from dask.typing import Key

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
    total, waiting, running, done, failed, stopped, cancelled : int
        Numbers of calls. Lost calls, which run again, count as waiting. ``stopped``: those that
        :class:`dask_flame.CallStopped` has ended, which are not among the cancelled ones here.
    left : float or None
        Estimated seconds until the last call ends; None if it cannot be known yet, 0 if all calls
        have ended.
    """

    total: int
    waiting: int
    running: int
    done: int
    failed: int
    stopped: int
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
    states = Counter(call.outcome for call in calls)
    unknown = max(0, (total or 0) - len(calls))
    waiting = states["waiting"] + states["lost"] + unknown
    return Progress(
        len(calls) + unknown,
        waiting,
        states["running"],
        states["done"],
        states["failed"],
        states["stopped"],
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


def silent(calls: Iterable[CallReports]) -> set[str]:
    """Return the ids of runs that do not report, such as the saving of trained models.

    The page ``/flame`` shows them only if they are chosen. Not among them are all runs if none
    reports, and those of which a call has failed by itself.
    """
    reporting, done, failed = set(), set(), set()
    for call in calls:
        if call.series or any(before.series for before in call.earlier):
            reporting.add(call.run)
        elif call.state == "done":
            done.add(call.run)
        elif call.state in ("failed", "lost") and call.runner:
            failed.add(call.run)
    return done - failed - reporting if reporting else set()


def places(calls: Iterable[CallReports]) -> dict[Key, int]:
    """Return the place of each call, which gives its color on the page and in a cell.

    Calls of runs that the page does not show have none.
    """
    known = list(calls)
    hidden = silent(known)
    shown = (call.key for call in known if call.run not in hidden)
    return {key: place for place, key in enumerate(shown)}


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

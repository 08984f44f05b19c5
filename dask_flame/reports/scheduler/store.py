"""Store of reports in bounded memory; without Dask (scheduler)."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from time import time
from typing import Any

from dask.typing import Key

from dask_flame.core.option_checks import whole
from dask_flame.reports.changes import Change, State, Subscribers, What
from dask_flame.reports.driver.export import Exports
from dask_flame.reports.scheduler.call_record import CallRecord
from dask_flame.reports.scheduler.curve_record import CurveRecord
from dask_flame.reports.series import CallReports
from dask_flame.reports.wire import Batch

logger = logging.getLogger("dask_flame")

#: Minimum points of a series; with fewer the curve would look different.
_MIN_POINTS = 100


class ReportStore(Exports):
    """Reports of many calls; written on the scheduler's event loop, readable from any thread.

    Parameters
    ----------
    calls : int, default 1,000
        Maximum number of calls to keep. Beyond it the oldest finished call is dropped, or the
        oldest call if none has finished.
    points : int, default 4,000
        Maximum number of points of one series. Beyond it the series is downsampled to half or
        fewer, which keeps the first point and the minimum, maximum and last point of short
        intervals of steps. All of these intervals have the same width.
    total : int, default 5,000,000
        Approximate maximum number of points of all series (24 bytes each). Beyond it finished
        calls are dropped, oldest first, and series are limited to fewer than `points`. The number
        of series is limited to ``total // 100``. Beyond that, too, finished calls are dropped; if
        none has finished, new metric names are dropped, with one warning.

    Attributes
    ----------
    limits : tuple of int
        `calls`, `points` and `total`.

    Examples
    --------
    >>> calls = client.run_on_scheduler(
    ...     lambda dask_scheduler: dask_scheduler.plugins["flame-reports"].store.calls)
    """

    def __init__(self, *, calls: int = 1_000, points: int = 4_000, total: int = 5_000_000) -> None:
        self.limits = (
            whole("calls", calls, 1),
            whole("points", points, _MIN_POINTS),
            whole("total", total, _MIN_POINTS),
        )
        # Held while subscribers are notified, and reentrant because they may read.
        self._lock = threading.RLock()
        self._subscribers = Subscribers()
        self._calls: dict[Key, CallRecord] = {}
        self._version = 0
        self._total = 0
        self._curves = 0
        self._full = False
        #: Returns the names of runs by their ids. Set by what knows the runs.
        self.run_names: Callable[[], Mapping[str, str]] = dict

    def _run_names(self) -> Mapping[str, str]:
        return self.run_names()

    @property
    def version(self) -> int:
        """Number that differs after each change."""
        return self._version

    @property
    def calls(self) -> dict[Key, CallReports]:
        """Copy of the reports of each call, ordered by the calls' first reports."""
        with self._lock:
            return {key: call.snapshot() for key, call in self._calls.items()}

    def get(self, key: Key) -> CallReports | None:
        """Return the current reports of a call, or None if it has not reported."""
        with self._lock:
            call = self._calls.get(key)
            return None if call is None else call.snapshot()

    def locked(self) -> AbstractContextManager[object]:
        """Return a context manager in which the store does not change."""
        return self._lock

    def subscribe(self, callback: Callable[[Change], object]) -> dict[Key, CallReports]:
        """Call a function on every change from now on.

        Parameters
        ----------
        callback : callable
            Called with a :class:`Change` in the thread that writes, usually the event loop of the
            scheduler or cluster, in the order of the changes. The store is locked meanwhile: the
            function may read the store, but must return quickly and not block. If it raises, the
            error is logged and it is not called again.

        Returns
        -------
        dict
            The `calls` before the first change: no change is missing or included twice.

        Examples
        --------
        >>> store = ReportStore()
        >>> store.subscribe(lambda change: print(change.key, change.state))
        {}
        """
        with self._lock:
            self._subscribers.add(callback)
            return self.calls

    def unsubscribe(self, callback: Callable[[Change], object]) -> None:
        """Stop calling a function; it is not called after this method has returned."""
        with self._lock:
            self._subscribers.remove(callback)

    def __contains__(self, key: Key) -> bool:
        return key in self._calls

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return f"<ReportStore: {len(self)} calls, {self._total} points>"

    def add(self, batch: Batch, *, state: State = "running") -> None:
        """Add reports.

        Reports of another run of a known call begin a new attempt. Reports of a run that has
        already ended are ignored.

        Parameters
        ----------
        batch : Batch
            Consecutive reports of one run.
        state : str, default "running"
            State of the call, if these are the first reports of the run.
        """
        with self._lock:
            call = self._calls.get(batch.key)
            if call is None:
                self._make_room()
                call = self._calls[batch.key] = CallRecord(
                    batch.key, batch.runner, actor=batch.actor
                )
            at = batch.times[0] if batch.times else time()
            if call.execution != batch.execution:
                if batch.execution in call.past:
                    return
                if call.execution is not None:
                    self._restart(call)
                call.execution = batch.execution
                call.state = state
                call.started = call.started or at
                call.finished = None if state == "running" else time()
            call.runner, call.pool = batch.runner, batch.pool
            call.describe(batch.about)
            if batch.progress is not None:
                call.advance(batch.progress)
            self._extend(call, batch)
            self._changed(call, "reports", at, batch)

    def begin(self, key: Key, at: float) -> None:
        """Record that a known call runs again."""
        with self._lock:
            call = self._calls[key]
            self._restart(call)
            call.started = at
            self._changed(call, "begin", at)

    def end(self, key: Key, state: State, at: float, why: str = "") -> None:
        """Record the final state of a known call, and the text of its exception.

        Parameters
        ----------
        key : Key
            Key of the call.
        state : {"done", "failed", "cancelled", "lost"}
            Final state of the call.
        at : float
            Unix time in seconds.
        why : str, optional
            Short text of the exception, if the call failed.
        """
        with self._lock:
            call = self._calls[key]
            call.state, call.finished, call.why = state, at, why
            self._changed(call, "end", at)

    def end_all(self, state: State, at: float) -> None:
        """Record the same final state for every running call."""
        for key in [k for k, c in self._calls.items() if c.state == "running"]:
            self.end(key, state, at)

    def keep_actors(self, runners: Collection[str], at: float) -> None:
        """Record as lost the running actor methods on all runners but these."""
        for key, call in list(self._calls.items()):
            if call.actor and call.state == "running" and call.runner not in runners:
                self.end(key, "lost", at)

    # Replication

    def dump(self) -> list[dict[str, Any]]:
        """Return the content of the store, for :meth:`load` of another store."""
        with self._lock:
            return [call.dump() for call in self._calls.values()]

    def load(self, calls: Iterable[Mapping[str, Any]]) -> None:
        """Replace the content of the store; subscribers are notified of each call."""
        with self._lock:
            loaded = [CallRecord.load(dumped) for dumped in calls]
            self._calls = {call.key: call for call in loaded}
            self._total = sum(call.points for call in loaded)
            self._curves = sum(call.series for call in loaded)
            self._version += 1
            for call in loaded:
                self._changed(call, "renewed", time())

    def take(self, change: Change) -> None:
        """Apply a change of another store."""
        if change.batch is not None:
            self.add(change.batch, state=change.state)
        elif change.key in self._calls:
            if change.what == "begin":
                self.begin(change.key, change.at)
            elif change.what == "end":
                self.end(change.key, change.state, change.at, change.why)

    # Changes

    def _restart(self, call: CallRecord) -> None:
        self._total -= call.points
        self._curves -= call.series
        call.restart()
        self._total += call.points
        self._curves += call.series

    def _extend(self, call: CallRecord, batch: Batch) -> None:
        _, points, total = self.limits
        most = total // _MIN_POINTS
        new = sum(name not in call.curves for name in batch.values)
        if self._curves + new > most:
            self._shrink(call, curves=max(0, most - new))
        for name in batch.values:
            curve = call.curves.get(name)
            if curve is None:
                if self._curves >= most:
                    self._warn_full(call, most)
                    continue
                curve = call.curves[name] = CurveRecord()
                self._curves += 1
            before = len(curve.steps)
            curve.extend(batch, name)
            # With hundreds of series in a call, each gets its share of `total` instead of `points`.
            limit = min(points, max(_MIN_POINTS, total // self._curves))
            if len(curve.steps) > limit:
                curve.thin(limit // 2)
            self._total += len(curve.steps) - before
        if self._total > total:
            self._shrink(call, points=total)

    def _shrink(
        self, spared: CallRecord, *, points: float = math.inf, curves: float = math.inf
    ) -> None:
        """Drop earlier attempts, then finished calls, until the limits hold."""

        def fits() -> bool:
            return self._total <= points and self._curves <= curves

        # Earlier attempts are rarely looked at.
        for other in [c for c in self._calls.values() if c.earlier]:
            if fits():
                return
            self._total -= other.points
            self._curves -= other.series
            other.earlier.clear()
            other.frozen = None
            self._total += other.points
            self._curves += other.series
        for other in [c for c in self._calls.values() if c.state != "running"]:
            if fits():
                return
            if other is not spared:
                self._drop(other)

    def _warn_full(self, call: CallRecord, most: int) -> None:
        if not self._full:
            self._full = True
            logger.warning(
                "calls have reported %d series, which is the most that is kept (total= of Reports, "
                "100 points for each); further names are left out from now on, first in %r. Report "
                "fewer names, the same ones in each call",
                most,
                call.key,
            )

    def _make_room(self) -> None:
        if len(self._calls) >= self.limits[0]:
            oldest = next(iter(self._calls.values()))
            finished = (c for c in self._calls.values() if c.state != "running")
            self._drop(next(finished, oldest))

    def _drop(self, call: CallRecord) -> None:
        del self._calls[call.key]
        self._total -= call.points
        self._curves -= call.series

    def _changed(
        self,
        call: CallRecord,
        what: What,
        at: float,
        batch: Batch | None = None,
    ) -> None:
        call.frozen = None
        self._version += 1
        if self._subscribers:
            why = call.why if what == "end" else ""
            change = Change(what, call.key, call.attempt, call.state, at, batch, why)
            self._subscribers.notify(change)

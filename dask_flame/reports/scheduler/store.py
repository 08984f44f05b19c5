"""What calls have reported, in bounded memory; no Dask in it (scheduler)."""

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
from dask_flame.reports.scheduler.call_record import CallRecord, CurveRecord
from dask_flame.reports.series import CallReports
from dask_flame.reports.wire import Batch

logger = logging.getLogger("dask_flame")

#: Fewer points than this would draw another curve than the one that was reported.
_LEAST_POINTS = 100


class ReportStore(Exports):
    """The reports of many calls; written by the scheduler's event loop, read from any thread.

    Parameters
    ----------
    calls : int
        Most calls that are kept. Beyond it the oldest finished one goes, or, if none has
        finished, the oldest.
    points : int
        Most points of one series that are kept. Beyond it half of them are, among them the first,
        the last, and the extremes of every short stretch.
    total : int
        About the most points of all series together (24 bytes each). Beyond it finished calls go,
        oldest first, and series are kept shorter than `points`. There are no more series than
        would have 100 points each: beyond it, too, finished calls go, and where none has finished,
        what calls report under new names is left out, which is said once.

    Attributes
    ----------
    limits : tuple of int
        These three.

    Examples
    --------
    >>> calls = client.run_on_scheduler(
    ...     lambda dask_scheduler: dask_scheduler.plugins["flame-reports"].store.calls)
    """

    def __init__(self, *, calls: int = 1_000, points: int = 4_000, total: int = 5_000_000) -> None:
        self.limits = (
            whole("calls", calls, 1),
            whole("points", points, _LEAST_POINTS),
            whole("total", total, _LEAST_POINTS),
        )
        # Subscribers are told under it, and may read.
        self._lock = threading.RLock()
        self._subscribers = Subscribers()
        self._calls: dict[Key, CallRecord] = {}
        self._version = 0
        self._total = 0
        self._curves = 0
        self._full = False

    @property
    def version(self) -> int:
        """A number that is another one after each change."""
        return self._version

    @property
    def calls(self) -> dict[Key, CallReports]:
        """What is known now, in the order of the calls' first reports: a copy."""
        with self._lock:
            return {key: call.snapshot() for key, call in self._calls.items()}

    def get(self, key: Key) -> CallReports | None:
        """What is known now of one call; None if it has reported nothing."""
        with self._lock:
            call = self._calls.get(key)
            return None if call is None else call.snapshot()

    def locked(self) -> AbstractContextManager[object]:
        """A block in which nothing changes: for what has to be done between two changes."""
        return self._lock

    def subscribe(self, callback: Callable[[Change], object]) -> dict[Key, CallReports]:
        """Be told of every change from now on.

        Parameters
        ----------
        callback : callable
            Takes a :class:`Change`. It is called in the thread that writes, as a rule the
            scheduler's or the cluster's event loop, in the order of the changes, and while the
            store is locked: it must be quick and wait for nothing, but may read the store. One that
            raises is told nothing more, and the error is logged.

        Returns
        -------
        dict
            What was known before, as in `calls`: nothing is missing between it and the first
            change, and nothing is in both.

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
        """Be told nothing more; when this has returned, the callback is not called any more."""
        with self._lock:
            self._subscribers.remove(callback)

    def __contains__(self, key: Key) -> bool:
        return key in self._calls

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return f"<ReportStore: {len(self)} calls, {self._total} points>"

    def add(self, batch: Batch, *, state: State = "running") -> None:
        """Note some reports.

        Those of another run of a known call begin a new attempt, those of a run that is over
        already are left out.

        Parameters
        ----------
        batch : Batch
            Consecutive reports of one run.
        state : str
            The state of the call, if these are the run's first reports.
        """
        with self._lock:
            call = self._calls.get(batch.key)
            if call is None:
                self._make_room()
                call = self._calls[batch.key] = CallRecord(
                    batch.key, batch.runner, actor=batch.actor
                )
            if call.run != batch.run:
                if batch.run in call.past:
                    return
                if call.run is not None:
                    self._restart(call)
                call.run, call.arguments = batch.run, batch.arguments
                call.state = state
                call.started = call.started or batch.times[0]
                call.finished = None if state == "running" else time()
            call.runner, call.pool = batch.runner, batch.pool
            self._extend(call, batch)
            self._changed(call, "reports", batch.times[0], batch)

    def begin(self, key: Key, at: float) -> None:
        """Note that a known call starts to run again."""
        with self._lock:
            call = self._calls[key]
            self._restart(call)
            call.started = at
            self._changed(call, "begin", at)

    def end(self, key: Key, state: State, at: float, why: str = "") -> None:
        """Note that a known call has ended, as `state` says, and what its exception was."""
        with self._lock:
            call = self._calls[key]
            call.state, call.finished, call.why = state, at, why
            self._changed(call, "end", at)

    def end_all(self, state: State, at: float) -> None:
        """Note that every running call has ended, as `state` says."""
        for key in [k for k, c in self._calls.items() if c.state == "running"]:
            self.end(key, state, at)

    def keep_actors(self, runners: Collection[str], at: float) -> None:
        """Note as lost the running methods of actors on other runners than these."""
        for key, call in list(self._calls.items()):
            if call.actor and call.state == "running" and call.runner not in runners:
                self.end(key, "lost", at)

    # A store like another one

    def dump(self) -> list[dict[str, Any]]:
        """All that is known, as what :meth:`load` of another store takes, here or elsewhere."""
        with self._lock:
            return [call.dump() for call in self._calls.values()]

    def load(self, calls: Iterable[Mapping[str, Any]]) -> None:
        """Know what another store knew, and nothing else; subscribers hear of each call."""
        with self._lock:
            loaded = [CallRecord.load(dumped) for dumped in calls]
            self._calls = {call.key: call for call in loaded}
            self._total = sum(call.points for call in loaded)
            self._curves = sum(call.series for call in loaded)
            self._version += 1
            for call in loaded:
                self._changed(call, "renewed", time())

    def take(self, change: Change) -> None:
        """Change as another store has changed."""
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
        most = total // _LEAST_POINTS
        new = sum(name not in call.curves for name in batch.values)
        if self._curves + new > most:
            self._shrink(call, curves=max(0, most - new))
        for name in batch.values:
            curve = call.curves.get(name)
            if curve is None:
                if self._curves >= most:
                    self._say_full(call, most)
                    continue
                curve = call.curves[name] = CurveRecord()
                self._curves += 1
            before = len(curve.steps)
            curve.extend(batch, name)
            # A fan of hundreds of series a call gets its share of `total`, not `points` each.
            limit = min(points, max(_LEAST_POINTS, total // self._curves))
            if len(curve.steps) > limit:
                curve.thin(limit // 2)
            self._total += len(curve.steps) - before
        if self._total > total:
            self._shrink(call, points=total)

    def _shrink(
        self, spared: CallRecord, *, points: float = math.inf, curves: float = math.inf
    ) -> None:
        """Forget what is the least missed, until there are no more of these."""

        def fits() -> bool:
            return self._total <= points and self._curves <= curves

        # What nobody looks at goes first.
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

    def _say_full(self, call: CallRecord, most: int) -> None:
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
            told = Change(what, call.key, call.attempt, call.state, at, batch, why)
            self._subscribers.tell(told)

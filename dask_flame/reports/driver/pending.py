"""Buffer reports for a reader that may be slow (driver)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dask.typing import Key

from dask_flame.reports.changes import Change
from dask_flame.reports.downsample import LEAST, thin_steps
from dask_flame.reports.series import CallReports, merged
from dask_flame.reports.wire import Batch

#: States in which a call ends for good: it runs again only if it is submitted again.
ENDED = frozenset({"done", "cancelled"})
#: Minimum reports of one call to read from the store at once; fewer would change the curve.
_MIN_SHARE = 100
#: Values that a typical report has at most.
_TYPICAL_VALUES = 20


@dataclass(frozen=True, slots=True)
class Report:
    """One report of a call; yielded by :func:`dask_flame.stream`.

    Attributes
    ----------
    task : Key
        Key of the call; also available as `key`.
    runner : str
        Name of the runner that the call runs on.
    step : int
        Step of the report.
    values : mapping of str to float
        Reported values by metric name.
    time : float
        Unix time in seconds, by the runner's clock.
    attempt : int
        1, plus one for each time the call has run again.
    thinned : int
        Approximate number of reports of this call that were dropped since the previous one.
    name : str
        Name of the call, as on the page and in pictures: its label, its key if you have chosen it,
        or the arguments in which the calls differ.
    """

    task: Key
    runner: str
    step: int
    values: Mapping[str, float]
    time: float
    attempt: int = 1
    thinned: int = 0
    name: str = ""

    @property
    def key(self) -> Key:
        return self.task


class PendingReports:
    """Reports of some calls that a reader has not read yet.

    New reports are queued up to a limit. Beyond it the queue keeps only the keys of the calls, and
    the reader gets their reports from the store, downsampled. A slow reader therefore never blocks
    the writers, and still sees every call.

    Parameters
    ----------
    limit : int
        Approximate maximum number of queued reports.

    Notes
    -----
    Hold the store's lock while calling :meth:`add`, :meth:`add_all` and :meth:`take`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._queue: deque[Change | Key] = deque()  # a key: read this call from the store
        self._from_store: set[Key] = set()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def share(self) -> int:
        """Maximum number of reports of one call to read from the store at once."""
        return max(_MIN_SHARE, self._limit // (1 + len(self._from_store)))

    def add(self, change: Change) -> None:
        """Queue a change of the store."""
        if change.key in self._from_store:
            return
        if change.batch is not None:
            self._queue.append(change)
            self._count += _weight(change.batch)
            if self._count > self._limit:
                self._forget()
        elif change.what == "renewed":
            self.add_all((change.key,))

    def add_all(self, keys: Iterable[Key]) -> None:
        """Queue all reports of these calls that are in the store and were not read."""
        new = dict.fromkeys(key for key in keys if key not in self._from_store)
        self._from_store.update(new)
        self._queue.extend(new)

    def take(self) -> Change | Key:
        """Remove the oldest item: a change, or the key of a call to read from the store."""
        item = self._queue.popleft()
        if isinstance(item, Change):
            self._count -= _weight(item.batch) if item.batch is not None else 0
        else:
            self._from_store.discard(item)
        return item

    def _forget(self) -> None:
        keys = [item.key if isinstance(item, Change) else item for item in self._queue]
        self._queue.clear()
        self._from_store.clear()
        self._count = 0
        self.add_all(keys)


def _weight(batch: Batch) -> int:
    """Return the number of reports that a batch counts for: more if it has very many values."""
    return max(len(batch.steps), batch.size // _TYPICAL_VALUES)


class Reader:
    """Turn queued changes and stored calls into reports, each report once.

    Attributes
    ----------
    names : mapping of Key to str
        Names of the calls.
    """

    def __init__(self) -> None:
        self.names: Mapping[Key, str] = {}
        self._positions: dict[Key, _Position] = {}

    def fresh(self, change: Change) -> list[Report]:
        """Return the reports of a change that has just arrived."""
        if change.batch is None:
            return []
        read = self._positions.setdefault(change.key, _Position())
        return read.batch(change.batch, change.attempt, self.names.get(change.key, ""))

    def stored(self, call: CallReports, limit: int) -> list[Report]:
        """Return at most `limit` unread reports of a call, as the store has it."""
        read = self._positions.setdefault(call.key, _Position())
        attempts: list[CallReports] = []
        for attempt in (*call.earlier, call):
            if attempts and attempts[-1].state in ENDED:
                # An ended attempt belongs to an earlier submission of the same key.
                attempts.clear()
            if attempt.attempt >= read.attempt:
                attempts.append(attempt)
        name = self.names.get(call.key, "")
        return [report for attempt in attempts for report in read.history(attempt, limit, name)]


@dataclass(slots=True)
class _Position:
    """Position of the reader in a call: attempt, time, and points read of each metric."""

    attempt: int = 0
    until: float = float("-inf")
    points: dict[str, int] = field(default_factory=dict)

    def _begin(self, attempt: int) -> None:
        if attempt != self.attempt:
            self.attempt, self.until, self.points = attempt, float("-inf"), {}

    def batch(self, batch: Batch, attempt: int, name: str = "") -> list[Report]:
        self._begin(attempt)
        if not batch.times:
            return []  # it only describes the call
        self.until = batch.times[-1]
        for metric, values in batch.values.items():
            self.points[metric] = self.points.get(metric, 0) + len(values)
        return [
            Report(batch.key, batch.runner, step, values, at, attempt, name=name)
            for step, at, values in zip(batch.steps, batch.times, batch.each(), strict=True)
        ]

    def history(self, call: CallReports, limit: int, name: str = "") -> Iterator[Report]:
        self._begin(call.attempt)
        rows = merged(call, self.until)
        missing = 0
        new = Counter(metric for values in rows.values() for metric in values)
        for metric, series in call.series.items():
            missing = max(missing, series.made - self.points.get(metric, 0) - new[metric])
            self.points[metric] = series.made
        order = list(rows)
        if not order:
            return
        self.until = order[-1][0]
        kept = _choose([step for _, step in order], list(rows.values()), limit)
        before = -1
        for i in kept:
            at, step = order[i]
            # The store does not record where it dropped points; count them before the last report.
            left_out = i - before - 1 + (missing if i == kept[-1] else 0)
            values, attempt = rows[at, step], call.attempt
            yield Report(call.key, call.runner, step, values, at, attempt, left_out, name)
            before = i


def _choose(steps: list[int], rows: list[dict[str, float]], limit: int) -> list[int]:
    """Return increasing positions of the rows to keep: the ends and each metric's extremes."""
    if len(rows) <= limit:
        return list(range(len(rows)))
    places: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        for name in row:
            places.setdefault(name, []).append(i)
    chosen = {0, len(rows) - 1}
    for name, where in places.items():
        own = [steps[i] for i in where], [rows[i][name] for i in where]
        chosen.update(where[i] for i in thin_steps(*own, max(LEAST, limit // len(places))))
    return sorted(chosen)

"""Reports on their way to a reader, who may be slow (driver)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dask.typing import Key

from dask_flame.reports.changes import Change
from dask_flame.reports.downsample import LEAST, thin
from dask_flame.reports.series import CallReports, merged
from dask_flame.reports.wire import Batch

#: States after which a call runs again only if somebody submits it again.
ENDED = frozenset({"done", "cancelled"})
#: Fewer reports than this would be another curve.
_LEAST_SHARE = 100
#: Values that a report has as a rule, or fewer.
_FEW = 20


@dataclass(frozen=True, slots=True)
class Report:
    """What a call has reported once; :func:`dask_flame.stream` gives these.

    Attributes
    ----------
    task : Key
        The call's key; `key` is the same.
    runner : str
        Name of the runner that it ran on.
    step : int
    values : mapping of str to float
    time : float
        Unix time, in seconds, by the runner's clock.
    attempt : int
        1, and one more each time the call has run again.
    thinned : int
        About how many reports of this call are left out between this one and the one before it.
    """

    task: Key
    runner: str
    step: int
    values: Mapping[str, float]
    time: float
    attempt: int = 1
    thinned: int = 0

    @property
    def key(self) -> Key:
        return self.task


class PendingReports:
    """What some calls of a store have reported and a reader has not read yet.

    What comes is noted as it is, up to a limit. Beyond it, what was noted is forgotten, and the
    reader gets it from the store, which is thinned by then, and is thinned further. So a slow
    reader costs those who write nothing, and is told of every call.

    Parameters
    ----------
    limit : int
        About the most reports that are noted.

    Notes
    -----
    What it notes is noted while the store is locked, and taken while it is locked.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._queue: deque[Change | Key] = deque()  # a key: what the store has of it
        self._from_store: set[Key] = set()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def share(self) -> int:
        """Reports of one call that may be read from the store at once."""
        return max(_LEAST_SHARE, self._limit // (1 + len(self._from_store)))

    def add(self, change: Change) -> None:
        """Note what has changed in the store."""
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
        """Note that all that the store has of these calls, and was not read, is to be read."""
        new = dict.fromkeys(key for key in keys if key not in self._from_store)
        self._from_store.update(new)
        self._queue.extend(new)

    def take(self) -> Change | Key:
        """What was noted first: reports, or the key of a call to be looked for in the store."""
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
    """How many reports it counts for: one with very many values counts for several."""
    return max(len(batch.steps), batch.size // _FEW)


class Reader:
    """Makes reports of what was pending, each once."""

    def __init__(self) -> None:
        self._read: dict[Key, _Read] = {}

    def fresh(self, change: Change) -> list[Report]:
        """Of reports that have just come."""
        if change.batch is None:
            return []
        return self._read.setdefault(change.key, _Read()).batch(change.batch, change.attempt)

    def stored(self, call: CallReports, limit: int) -> list[Report]:
        """Of a call as the store knows it: what was not read of it, and so many at most."""
        read = self._read.setdefault(call.key, _Read())
        attempts: list[CallReports] = []
        for attempt in (*call.earlier, call):
            if attempts and attempts[-1].state in ENDED:
                # It was another run of the same key.
                attempts.clear()
            if attempt.attempt >= read.attempt:
                attempts.append(attempt)
        return [report for attempt in attempts for report in read.history(attempt, limit)]


@dataclass(slots=True)
class _Read:
    """How far a call was read: its attempt, the time, and how many points of each value."""

    attempt: int = 0
    until: float = float("-inf")
    points: dict[str, int] = field(default_factory=dict)

    def _begin(self, attempt: int) -> None:
        if attempt != self.attempt:
            self.attempt, self.until, self.points = attempt, float("-inf"), {}

    def batch(self, batch: Batch, attempt: int) -> list[Report]:
        self._begin(attempt)
        self.until = batch.times[-1]
        for name, values in batch.values.items():
            self.points[name] = self.points.get(name, 0) + len(values)
        return [
            Report(batch.key, batch.runner, step, values, at, attempt)
            for step, at, values in zip(batch.steps, batch.times, batch.each(), strict=True)
        ]

    def history(self, call: CallReports, limit: int) -> Iterator[Report]:
        self._begin(call.attempt)
        rows = merged(call, self.until)
        missing = 0
        new = Counter(name for values in rows.values() for name in values)
        for name, series in call.series.items():
            missing = max(missing, series.made - self.points.get(name, 0) - new[name])
            self.points[name] = series.made
        order = list(rows)
        if not order:
            return
        self.until = order[-1][0]
        kept = _choose(list(rows.values()), limit)
        before = -1
        for i in kept:
            at, step = order[i]
            # Where the store has left them out is not known: somewhere before the last.
            left_out = i - before - 1 + (missing if i == kept[-1] else 0)
            yield Report(call.key, call.runner, step, rows[at, step], at, call.attempt, left_out)
            before = i


def _choose(rows: list[dict[str, float]], limit: int) -> list[int]:
    """Which rows to keep, as rising positions: the ends, and the extremes of each value."""
    if len(rows) <= limit:
        return list(range(len(rows)))
    places: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        for name in row:
            places.setdefault(name, []).append(i)
    chosen = {0, len(rows) - 1}
    for name, where in places.items():
        kept = thin([rows[i][name] for i in where], max(LEAST, limit // len(places)))
        chosen.update(where[i] for i in kept)
    return sorted(chosen)

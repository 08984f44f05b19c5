"""The decisions and events of a cluster, each with its reason (driver)."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import overload

from dask_flame.errors import PRINTED
from dask_flame.history.journal import Entry
from dask_flame.history.journal import Event as Event

logger = logging.getLogger("dask_flame")

#: Kinds that are logged as warnings, so that users see them by default.
_BAD = frozenset({"failed", "held", "lost", "overran", "packages", "paused", "stopped", "waiting"})


class EventLog(Sequence[Event]):
    """The last 5,000 events of a cluster, oldest first.

    Appending from the cluster's event loop while another thread reads is safe: a read works on
    a copy.

    Attributes
    ----------
    counts : Counter of str
        Number of events of each kind, including forgotten ones.
    """

    def __init__(self, maxlen: int = 5_000) -> None:
        self._events: deque[Event] = deque(maxlen=maxlen)
        self.counts: Counter[str] = Counter()

    def apply(self, entry: Entry) -> None:
        """Add and log the event of a journal entry, if it has one."""
        event = entry if isinstance(entry, Event) else entry.event
        if event is None:
            return
        self._events.append(event)
        self.counts[event.kind] += 1
        level = logging.WARNING if event.kind in _BAD else logging.INFO
        # The lines below the first are a runner's output, which was already shown.
        logger.log(level, "%s: %s", event.kind, event.text.partition(PRINTED)[0])

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        return self._events.copy()[index] if isinstance(index, int) else list(self._events)[index]

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events.copy())

    def __len__(self) -> int:
        return len(self._events)

    def __repr__(self) -> str:
        return "\n".join(map(str, self)) or "no events yet"

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

#: Beginnings of lines that runners write only to their logs, as each of them would show the same.
_NOT_SHOWN = ("preload=", "setup=", "packages=")
#: Kinds that are logged as warnings, so that users see them by default.
_BAD = frozenset(
    ("budget", "failed", "held", "lost", "overran", "packages", "paused", "stopped", "waiting")
)


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
        self._last = ""  # line of a failed boot that was logged

    def apply(self, entry: Entry) -> None:
        """Add and log the event of a journal entry, if it has one."""
        event = entry if isinstance(entry, Event) else entry.event
        if event is None:
            return
        # Who reads an event from another thread finds its line in the log.
        level = logging.WARNING if event.kind in _BAD else logging.INFO
        logger.log(level, "%s: %s", event.kind, self._in_one_line(event))
        self.counts[event.kind] += 1
        self._events.append(event)

    def _in_one_line(self, event: Event) -> str:
        text, _, printed = event.text.partition(PRINTED)
        # A runner's output is shown elsewhere, except for these reasons of a failed boot.
        last = printed.strip().rpartition("\n")[2].strip()
        if not last.startswith(_NOT_SHOWN) or last == self._last:
            return text
        self._last = last
        return f"{text}: {last}"

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

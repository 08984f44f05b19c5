"""What was decided and what happened, each with its reason (driver)."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import overload

from dask_flame.core.terminal_text import tame
from dask_flame.errors import PRINTED

logger = logging.getLogger("dask_flame")

#: Kinds that users should see though they have asked for nothing.
_BAD = frozenset({"failed", "held", "lost", "overran", "paused", "stopped", "waiting"})


@dataclass(frozen=True, slots=True)
class Event:
    """One decision or happening in a cluster's life.

    Attributes
    ----------
    at : float
        Unix time, in seconds.
    kind : str
        ``boot``, ``held``, ``ready``, ``retire``, ``ended``, ``failed``, ``lost``, ``leaving``,
        ``kept``, ``paused``, ``overran``, ``waiting``, ``lease``, ``stopped`` or ``policy``.
    reason : str
        Why, in a sentence, with its numbers.
    runners : tuple of str
        Names of the runners it is about.
    pool : str or None
        The pool it is about, None where it is about the whole cluster.
    numbers : mapping of str to float
        What it was decided from: for ``boot`` and ``retire`` the ``demand`` in slots, the
        ``target`` and the runners ``there``, and the bounds ``min`` and ``max``; for ``ready`` the
        ``seconds`` that the boot took, and for each step of it (``accepted``, ``up``, …,
        ``registered``) after how many it had come there; see :mod:`dask_flame.history.boots`.
    """

    at: float
    kind: str
    reason: str
    runners: tuple[str, ...] = ()
    pool: str | None = None
    numbers: Mapping[str, float] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        clock = datetime.fromtimestamp(self.at).strftime("%H:%M:%S.%f")[:-3]
        return f"{clock} {self.kind:<7} {self.text}"

    @property
    def text(self) -> str:
        """The reason, led by the runners it is about; safe for a terminal."""
        names = self.runners
        who = f"{names[0]} … {names[-1]} ({len(names)})" if len(names) > 3 else ", ".join(names)
        return tame(f"{who}: {self.reason}" if who else self.reason)


class EventLog(Sequence[Event]):
    """The last 5,000 events of a cluster, oldest first.

    Appending from the cluster's event loop while another thread reads is safe: a read works on
    a copy.

    Attributes
    ----------
    counts : Counter of str
        How many of each kind there have been, those that are forgotten included.
    """

    def __init__(self, maxlen: int = 5_000) -> None:
        self._events: deque[Event] = deque(maxlen=maxlen)
        self.counts: Counter[str] = Counter()

    def add(
        self,
        kind: str,
        reason: str,
        /,
        *,
        runners: Collection[str] = (),
        pool: str | None = None,
        **numbers: float,
    ) -> Event:
        """Note an event now; it is logged as well."""
        event = Event(time.time(), kind, reason, tuple(runners), pool, numbers)
        self.take(event)
        return event

    def take(self, event: Event) -> None:
        """Note an event that was made elsewhere; it is logged as well."""
        self._events.append(event)
        self.counts[event.kind] += 1
        level = logging.WARNING if event.kind in _BAD else logging.INFO
        # What a runner printed, on the lines below the first, has been shown already.
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

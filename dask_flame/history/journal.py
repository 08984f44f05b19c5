"""The journal of a cluster: each decision and each observation, appended once, with no I/O.

The records that are kept of a cluster are folds over it: its events, the boots, the timeline of its
runners, and what its pools have used. Each takes one entry after the other in its ``apply``, and
knows nothing else, so that a journal which is applied elsewhere gives the same records there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from dask_flame.core.terminal_text import tame

_KEPT = 5_000


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnersAsked:
    """Runners were asked for.

    Attributes
    ----------
    clock : float
        The same moment as that of the event, on the clock by which boots are measured.
    """

    pool: str
    runners: tuple[str, ...]
    clock: float
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class BootStepped:
    """A boot has come to a step.

    Attributes
    ----------
    seconds, took : float
        Since the runner was asked for, and since the step before.
    """

    pool: str
    runner: str
    step: str
    seconds: float
    took: float
    event: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootHeldUp:
    """A boot is held up, or no longer (an empty reason); an event if that is news."""

    runner: str
    why: str
    event: Event | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFailed:
    """A boot was given up as it took too long; its runner is still to be ended.

    Attributes
    ----------
    seconds : float
        Since the runner was asked for.
    """

    runner: str
    why: str
    seconds: float
    event: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerRegistered:
    """A runner has come up.

    Attributes
    ----------
    seconds : float
        Since it was asked for.
    """

    pool: str
    runner: str
    seconds: float
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerSeen:
    """A runner has come into a state, see :class:`dask_flame.history.timeline.StateChange`."""

    at: float
    runner: str
    state: str
    note: str = ""
    event: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnersRetired:
    """Runners were told to end."""

    runners: tuple[str, ...]
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerEnded:
    """A runner is gone.

    Attributes
    ----------
    how : str
        ``failed`` (it never came up), ``lost`` (it went by itself) or ``ended``.
    late : bool
        Whether its boot had been given up before.
    seconds : float
        Since it was asked for.
    event : Event or None
        None if its like was said of another runner.
    """

    at: float
    pool: str
    runner: str
    how: str
    why: str
    seconds: float
    late: bool = False
    event: Event | None = None


Entry = (
    Event
    | RunnersAsked
    | BootStepped
    | BootHeldUp
    | BootFailed
    | RunnerRegistered
    | RunnerSeen
    | RunnersRetired
    | RunnerEnded
)


def event_now(
    kind: str,
    reason: str,
    /,
    *,
    runners: Collection[str] = (),
    pool: str | None = None,
    **numbers: float,
) -> Event:
    """Return an event of this moment; it is in no journal yet."""
    return Event(time.time(), kind, reason, tuple(runners), pool, numbers)


class Journal:
    """The last entries of a cluster's journal, oldest first, and who is told of each.

    Appending from the cluster's event loop while another thread reads is safe: a read works on
    a copy.

    Parameters
    ----------
    kept : int
        Entries that are kept.
    """

    def __init__(self, kept: int = _KEPT) -> None:
        self._entries: deque[Entry] = deque(maxlen=kept)
        self._subscribers: list[Callable[[Entry], object]] = []

    def subscribe(self, subscriber: Callable[[Entry], object]) -> None:
        """Have this called with each entry from now on, in the order of subscription."""
        self._subscribers.append(subscriber)

    def append(self, entry: Entry) -> None:
        """Append an entry; who has subscribed is told of it before this returns."""
        self._entries.append(entry)
        for subscriber in self._subscribers:
            subscriber(entry)

    def note(
        self,
        kind: str,
        reason: str,
        /,
        *,
        runners: Collection[str] = (),
        pool: str | None = None,
        **numbers: float,
    ) -> Event:
        """Append an event of this moment, and return it."""
        event = event_now(kind, reason, runners=runners, pool=pool, **numbers)
        self.append(event)
        return event

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.copy())

    def __len__(self) -> int:
        return len(self._entries)

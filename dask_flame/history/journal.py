"""The journal of a cluster: each decision and each observation, appended once, with no I/O.

The records of a cluster are folds over its journal: events, boots, the timeline of its runners, and
the usage of its pools. Each record takes one entry at a time in its ``apply``, and has no other
input. A journal that is applied in another process therefore gives the same records there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from dask_flame.core.terminal_text import tame

_KEPT = 5_000

#: The kinds of events, and when there is one of this kind.
KINDS: Mapping[str, str] = {
    "boot": "Runners are requested: the demand, the number of runners there, and the bounds.",
    "held": "Something delays a boot or a scheduler's start; the reason is the substrate's.",
    "ready": "A runner has registered, or begins calls again after a pause.",
    "retire": "Runners are asked to end: they were idle, above `max`, or the demand has gone.",
    "ended": "A runner has ended as it was asked to, or another kind of machine is asked for.",
    "failed": "A boot has failed, calls that waited for it fail, or a runner cannot be ended.",
    "lost": "A runner, a result or the scheduler has ended unexpectedly.",
    "leaving": "A runner got a signal to end (preemption), and takes no further calls.",
    "kept": "A runner that was to end stays, because its results do not fit elsewhere.",
    "packages": "The packages of a runner differ from the driver's.",
    "paused": "Dask has paused a runner because of its memory; it gets no calls.",
    "overran": "A call took longer than its timeout.",
    "waiting": "Calls wait although the pool could grow, with the reason.",
    "lease": "The last client has disconnected or has come back, or the grace is over.",
    "stopped": "The cluster was stopped from outside, with ``dask flame stop``.",
    "budget": "Most of the budget is spent, or all of it, or it has been changed.",
    "policy": "A policy was changed: ``resize``, ``adapt`` or ``scale``.",
}


@dataclass(frozen=True, slots=True)
class Event:
    """A decision or an observation in a cluster.

    Attributes
    ----------
    at : float
        Unix time, in seconds.
    kind : str
        One of :data:`KINDS`, such as ``boot``, ``ready`` or ``failed``.
    reason : str
        The reason, as a sentence with its numbers.
    runners : tuple of str
        Names of the runners concerned.
    pool : str or None
        The pool concerned; None for the whole cluster.
    numbers : mapping of str to float
        The numbers behind the decision. For ``boot`` and ``retire``: the ``demand`` in slots, the
        ``target``, the number of runners ``there``, and the bounds ``min`` and ``max``. For
        ``ready``: the ``seconds`` of the boot, and for each step (``accepted``, ``up``, …,
        ``registered``) the seconds until it was reached; see :mod:`dask_flame.history.boots`. For
        ``budget``: the amounts ``spent`` and ``budget``.
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
        """The reason, with the names of the runners in front; safe for a terminal."""
        names = self.runners
        who = f"{names[0]} … {names[-1]} ({len(names)})" if len(names) > 3 else ", ".join(names)
        return tame(f"{who}: {self.reason}" if who else self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnersAsked:
    """Runners were requested.

    Attributes
    ----------
    clock : float
        The time of the event on the clock that measures boots, in seconds.
    kinds : mapping of str to str
        The kinds of the runners, by name; see :class:`dask_flame.core.kinds.Kind`.
    """

    pool: str
    runners: tuple[str, ...]
    clock: float
    event: Event
    kinds: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BootStepped:
    """A boot has reached a step.

    Attributes
    ----------
    seconds, took : float
        Seconds since the request for the runner, and since the previous step.
    """

    pool: str
    runner: str
    step: str
    seconds: float
    took: float
    event: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootHeldUp:
    """A boot is delayed, or no longer (an empty reason); with an event if that is news."""

    runner: str
    why: str
    event: Event | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFailed:
    """A boot was given up because it took too long; its runner has yet to be ended.

    Attributes
    ----------
    seconds : float
        Seconds since the request for the runner.
    """

    runner: str
    why: str
    seconds: float
    event: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerRegistered:
    """A runner has registered.

    Attributes
    ----------
    seconds : float
        Seconds since the request for it.
    """

    pool: str
    runner: str
    seconds: float
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerSeen:
    """A runner has changed its state, see :class:`dask_flame.history.timeline.StateChange`."""

    at: float
    runner: str
    state: str
    note: str = ""
    event: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnersRetired:
    """Runners were asked to end."""

    runners: tuple[str, ...]
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerEnded:
    """A runner has ended.

    Attributes
    ----------
    how : str
        ``failed`` (it never registered), ``lost`` (it ended unexpectedly) or ``ended``.
    late : bool
        Whether its boot had been given up before.
    seconds : float
        Seconds since the request for it.
    event : Event or None
        None if the event of another runner covers this one.
    queued : float
        Those of them that it waited in the queue of its substrate, which cost nothing.
    kind : str
        Its kind.
    """

    at: float
    pool: str
    runner: str
    how: str
    why: str
    seconds: float
    queued: float = 0.0
    kind: str = ""
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
    """Return an event with the current time, without adding it to a journal.

    Parameters
    ----------
    kind : str
    reason : str
    runners : collection of str, default ()
    pool : str, optional
    **numbers : float
        See :class:`Event`.
    """
    return Event(time.time(), kind, reason, tuple(runners), pool, numbers)


class Journal:
    """The last entries of a cluster's journal, oldest first, and its subscribers.

    Appending from the cluster's event loop while another thread reads is safe: a read works on
    a copy.

    Parameters
    ----------
    kept : int, default 5000
        Number of entries to keep.
    """

    def __init__(self, kept: int = _KEPT) -> None:
        self._entries: deque[Entry] = deque(maxlen=kept)
        self._subscribers: list[Callable[[Entry], object]] = []

    def subscribe(self, subscriber: Callable[[Entry], object]) -> None:
        """Call this with each entry from now on, in the order of subscription."""
        self._subscribers.append(subscriber)

    def append(self, entry: Entry) -> None:
        """Append an entry, and pass it to all subscribers before returning."""
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
        """Append an event with the current time, and return it.

        Parameters
        ----------
        kind : str
        reason : str
        runners : collection of str, default ()
        pool : str, optional
        **numbers : float
            See :class:`Event`.
        """
        event = event_now(kind, reason, runners=runners, pool=pool, **numbers)
        self.append(event)
        return event

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.copy())

    def __len__(self) -> int:
        return len(self._entries)

"""The states of each runner over time, from boot to end, with no I/O and no clock (driver).

The life of a runner is a row of the timeline on the page ``/pools``: its states, each with a time
and a note, then how it ended and why.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType

from dask_flame.history.boots import FIRST_CALL
from dask_flame.history.journal import (
    BootStepped,
    Entry,
    RunnerEnded,
    RunnersAsked,
    RunnerSeen,
    RunnersRetired,
)
from dask_flame.scaling.runner_index import Phase, RunnerIndex, RunnerState

IDLE, BUSY = "idle", "busy"
BOOTING, DRAINING, ENDING = Phase.BOOTING.value, Phase.DRAINING.value, Phase.ENDING.value

_KEPT = 1_000
_MOST_CHANGES = 20_000
_LONGEST_NOTE = 300
#: Seconds: states shorter than this are merged first; the limit doubles while that is not enough.
_FINEST = 0.05


@dataclass(frozen=True, slots=True)
class StateChange:
    """A runner entered a state.

    Attributes
    ----------
    at : float
        Unix time, in seconds.
    state : str
        ``booting``, ``idle``, ``busy``, ``draining`` or ``ending``.
    note : str
        For ``busy``, the key of a call that it started with; otherwise the reason for this state.
    """

    at: float
    state: str
    note: str = ""


@dataclass(slots=True, eq=False)
class RunnerLife:
    """The life of one runner.

    Attributes
    ----------
    name, pool : str
    number : int
        Position in the order of requests.
    kind : str
        Its kind among those of its pool; empty if there is only one.
    steps : tuple of (str, float)
        The steps that its boot reached, up to the registration, each with the seconds since the
        request; see :class:`dask_flame.history.boots.Boot`.
    changes : list of StateChange
        Changes in the order of time; two successive ones differ in their state.
    over : float or None
        When it ended: Unix time, in seconds.
    how : str
        ``failed`` (it never registered), ``lost`` (it ended unexpectedly) or ``ended``; empty while
        it is running.
    why : str
        Why it ended.
    rewritten : int
        How often earlier changes were replaced. While this is constant, changes were only appended.
    """

    name: str
    pool: str
    number: int
    changes: list[StateChange]
    kind: str = ""
    steps: tuple[tuple[str, float], ...] = ()
    over: float | None = None
    how: str = ""
    why: str = ""
    rewritten: int = field(default=0, repr=False)

    @property
    def state(self) -> str:
        """The current state, or the last one."""
        return self.changes[-1].state


class RunnerTimeline:
    """The lives of a cluster's most recent runners; bounded.

    When there are too many lives, those that ended first are forgotten. When runners switch between
    busy and idle too often to keep all changes, the shortest states are merged.

    Parameters
    ----------
    kept : int, default 1000
        Number of lives to keep.
    changes : int, default 20000
        Approximate number of changes to keep, in all lives together.
    """

    def __init__(self, kept: int = _KEPT, changes: int = _MOST_CHANGES) -> None:
        self._kept = kept
        self._most = self._limit = changes
        self._alive: OrderedDict[str, RunnerLife] = OrderedDict()
        self._over: OrderedDict[str, RunnerLife] = OrderedDict()
        self._number = 0
        self._changes = 0

    # Add; times are Unix times, and a clock that has run backwards is corrected

    def apply(self, entry: Entry) -> None:
        """Update the life that a journal entry is about."""
        match entry:
            case RunnersAsked():
                at, why = entry.event.at, entry.event.reason
                self.asked(entry.runners, entry.pool, at, why, kinds=entry.kinds)
            case BootStepped():
                if (life := self._alive.get(entry.runner)) is not None:
                    self.stepped(entry.runner, (*life.steps, (entry.step, entry.seconds)))
            case RunnerSeen():
                self.seen(entry.runner, entry.state, entry.at, entry.note)
            case RunnersRetired():
                for name in entry.runners:
                    self.seen(name, ENDING, entry.event.at, entry.event.reason)
            case RunnerEnded():
                how = "failed" if entry.late else entry.how
                self.ended(entry.runner, entry.at, how, entry.why)

    def asked(
        self,
        names: Collection[str],
        pool: str,
        at: float,
        why: str,
        *,
        kinds: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Add requested runners.

        Parameters
        ----------
        names : collection of str
        pool : str
        at : float
            Unix time, in seconds.
        why : str
            The reason for the request.
        kinds : mapping of str to str, optional
            The kinds of the runners, by name.
        """
        first = self._number
        self._number += len(names)
        for number, name in list(enumerate(names, first + 1))[-self._kept :]:
            self._alive[name] = RunnerLife(
                name, pool, number, [StateChange(at, BOOTING, _short(why))], kinds.get(name, "")
            )
            self._changes += 1
        self._forget()

    def stepped(self, name: str, steps: Sequence[tuple[str, float]]) -> None:
        """Set the steps of a runner's boot."""
        life = self._alive.get(name)
        if life is not None:
            steps = tuple(step for step in steps if step[0] != FIRST_CALL)
            # Steps may be reported late or out of order.
            told_late = life.state != BOOTING or steps[: len(life.steps)] != life.steps
            if told_late and steps != life.steps:
                life.rewritten += 1
            life.steps = steps

    def news(
        self, index: RunnerIndex, at: float, calls_on: Callable[[str], Sequence[str]]
    ) -> Iterator[RunnerSeen]:
        """Yield an entry for each runner whose state differs from its last recorded one.

        Parameters
        ----------
        index : RunnerIndex
            Its ``news`` is cleared.
        at : float
            Unix time, in seconds.
        calls_on : callable
            Return the keys of the calls on a runner.
        """
        news, index.news = index.news, set()
        for name in news:
            if (life := self._alive.get(name)) is None:
                continue
            member = index.members[name]
            state, note = state_of(member), member.why
            if state == life.state:
                continue
            if state == BUSY:
                note = next(iter(calls_on(name)), "")
            yield RunnerSeen(at=at, runner=name, state=state, note=note)

    def seen(self, name: str, state: str, at: float, note: str = "") -> None:
        """Record the state of a runner.

        Parameters
        ----------
        name : str
        state : str
        at : float
            Unix time, in seconds.
        note : str, default ""
            See :class:`StateChange`.
        """
        life = self._alive.get(name)
        if life is None or life.state == state:
            return
        last = life.changes[-1]
        if at <= last.at and len(life.changes) > 1:
            # The last state had no duration.
            life.changes.pop()
            self._changes -= 1
            life.rewritten += 1
            if life.state == state:
                return
        at = max(at, life.changes[-1].at)
        life.changes.append(StateChange(at, state, _short(note)))
        self._changes += 1
        if self._changes > self._limit:
            self._thin()

    def ended(self, name: str, at: float, how: str, why: str) -> None:
        """Record the end of a runner.

        Parameters
        ----------
        name : str
        at : float
            Unix time, in seconds.
        how : str
            ``failed``, ``lost`` or ``ended``.
        why : str
        """
        life = self._alive.pop(name, None)
        if life is not None:
            if (namesake := self._over.pop(name, None)) is not None:
                self._changes -= len(namesake.changes)
            life.over, life.how, life.why = max(at, life.changes[-1].at), how, _short(why)
            self._over[name] = life
            self._forget()

    # Read

    def __iter__(self) -> Iterator[RunnerLife]:
        """Iterate over lives in the order in which their runners were requested."""
        lives = (*self._over.values(), *self._alive.values())
        return iter(sorted(lives, key=lambda life: life.number))

    def __len__(self) -> int:
        return len(self._alive) + len(self._over)

    def _forget(self) -> None:
        while len(self) > self._kept:
            _, life = (self._over or self._alive).popitem(last=False)
            self._changes -= len(life.changes)

    def _thin(self) -> None:
        grain = _FINEST
        while self._changes > self._most // 2 and grain < 86_400:
            for life in (*self._over.values(), *self._alive.values()):
                thinned = thin(life.changes, grain)
                if len(thinned) < len(life.changes):
                    self._changes -= len(life.changes) - len(thinned)
                    life.changes = thinned
                    life.rewritten += 1
            grain *= 2
        # If this is the minimum, do not try again at each change.
        self._limit = max(self._most, 2 * self._changes)


def thin(changes: list[StateChange], grain: float) -> list[StateChange]:
    """Merge successive busy and idle states shorter than ``grain`` seconds into longer ones.

    A merged state is the one that the runner was in for most of the time. The first and the last
    change are kept, and so are states other than busy and idle.
    """
    thinned: list[StateChange] = []
    turns: list[tuple[StateChange, float]] = []  # states to merge, with their seconds
    for change, after in pairwise(changes):
        lasts = after.at - change.at
        if change.state in (IDLE, BUSY) and lasts < grain:
            turns.append((change, lasts))
            if sum(seconds for _, seconds in turns) < grain:
                continue
        _append(thinned, *_together(turns))
        turns.clear()
        if change.state not in (IDLE, BUSY) or lasts >= grain:
            _append(thinned, change)
    _append(thinned, *_together(turns), changes[-1])
    return thinned


def _together(turns: Sequence[tuple[StateChange, float]]) -> Iterator[StateChange]:
    if turns:
        busy = sum(seconds for change, seconds in turns if change.state == BUSY)
        state = BUSY if 2 * busy >= sum(seconds for _, seconds in turns) else IDLE
        notes = (change.note for change, _ in turns if change.state == state)
        yield StateChange(turns[0][0].at, state, next(notes, ""))


def state_of(member: RunnerState) -> str:
    """Return the state of a runner, as named in its life."""
    if member.phase is Phase.READY:
        return BUSY if member.busy else IDLE
        # Like a draining runner, a paused one gets no calls; its note tells the two apart.
    return DRAINING if member.phase is Phase.PAUSED else str(member.phase.value)


def _append(changes: list[StateChange], *more: StateChange) -> None:
    for change in more:
        if not changes or changes[-1].state != change.state:
            changes.append(change)


def _short(note: str) -> str:
    note = note.partition("\n")[0]
    return note if len(note) <= _LONGEST_NOTE else f"{note[: _LONGEST_NOTE - 1]}…"

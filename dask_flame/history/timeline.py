"""What each runner did and when, from its boot to its end, with no I/O and no clock (driver).

A runner's life is a row of the timeline on the page ``/pools``: the states that it came into, each
with its time and what is to be said of it, then how it ended and why.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

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
#: Seconds: states that are shorter than this are put together first, then those of twice it.
_FINEST = 0.05


@dataclass(frozen=True, slots=True)
class StateChange:
    """A runner came into a state.

    Attributes
    ----------
    at : float
        Unix time, in seconds.
    state : str
        ``booting``, ``idle``, ``busy``, ``draining`` or ``ending``.
    note : str
        What is to be said of it: why the runner was asked for or is to go; of ``busy``, a call that
        it began with.
    """

    at: float
    state: str
    note: str = ""


@dataclass(slots=True, eq=False)
class RunnerLife:
    """One runner's life.

    Attributes
    ----------
    name, pool : str
    number : int
        In the order in which runners were asked for.
    steps : tuple of (str, float)
        What its boot has come to until it registered, and after how many seconds; see
        :class:`dask_flame.history.boots.Boot`.
    changes : list of StateChange
        In the order in which they happened; no two that follow each other are of the same state.
    over : float or None
        When it was gone: Unix time, in seconds.
    how : str
        ``failed`` (never came up), ``lost`` (went by itself) or ``ended``; empty while it is there.
    why : str
        Why it is gone.
    rewritten : int
        How often earlier changes were replaced: as long as it stays the same, changes were only
        appended.
    """

    name: str
    pool: str
    number: int
    changes: list[StateChange]
    steps: tuple[tuple[str, float], ...] = ()
    over: float | None = None
    how: str = ""
    why: str = ""
    rewritten: int = field(default=0, repr=False)

    @property
    def state(self) -> str:
        """What it does, or did last."""
        return self.changes[-1].state


class RunnerTimeline:
    """The last lives of a cluster's runners; bounded.

    There are about a thousand, and those that are over go first. Where runners are busy and idle by
    turns so often that their changes are too many, the shortest turns are put together.

    Parameters
    ----------
    kept : int
        Lives that are kept.
    changes : int
        Changes that all of them together may have, about.
    """

    def __init__(self, kept: int = _KEPT, changes: int = _MOST_CHANGES) -> None:
        self._kept = kept
        self._most = self._limit = changes
        self._alive: OrderedDict[str, RunnerLife] = OrderedDict()
        self._over: OrderedDict[str, RunnerLife] = OrderedDict()
        self._number = 0
        self._changes = 0

    # What happens; times are Unix times, and one that has run backwards is put right

    def apply(self, entry: Entry) -> None:
        """Note what an entry of the journal says of a runner's life."""
        match entry:
            case RunnersAsked():
                self.asked(entry.runners, entry.pool, entry.event.at, entry.event.reason)
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

    def asked(self, names: Collection[str], pool: str, at: float, why: str) -> None:
        """These runners are asked for."""
        first = self._number
        self._number += len(names)
        for number, name in list(enumerate(names, first + 1))[-self._kept :]:
            self._alive[name] = RunnerLife(
                name, pool, number, [StateChange(at, BOOTING, _short(why))]
            )
            self._changes += 1
        self._forget()

    def stepped(self, name: str, steps: Sequence[tuple[str, float]]) -> None:
        """A runner's boot has come to these steps."""
        life = self._alive.get(name)
        if life is not None:
            steps = tuple(step for step in steps if step[0] != FIRST_CALL)
            # Steps may be told late, or out of order.
            told_late = life.state != BOOTING or steps[: len(life.steps)] != life.steps
            if told_late and steps != life.steps:
                life.rewritten += 1
            life.steps = steps

    def news(
        self, roster: RunnerIndex, at: float, calls_on: Callable[[str], Sequence[str]]
    ) -> Iterator[RunnerSeen]:
        """Give an entry for each runner that is in another state than it was seen in last.

        Parameters
        ----------
        roster : RunnerIndex
            Its ``news`` is cleared.
        at : float
        calls_on : callable
            Gives keys of the calls on a runner.
        """
        news, roster.news = roster.news, set()
        for name in news:
            if (life := self._alive.get(name)) is None:
                continue
            member = roster.members[name]
            state, note = state_of(member), member.why
            if state == life.state:
                continue
            if state == BUSY:
                note = next(iter(calls_on(name)), "")
            yield RunnerSeen(at=at, runner=name, state=state, note=note)

    def seen(self, name: str, state: str, at: float, note: str = "") -> None:
        """A runner is in this state."""
        life = self._alive.get(name)
        if life is None or life.state == state:
            return
        last = life.changes[-1]
        if at <= last.at and len(life.changes) > 1:
            # It was not in the last state for any time.
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
        """A runner is gone."""
        life = self._alive.pop(name, None)
        if life is not None:
            if (namesake := self._over.pop(name, None)) is not None:
                self._changes -= len(namesake.changes)
            life.over, life.how, life.why = max(at, life.changes[-1].at), how, _short(why)
            self._over[name] = life
            self._forget()

    # What there is

    def __iter__(self) -> Iterator[RunnerLife]:
        """In the order in which they were asked for."""
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
        # What cannot be fewer is not tried again at each change.
        self._limit = max(self._most, 2 * self._changes)


def thin(changes: list[StateChange], grain: float) -> list[StateChange]:
    """Put together turns of busy and idle that are shorter than a grain, about as long as it.

    What is put together is in the state in which the runner was for most of it. The first and the
    last change stay, as does what is neither busy nor idle.
    """
    thinned: list[StateChange] = []
    turns: list[tuple[StateChange, float]] = []  # that are being put together, with their seconds
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
    """What a runner does, in the words of its life."""
    if member.phase is Phase.READY:
        return BUSY if member.busy else IDLE
    # Paused, as draining, it has no more calls for now; its note says which.
    return DRAINING if member.phase is Phase.PAUSED else str(member.phase.value)


def _append(changes: list[StateChange], *more: StateChange) -> None:
    for change in more:
        if not changes or changes[-1].state != change.state:
            changes.append(change)


def _short(note: str) -> str:
    note = note.partition("\n")[0]
    return note if len(note) <= _LONGEST_NOTE else f"{note[: _LONGEST_NOTE - 1]}…"

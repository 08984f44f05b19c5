"""What a driver knows of a scheduler apart from it: told there, taken in here (both)."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dask_flame.core.channel import Channel
from dask_flame.core.pool import Pool
from dask_flame.driver.fleets import PoolFleets
from dask_flame.history.journal import (
    Entry,
    Journal,
    RunnerEnded,
    RunnerRegistered,
    RunnersAsked,
    RunnerSeen,
)
from dask_flame.prints.rate_limit import left_out
from dask_flame.scaling.runner_index import Phase, RunnerState
from dask_flame.scheduler.scheduler import FlameScheduler

#: Messages that may wait for a connection; beyond it, no report is sent until the driver is back.
_MOST_WAITING = 20_000
#: Slots that could be used, calls that wait, seconds for which runners were busy, and the actors
#: for which calls wait.
_Numbers = tuple[int, int, int, str]
_NOTHING: _Numbers = (0, 0, 0, "")
#: ... and what they print is not told any more.
_MOST_PRINTS = 500


class JournalPublisher:
    """Passes on the journal to the driver, whose records are folded from it too (scheduler's pod).

    The turns of busy and idle runners are left out, as there may be two for each call: they are
    drawn on the dashboard's page alone, which is where the scheduler is.

    Parameters
    ----------
    journal : Journal
    link : Channel
    """

    def __init__(self, journal: Journal, link: Channel) -> None:
        self._link = link
        journal.subscribe(self._say)

    def _say(self, entry: Entry) -> None:
        if not isinstance(entry, RunnerSeen):
            self._link.say("journal", entry=entry)


class DriverFollower:
    """The driver as a follower of the store of reports (scheduler's pod).

    A :class:`dask_flame.reports.scheduler.publisher.Follower`.

    Parameters
    ----------
    link : Channel
    """

    def __init__(self, link: Channel) -> None:
        self._link = link

    @property
    def crowded(self) -> bool:
        return self._link.waiting >= _MOST_WAITING

    def send(self, number: int, change: Mapping[str, Any] | None) -> None:
        self._link.say("reports", number=number, change=change)


class PrintPublisher:
    """Passes on to the driver what calls print (scheduler's pod).

    While the driver is away, what is more than it could be shown is not kept for it.

    Parameters
    ----------
    link : Channel
    """

    def __init__(self, link: Channel) -> None:
        self._link = link
        self._left_out = 0

    def __call__(self, runner: str, pieces: Sequence[Sequence[Any]]) -> None:
        if self._link.waiting >= _MOST_PRINTS:
            self._left_out += sum(text.count("\n") for *_, text in pieces)
            return
        if self._left_out:
            count, self._left_out = self._left_out, 0
            said = left_out(count, "cluster.get_logs() has the last of them")
            self._link.say("prints", runner=runner, pieces=[(0, "", 1, said)])
        self._link.say("prints", runner=runner, pieces=pieces)


class StatePublisher:
    """Tells the driver how many calls and slots there are, and what each runner does now.

    These are levels, of which only the last counts; the journal has what happens
    (scheduler's pod).

    Parameters
    ----------
    scheduler : FlameScheduler
    fleets : PoolFleets
    link : Channel
    """

    def __init__(self, scheduler: FlameScheduler, fleets: PoolFleets, link: Channel) -> None:
        self._scheduler = scheduler
        self._fleets = fleets
        self._link = link
        self._members: dict[str, tuple[Any, ...]] = {}
        self._numbers: dict[str, _Numbers] = {}

    def tell(self) -> None:
        """Say what is not as it was when this was last called."""
        now = time.monotonic()
        states: dict[str, tuple[Any, ...]] = {}
        news: list[RunnerState] = []
        for _, fleet in self._fleets:
            for name, member in fleet.members.items():
                states[name] = state = (member.phase, member.busy, member.since, member.why)
                if self._members.get(name) != state:
                    # The two clocks have nothing in common: what is told are ages.
                    asked, since = now - member.asked, now - member.since
                    news.append(replace(member, asked=asked, since=since, stamp=0))
        self._members = states
        numbers = {
            pool: (
                self._scheduler.demand(pool),
                self._scheduler.waiting(pool),
                # In whole seconds, so that this alone is told once a second.
                round(fleet.roster.busy_seconds(now)),
                self._scheduler.held_by_actors(pool, fleet.pool),
            )
            for pool, fleet in self._fleets
        }
        if news or numbers != self._numbers:
            self._numbers = numbers
            self._link.say("state", members=news, numbers=numbers)


class SchedulerProxy:
    """A scheduler apart from its driver, as the driver knows it; in place of its own.

    Parameters
    ----------
    fleets : PoolFleets
        The driver's: they are kept as those of the scheduler's process are.

    Attributes
    ----------
    address : str
        Where runners reach it.
    """

    def __init__(self, fleets: PoolFleets) -> None:
        self.address = ""
        self._fleets = fleets
        self._numbers: Mapping[str, _Numbers] = {}

    def demand(self, pool: str) -> int:
        """Return the slots that could be used now, as :meth:`FlameScheduler.demand` does."""
        return self._numbers.get(pool, _NOTHING)[0]

    def waiting(self, pool: str) -> int:
        """Calls that are ready to run and have no slot."""
        return self._numbers.get(pool, _NOTHING)[1]

    def held_by_actors(self, pool: str, policy: Pool) -> str:
        """Which actors hold all slots for which calls wait."""
        return self._numbers.get(pool, _NOTHING)[3]

    def apply(self, entry: Entry) -> None:
        """Take in what the journal says of the runners that there are."""
        match entry:
            case RunnersAsked():
                now = time.monotonic()
                self._fleets.booted(entry.pool, entry.runners)
                for name in entry.runners:
                    self._set(RunnerState(name, Phase.BOOTING, now, now))
            case RunnerRegistered():
                if (member := self._known(entry.runner)) is not None:
                    self._set(replace(member, phase=Phase.READY, since=time.monotonic()))
            case RunnerEnded():
                self._drop(entry.runner)
                self._fleets.forget(entry.runner)

    def take(self, *, members: Collection[RunnerState], numbers: Mapping[str, _Numbers]) -> None:
        """Take in what a :class:`StatePublisher` has told."""
        now = time.monotonic()
        self._numbers = numbers
        for told in members:
            self._set(replace(told, asked=now - told.asked, since=now - told.since))
        for pool, fleet in self._fleets:
            fleet.roster.busy_before(numbers.get(pool, _NOTHING)[2])

    def _set(self, member: RunnerState) -> None:
        """Know a runner in place of what was known of it."""
        if (fleet := self._fleets.fleet_of(member.name)) is None:
            return
        roster = fleet.roster
        if (known := roster.members.get(member.name)) is not None:
            roster.counts[known.phase] -= 1
        roster.members[member.name] = member
        roster.counts[member.phase] += 1

    def _known(self, name: str) -> RunnerState | None:
        fleet = self._fleets.fleet_of(name)
        return None if fleet is None else fleet.members.get(name)

    def _drop(self, name: str) -> None:
        fleet = self._fleets.fleet_of(name)
        if fleet is not None and (known := fleet.roster.members.pop(name, None)) is not None:
            fleet.roster.counts[known.phase] -= 1

"""Replicate a remote scheduler's state to the driver (driver and scheduler's pod)."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dask_flame.core.channel import Channel
from dask_flame.core.pool import Pool
from dask_flame.core.rate_limit import left_out
from dask_flame.driver.fleets import PoolFleets
from dask_flame.history.journal import (
    Entry,
    Journal,
    RunnerEnded,
    RunnerRegistered,
    RunnersAsked,
    RunnerSeen,
)
from dask_flame.scaling.idle_timeout import IdleFigure
from dask_flame.scaling.runner_index import Phase, RunnerState
from dask_flame.scheduler.scheduler import FlameScheduler

#: Number of queued messages beyond which no reports are sent until the driver reconnects.
_MOST_WAITING = 20_000
#: Of a pool: demand in slots, number of waiting calls, busy seconds of its runners, the text of
#: ``held_by_actors``, and the idle timeout in force.
_Numbers = tuple[int, int, int, str, IdleFigure | None]
_NOTHING: _Numbers = (0, 0, 0, "", None)
#: Number of queued messages beyond which output of runners is dropped.
_MOST_PRINTS = 500


class JournalPublisher:
    """Forward the journal to the driver, which builds its own records from it (scheduler's pod).

    Changes between busy and idle runners are not forwarded, as there may be two per call. Only the
    dashboard's page shows them, and the scheduler serves it.

    Parameters
    ----------
    journal : Journal
    link : Channel
    """

    def __init__(self, journal: Journal, link: Channel) -> None:
        self._link = link
        journal.subscribe(self.send)

    def send(self, entry: Entry) -> None:
        """Send an entry of the journal."""
        if not isinstance(entry, RunnerSeen):
            self._link.send("journal", entry=entry)


class DriverFollower:
    """The driver as a follower of the report store (scheduler's pod).

    This is a :class:`dask_flame.reports.scheduler.publisher.Follower`.

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
        self._link.send("reports", number=number, change=change)


class PrintPublisher:
    """Forward the output of calls to the driver (scheduler's pod).

    While the driver is disconnected, output beyond a limit is dropped and its lines are counted.

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
            self._link.send("prints", runner=runner, pieces=[(0, "", 1, said)])
        self._link.send("prints", runner=runner, pieces=pieces)


class StatePublisher:
    """Send the driver the numbers of calls and slots, and the runners' states (scheduler's pod).

    Only the latest of these values matters; events are in the journal.

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

    def begin_anew(self) -> None:
        """Send all values the next time, to a driver that has none of them."""
        self._members, self._numbers = {}, {}

    def tell(self) -> None:
        """Send the values that have changed since the last call of this method."""
        now = time.monotonic()
        states: dict[str, tuple[Any, ...]] = {}
        news: list[RunnerState] = []
        for _, fleet in self._fleets:
            for name, member in fleet.members.items():
                state = (member.phase, member.busy, member.since, member.why, member.queued)
                states[name] = state
                if self._members.get(name) != state:
                    # Send ages, as the monotonic clocks of the two processes differ.
                    asked, since = now - member.asked, now - member.since
                    timed = now - member.timed_from
                    told = replace(member, asked=asked, since=since, timed_from=timed, stamp=0)
                    news.append(told)
        self._members = states
        numbers: dict[str, _Numbers] = {
            pool: (
                self._scheduler.demand(pool),
                self._scheduler.waiting(pool),
                # In whole seconds, so that it changes at most once a second.
                round(fleet.index.busy_seconds(now)),
                self._scheduler.held_by_actors(pool, fleet.pool),
                fleet.idle,
            )
            for pool, fleet in self._fleets
        }
        if news or numbers != self._numbers:
            self._numbers = numbers
            self._link.send("state", members=news, numbers=numbers)


class SchedulerProxy:
    """The driver's view of a remote scheduler.

    Parameters
    ----------
    fleets : PoolFleets
        The driver's fleets, which are kept equal to those in the scheduler's process.

    Attributes
    ----------
    address : str
        The address for runners.
    """

    def __init__(self, fleets: PoolFleets) -> None:
        self.address = ""
        self._fleets = fleets
        self._numbers: Mapping[str, _Numbers] = {}

    def demand(self, pool: str) -> int:
        """Return the number of slots that could be used: see :meth:`FlameScheduler.demand`."""
        return self._numbers.get(pool, _NOTHING)[0]

    def waiting(self, pool: str) -> int:
        """Return the number of ready calls without a slot."""
        return self._numbers.get(pool, _NOTHING)[1]

    def held_by_actors(self, pool: str, policy: Pool) -> str:
        """Describe the actors that hold all slots while calls wait; empty if that is not so."""
        return self._numbers.get(pool, _NOTHING)[3]

    def apply(self, entry: Entry) -> None:
        """Update the fleets from a journal entry."""
        match entry:
            case RunnersAsked():
                now = time.monotonic()
                self._fleets.booted(entry.pool, entry.runners)
                for name in entry.runners:
                    kind = entry.kinds.get(name, "")
                    self._set(RunnerState(name, Phase.BOOTING, now, now, kind=kind, timed_from=now))
            case RunnerRegistered():
                if (member := self._known(entry.runner)) is not None:
                    self._set(replace(member, phase=Phase.READY, since=time.monotonic()))
            case RunnerEnded():
                self._drop(entry.runner)
                self._fleets.forget(entry.runner)

    def past(
        self, *, pools: Mapping[str, Collection[str]], stopped: str, fixed: Collection[str]
    ) -> None:
        """Know the runners that an earlier driver has booted.

        Parameters
        ----------
        pools : mapping of str to collection of str
            Names of the runners of each pool.
        stopped : str
            Why no runner boots any more; empty if that is not so.
        fixed : collection of str
            The pools that do not follow demand.
        """
        for pool, names in pools.items():
            self._fleets.booted(pool, tuple(names))
            for name in {*self._fleets.fleets[pool].members} - {*names}:
                self._drop(name)
                self._fleets.forget(name)
        for pool in fixed:
            self._fleets.fleets[pool].fix()
        if stopped:
            self._fleets.stop(stopped)

    def take(self, *, members: Collection[RunnerState], numbers: Mapping[str, _Numbers]) -> None:
        """Update the state from a message of :class:`StatePublisher`.

        Parameters
        ----------
        members : collection of RunnerState
            Changed runners, with ages in place of times.
        numbers : mapping of str to tuple
            Numbers of each pool.
        """
        now = time.monotonic()
        self._numbers = numbers
        for told in members:
            asked, since, timed = now - told.asked, now - told.since, now - told.timed_from
            self._set(replace(told, asked=asked, since=since, timed_from=timed))
        for pool, fleet in self._fleets:
            _, _, busy, _, idle = numbers.get(pool, _NOTHING)
            fleet.index.busy_before(busy)
            fleet.idle = idle or fleet.idle

    def _set(self, member: RunnerState) -> None:
        """Add or replace a runner."""
        if (fleet := self._fleets.fleet_of(member.name)) is None:
            return
        index = fleet.index
        if (known := index.members.get(member.name)) is not None:
            index.counts[known.phase] -= 1
        index.members[member.name] = member
        index.counts[member.phase] += 1

    def _known(self, name: str) -> RunnerState | None:
        fleet = self._fleets.fleet_of(name)
        return None if fleet is None else fleet.members.get(name)

    def _drop(self, name: str) -> None:
        fleet = self._fleets.fleet_of(name)
        if fleet is not None and (known := fleet.index.members.pop(name, None)) is not None:
            fleet.index.counts[known.phase] -= 1

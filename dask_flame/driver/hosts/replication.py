"""What a driver knows of a scheduler apart from it: told there, taken in here (both)."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dask_flame.core.channel import Channel
from dask_flame.core.pool import Pool
from dask_flame.history.boots import Boot
from dask_flame.history.events import Event, EventLog
from dask_flame.prints.rate_limit import left_out
from dask_flame.scaling.runner_index import RunnerIndex, RunnerState

if TYPE_CHECKING:
    from dask_flame.driver.cluster import FlameCluster

#: Messages that may wait for a connection; beyond it, no report is sent until the driver is back.
_MOST_WAITING = 20_000
#: Slots that could be used, calls that wait, seconds for which runners were busy, and the actors
#: for which calls wait.
_Numbers = tuple[int, int, int, str]
_NOTHING: _Numbers = (0, 0, 0, "")
#: ... and what they print is not told any more.
_MOST_PRINTS = 500


class ForwardingEventLog(EventLog):
    """An event log (scheduler's pod) that tells the driver of each event."""

    def __init__(self, link: Channel) -> None:
        super().__init__()
        self._link = link

    def add(self, *args: Any, **kwargs: Any) -> Event:
        event = super().add(*args, **kwargs)
        self._link.say("event", event=event)
        return event


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
    """Tells the driver what has changed (scheduler's pod).

    Parameters
    ----------
    cluster : FlameCluster
    link : Channel
    """

    def __init__(self, cluster: FlameCluster, link: Channel) -> None:
        self._cluster = cluster
        self._link = link
        self._members: dict[str, tuple[Any, ...]] = {}
        self._boots: dict[str, Boot] = {}
        self._numbers: dict[str, _Numbers] = {}

    def tell(self) -> None:
        """Say what is not as it was when this was last called."""
        cluster, now = self._cluster, time.monotonic()
        news: list[tuple[str, RunnerState]] = []
        there: set[str] = set()
        for pool, fleet in cluster.fleets:
            for name, member in fleet.members.items():
                there.add(name)
                state = (member.phase, member.busy, member.since, member.why)
                if self._members.get(name) != state:
                    self._members[name] = state
                    # The two clocks have nothing in common: what is told are ages.
                    asked, since = now - member.asked, now - member.since
                    news.append((pool, replace(member, asked=asked, since=since, stamp=0)))
        gone = [name for name in self._members if name not in there]
        for name in gone:
            del self._members[name]
        known = cluster.boots
        boots = [boot for boot in known if self._boots.get(boot.name) is not boot]
        self._boots = {boot.name: boot for boot in known}
        scheduler = cluster.scheduler
        numbers = {
            pool: (
                scheduler.demand(pool),
                scheduler.waiting(pool),
                # In whole seconds, so that this alone is told once a second.
                round(fleet.roster.busy_seconds(now)),
                scheduler.held_by_actors(pool, fleet.pool),
            )
            for pool, fleet in cluster.fleets
        }
        if news or gone or boots or numbers != self._numbers:
            self._numbers = numbers
            self._link.say("state", members=news, gone=gone, boots=boots, numbers=numbers)


class SchedulerProxy:
    """A scheduler apart from its driver, as the driver knows it; in place of its own.

    Attributes
    ----------
    address : str
        Where runners reach it.
    """

    def __init__(self) -> None:
        self.address = ""
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

    def take(
        self,
        cluster: FlameCluster,
        *,
        members: Collection[tuple[str, RunnerState]],
        gone: Collection[str],
        boots: Collection[Boot],
        numbers: Mapping[str, _Numbers],
    ) -> None:
        """Take in what a :class:`StatePublisher` has told."""
        now = time.monotonic()
        self._numbers = numbers
        changed: dict[str, dict[str, RunnerState]] = {}
        for pool, told in members:
            member = replace(told, asked=now - told.asked, since=now - told.since)
            changed.setdefault(pool, {})[member.name] = member
            cluster.fleets.booted(pool, (member.name,))
        lost = set(gone)
        for pool, fleet in cluster.fleets:
            known = fleet.members
            if pool in changed or not lost.isdisjoint(known):
                rest = {n: m for n, m in known.items() if n not in lost}
                for name in known.keys() - rest.keys():
                    cluster.fleets.ledgers[pool].gone(known[name], "ended", now)
                fleet.roster = _roster(rest | changed.get(pool, {}))
            fleet.roster.busy_before(numbers.get(pool, _NOTHING)[2])
        for name in lost:
            cluster.fleets.forget(name)
        cluster.boots.take(boots)


def _roster(members: Mapping[str, RunnerState]) -> RunnerIndex:
    roster = RunnerIndex()
    roster.members = OrderedDict(members)
    roster.counts = Counter(member.phase for member in members.values())
    return roster

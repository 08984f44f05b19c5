"""What a driver knows of a scheduler apart from it: told there, taken in here (both)."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dask_flame.apart.link import Link
from dask_flame.boots import Boot
from dask_flame.events import Event, EventLog
from dask_flame.reports import ReportStore
from dask_flame.roster import Member, Roster

if TYPE_CHECKING:
    from dask_flame.cluster import FlameCluster

#: Messages that may wait for a connection; beyond it, what calls report is not told any more.
_MOST_WAITING = 20_000


class TellingLog(EventLog):
    """An event log (scheduler's pod) that tells the driver of each event."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def add(self, *args: Any, **kwargs: Any) -> Event:
        event = super().add(*args, **kwargs)
        self._link.say("event", event=event)
        return event


class TellingStore(ReportStore):
    """A report store (scheduler's pod) that has the driver do the same in its own.

    Where the driver is away for so long that too much would wait for it, it misses what is
    reported meanwhile; the dashboard, which is here, does not.
    """

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def _tell(self, what: str, *args: Any, **kwargs: Any) -> None:
        if self._link.waiting < _MOST_WAITING:
            self._link.say("reports", what=what, args=args, kwargs=kwargs)

    def add(self, *args: Any, **kwargs: Any) -> None:
        super().add(*args, **kwargs)
        self._tell("add", *args, **kwargs)

    def begin(self, *args: Any) -> None:
        super().begin(*args)
        self._tell("begin", *args)

    def end(self, *args: Any) -> None:
        super().end(*args)
        self._tell("end", *args)


class Teller:
    """Tells the driver what has changed (scheduler's pod).

    Parameters
    ----------
    cluster : FlameCluster
    link : Link
    """

    def __init__(self, cluster: FlameCluster, link: Link) -> None:
        self._cluster = cluster
        self._link = link
        self._members: dict[str, tuple[Any, ...]] = {}
        self._boots: dict[str, Boot] = {}
        self._numbers: dict[str, tuple[int, int]] = {}

    def tell(self) -> None:
        """Say what is not as it was when this was last called."""
        cluster, now = self._cluster, time.monotonic()
        news: list[tuple[str, Member]] = []
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
        numbers = {p: (scheduler.demand(p), scheduler.waiting(p)) for p, _ in cluster.fleets}
        if news or gone or boots or numbers != self._numbers:
            self._numbers = numbers
            self._link.say("state", members=news, gone=gone, boots=boots, numbers=numbers)


class Seen:
    """A scheduler apart from its driver, as the driver knows it; in place of its own.

    Attributes
    ----------
    address : str
        Where runners reach it.
    """

    def __init__(self) -> None:
        self.address = ""
        self._numbers: Mapping[str, tuple[int, int]] = {}

    def demand(self, pool: str) -> int:
        """Slots that could be used now, see :meth:`dask_flame.scheduler.FlameScheduler.demand`."""
        return self._numbers.get(pool, (0, 0))[0]

    def waiting(self, pool: str) -> int:
        """Calls that are ready to run and have no slot."""
        return self._numbers.get(pool, (0, 0))[1]

    def take(
        self,
        cluster: FlameCluster,
        *,
        members: Collection[tuple[str, Member]],
        gone: Collection[str],
        boots: Collection[Boot],
        numbers: Mapping[str, tuple[int, int]],
    ) -> None:
        """Take in what a :class:`Teller` has told."""
        now = time.monotonic()
        self._numbers = numbers
        changed: dict[str, dict[str, Member]] = {}
        for pool, told in members:
            member = replace(told, asked=now - told.asked, since=now - told.since)
            changed.setdefault(pool, {})[member.name] = member
            cluster.fleets.booted(pool, (member.name,))
        lost = set(gone)
        for pool, fleet in cluster.fleets:
            known = fleet.members
            if pool in changed or not lost.isdisjoint(known):
                rest = {n: m for n, m in known.items() if n not in lost}
                fleet.roster = _roster(rest | changed.get(pool, {}))
        for name in lost:
            cluster.fleets.forget(name)
        cluster.boots.take(boots)


def _roster(members: Mapping[str, Member]) -> Roster:
    roster = Roster()
    roster.members = OrderedDict(members)
    roster.counts = Counter(member.phase for member in members.values())
    return roster

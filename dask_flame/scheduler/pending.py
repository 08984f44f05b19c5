"""Calls that wait for a slot, in lanes of those that could run on the same runners (scheduler)."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distributed.collections import HeapSet
from distributed.scheduler import TaskState

from dask_flame.core.pool import Pool

_PRIORITY = operator.attrgetter("priority")


class Needs(NamedTuple):
    """What calls that wait for the same runners have in common.

    Attributes
    ----------
    pool : str or None
        The pool whose runners may take them; None where they name workers of any pool.
    workers, hosts : frozenset of str
        What they are restricted to.
    resources : frozenset of (str, float)
        The Dask resources they ask for.
    loose : bool
        Whether other workers will do.
    held : bool
        They are not to run again: they wait for the reason to be known.
    """

    pool: str | None
    workers: frozenset[str]
    hosts: frozenset[str]
    resources: frozenset[tuple[str, float]]
    loose: bool
    held: bool = False

    def served_by(self, offers: Mapping[str, float]) -> bool:
        """Whether a new runner of their pool, with these resources, could take them."""
        return (
            not self.held
            and self.pool is not None
            and (self.loose or not (self.workers or self.hosts))
            and all(offers.get(name, 0) >= amount for name, amount in self.resources)
        )


def slots_of(
    resources: Iterable[tuple[str, float]], offers: Mapping[str, float], concurrency: int
) -> float:
    """Slots that one call takes from others: more than one, where it asks for more than its share.

    With two GPUs and four slots on a runner, a call that asks for a GPU leaves room for one other
    such call, and so counts as two slots.
    """
    shares = [amount / offers[name] for name, amount in resources if offers.get(name)]
    return max(1.0, concurrency * max(shares, default=0.0))


@dataclass(slots=True)
class PendingLane:
    """Calls with the same needs, in order of priority."""

    needs: Needs
    weight: float  # slots that each is demand for; none where a new runner would not help
    calls: HeapSet[TaskState] = field(default_factory=lambda: HeapSet(key=_PRIORITY))


class PendingCalls:
    """All calls that wait.

    When slots open, only the heads of the lanes have to be looked at; how many calls wait for a
    pool is known without counting.

    Parameters
    ----------
    pools : mapping of str to Pool

    Attributes
    ----------
    demand : dict of str to float
        For each pool, the slots that its waiting calls are demand for.
    """

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self.pools = pools
        self.demand: defaultdict[str | None, float] = defaultdict(float)
        self._lanes: dict[Needs, PendingLane] = {}
        self._lane_of: dict[Any, PendingLane] = {}

    def add(self, ts: TaskState, needs: Needs) -> bool:
        """A call waits; whether it is the first in its lane."""
        lane = self._lanes.get(needs)
        first = lane is None
        if lane is None:
            lane = self._lanes[needs] = PendingLane(needs, self._weight(needs))
        lane.calls.add(ts)
        self._lane_of[ts.key] = lane
        self.demand[needs.pool] += lane.weight
        return first

    def discard(self, ts: TaskState) -> float:
        """A call waits no more; the slots that it was demand for."""
        lane = self._lane_of.pop(ts.key, None)
        if lane is not None:
            lane.calls.discard(ts)
            self.demand[lane.needs.pool] -= lane.weight
            if not lane.calls:
                del self._lanes[lane.needs]
        return lane.weight if lane is not None else 0.0

    def heads(self, choosy: Collection[Any] = ()) -> list[TaskState]:
        """The first call of each lane, in order of priority; those held are left out.

        Parameters
        ----------
        choosy : collection of keys
            Calls that may not take a slot that others could: they hide nobody behind them.
        """
        first = []
        for needs, lane in self._lanes.items():
            if not needs.held:
                # To look at more than one takes a while.
                more = len(choosy) if lane.calls.peek().key in choosy else 0
                for ts in lane.calls.peekn(1 + more):
                    first.append(ts)
                    if ts.key not in choosy:
                        break
        return sorted(first, key=_PRIORITY)

    def count(self, pool: str) -> int:
        """How many calls wait that a new runner of this pool would help."""
        lanes = self._lanes.values()
        return sum(len(lane.calls) for lane in lanes if lane.needs.pool == pool and lane.weight)

    def waiting_for(self, pool: str) -> list[Any]:
        """Keys of the calls that a new runner of this pool would help."""
        return [
            ts.key
            for lane in self._lanes.values()
            if lane.needs.pool == pool and lane.weight
            for ts in lane.calls
        ]

    def _weight(self, needs: Needs) -> float:
        pool = self.pools.get(needs.pool or "")
        if pool is None or not needs.served_by(pool.offers):
            return 0.0
        return slots_of(needs.resources, pool.offers, pool.concurrency)

    def clear(self) -> None:
        self._lanes.clear()
        self._lane_of.clear()
        self.demand.clear()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._lane_of)

    def __len__(self) -> int:
        return len(self._lane_of)

"""Calls that wait for a slot, grouped by the runners on which they could run (scheduler)."""

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
    """The requirements of calls that can run on the same runners.

    Attributes
    ----------
    pool : str or None
        Name of the pool; None if the calls are restricted to workers of any pool.
    workers, hosts : frozenset of str
        Worker and host restrictions.
    resources : frozenset of (str, float)
        Requested Dask resources.
    loose : bool
        Whether other workers are allowed as well.
    held : bool, default False
        Whether the calls must not run again, and will fail when the reason is known.
    """

    pool: str | None
    workers: frozenset[str]
    hosts: frozenset[str]
    resources: frozenset[tuple[str, float]]
    loose: bool
    held: bool = False

    def served_by(self, offers: Mapping[str, float]) -> bool:
        """Return whether a new runner of the pool, with these resources, could run the calls."""
        return (
            not self.held
            and self.pool is not None
            and (self.loose or not (self.workers or self.hosts))
            and all(offers.get(name, 0) >= amount for name, amount in self.resources)
        )


def slots_of(
    resources: Iterable[tuple[str, float]], offers: Mapping[str, float], concurrency: int
) -> float:
    """Return the number of slots that a call counts for, by its share of the resources.

    For example, on a runner with two GPUs and four slots, a call that requests one GPU counts as
    two slots.

    Parameters
    ----------
    resources : iterable of (str, float)
        Resources that the call requests.
    offers : mapping of str to float
        Resources of a runner.
    concurrency : int
        Slots of a runner.

    Returns
    -------
    float
        At least 1.
    """
    shares = [amount / offers[name] for name, amount in resources if offers.get(name)]
    return max(1.0, concurrency * max(shares, default=0.0))


@dataclass(slots=True)
class PendingLane:
    """Calls with the same needs, in order of priority."""

    needs: Needs
    weight: float  # demand per call, in slots; 0 if a new runner would not help
    calls: HeapSet[TaskState] = field(default_factory=lambda: HeapSet(key=_PRIORITY))


class PendingCalls:
    """All waiting calls, in one lane per set of needs.

    When a slot opens, only the heads of the lanes have to be checked. The demand of a pool is known
    without counting calls.

    Parameters
    ----------
    pools : mapping of str to Pool

    Attributes
    ----------
    demand : dict of str to float
        Demand of the waiting calls of each pool, in slots.
    """

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self.pools = pools
        self.demand: defaultdict[str | None, float] = defaultdict(float)
        self._lanes: dict[Needs, PendingLane] = {}
        self._lane_of: dict[Any, PendingLane] = {}

    def add(self, ts: TaskState, needs: Needs) -> bool:
        """Add a call; return whether it is the only one in its lane."""
        lane = self._lanes.get(needs)
        first = lane is None
        if lane is None:
            lane = self._lanes[needs] = PendingLane(needs, self._weight(needs))
        lane.calls.add(ts)
        self._lane_of[ts.key] = lane
        self.demand[needs.pool] += lane.weight
        return first

    def discard(self, ts: TaskState) -> float:
        """Remove a call; return its demand in slots."""
        lane = self._lane_of.pop(ts.key, None)
        if lane is not None:
            lane.calls.discard(ts)
            self.demand[lane.needs.pool] -= lane.weight
            if not lane.calls:
                del self._lanes[lane.needs]
        return lane.weight if lane is not None else 0.0

    def heads(self, choosy: Collection[Any] = ()) -> list[TaskState]:
        """Return the first call of each lane, in order of priority, except held calls.

        Parameters
        ----------
        choosy : collection of keys
            Calls that cannot use every slot of their lane; the calls behind them are returned too.
        """
        first = []
        for needs, lane in self._lanes.items():
            if not needs.held:
                # Reading more than the first call is slow.
                more = len(choosy) if lane.calls.peek().key in choosy else 0
                for ts in lane.calls.peekn(1 + more):
                    first.append(ts)
                    if ts.key not in choosy:
                        break
        return sorted(first, key=_PRIORITY)

    def count(self, pool: str) -> int:
        """Return the number of calls that a new runner of this pool could run."""
        lanes = self._lanes.values()
        return sum(len(lane.calls) for lane in lanes if lane.needs.pool == pool and lane.weight)

    def waiting_for(self, pool: str) -> list[Any]:
        """Return the keys of the calls that a new runner of this pool could run."""
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

"""Representations of a cluster for terminals, notebooks and the dashboard (driver)."""

from __future__ import annotations

import time
from collections import Counter
from typing import Protocol

from distributed import Status

from dask_flame.backends.base import Backend
from dask_flame.core.pool import AUTO
from dask_flame.driver.budget_watch import spent_of
from dask_flame.driver.fleets import PoolFleets
from dask_flame.driver.hosts.base import AdaptiveBounds, SchedulerView
from dask_flame.history.boots import BootLog
from dask_flame.history.records import History
from dask_flame.history.state import PoolSummary, RunnerSummary, Snapshot
from dask_flame.history.usage import PoolUsage
from dask_flame.scaling.fleet import Fleet, Phase

_SHOWN_EVENTS = 200
_SHOWN_BOOTS = 64


class Displayed(Protocol):
    """The attributes of :class:`FlameCluster` that are shown.

    Attributes
    ----------
    name : str
    status : distributed.Status
    over : str
        Why it ended; empty if the user closed it.
    forked_from : int or None
        In a process forked from the driver: the driver's process ID.
    fleets : PoolFleets
    backend : Backend
    boots : BootLog
    scheduler_address : str
    dashboard_address : str or None
    dashboard_link, flame_link : str
    """

    status: Status
    over: str
    forked_from: int | None
    fleets: PoolFleets
    backend: Backend
    boots: BootLog
    dashboard_address: str | None

    @property
    def name(self) -> str: ...

    @property
    def scheduler_address(self) -> str: ...

    @property
    def dashboard_link(self) -> str: ...

    @property
    def flame_link(self) -> str: ...


def counts(fleet: Fleet) -> dict[str, int]:
    """Return the number of runners in each phase, and of ready runners that are busy."""
    members = list(fleet.members.values())
    return {
        "booting": sum(m.phase is Phase.BOOTING for m in members),
        "ready": sum(m.phase is Phase.READY for m in members),
        "busy": sum(m.phase is Phase.READY and m.busy > 0 for m in members),
        "paused": sum(m.phase is Phase.PAUSED for m in members),
        "draining": sum(m.phase is Phase.DRAINING for m in members),
        "ending": sum(m.phase is Phase.ENDING for m in members),
    }


def text(cluster: Displayed, scheduler: SchedulerView | None) -> str:
    """Return the one-line representation; `scheduler` is None before the start."""
    if cluster.forked_from is not None:
        return f"FlameCluster({cluster.name}, of process {cluster.forked_from})"
    if cluster.status is Status.closed:
        return f"FlameCluster({cluster.name}, closed)"
    several = len(cluster.fleets.fleets) > 1
    pools = "; ".join(
        _pool(
            name if several else "",
            fleet,
            scheduler.waiting(name) if scheduler else 0,
            scheduler.held_by_actors(name, fleet.pool) if scheduler else "",
        )
        for name, fleet in cluster.fleets
    )
    return (
        f"FlameCluster({cluster.name}, {cluster.scheduler_address!r}, {cluster.backend.name}, "
        f"{pools})"
    )


def _pool(name: str, fleet: Fleet, waiting: int, held: str) -> str:
    pool, number = fleet.pool, counts(fleet)
    busy = number.pop("busy")
    words = {word: f"{n} {word}" for word, n in number.items() if n}
    if busy:
        words["ready"] += f" ({busy} busy)"
    there = ", ".join(words.values()) or "none"
    kinds = Counter(member.kind for member in list(fleet.members.values()))
    if len(kinds) > 1:
        there += f" ({', '.join(f'{n} of {kind}' for kind, n in kinds.items())})"
    calls = f", {waiting} call{'s' * (waiting > 1)} waiting" if waiting else ""
    if held:
        calls += f" as {held}"
    return (
        f"{name or 'runners'}: {there} of {pool.min}..{pool.max}{calls}, "
        f"concurrency={pool.concurrency}, {_idle_timeout(fleet)}"
        f"{'' if fleet.fixed is None else f', kept at {fleet.fixed} by adapt(...).stop()'}"
    )


def _idle_timeout(fleet: Fleet) -> str:
    if fleet.pool.idle_timeout == AUTO:
        return f"idle_timeout={AUTO} (now {fleet.idle.rounded:g}s)"
    return f"idle_timeout={fleet.idle.seconds:g}s"


def html(cluster: Displayed, state: Snapshot) -> str:
    """Return the notebook representation: all pools and their runners."""
    # Imported here, as scripts do not need it.
    from dask_flame.charts.panel import Head, panel

    over = ""
    if cluster.status in (Status.closing, Status.closed):
        over = f"closed: {cluster.over}" if cluster.over else "closed"
    links = {"dashboard": "", "curves": ""}
    if cluster.dashboard_address and not over:
        links = {"dashboard": cluster.dashboard_link, "curves": cluster.flame_link}
    head = Head(cluster.name, cluster.backend.name, over, links)
    return panel(head, state, cluster.boots)


def snapshot(
    pools: PoolFleets,
    adaptive: AdaptiveBounds | None,
    scheduler: SchedulerView,
    history: History,
) -> Snapshot:
    """Return the state of the pools, for the dashboard's pages and the notebook.

    Parameters
    ----------
    pools : PoolFleets
    adaptive : AdaptiveBounds or None
        None before the cluster has started.
    scheduler : SchedulerView
    history : History
    """
    now, monotonic = time.time(), time.monotonic()
    return Snapshot(
        now,
        [
            _summary(name, fleet, history.usage[name], adaptive, scheduler, now, monotonic)
            for name, fleet in pools
        ],
        events=list(history.events)[-_SHOWN_EVENTS:],
        lives=history.timeline,
        boots=history.boots[-_SHOWN_BOOTS:],
        budget=spent_of(pools, history, monotonic),
    )


def _summary(
    name: str,
    fleet: Fleet,
    usage: PoolUsage,
    adaptive: AdaptiveBounds | None,
    scheduler: SchedulerView,
    now: float,
    monotonic: float,
) -> PoolSummary:
    policy, demand = fleet.pool, scheduler.demand(name)
    members = list(fleet.members.values())  # a copy, as other threads may change it
    return PoolSummary(
        name,
        min=policy.min,
        max=policy.max,
        concurrency=policy.concurrency,
        demand=demand,
        waiting=scheduler.waiting(name),
        runners=[
            RunnerSummary(m.name, m.phase.value, now - (monotonic - m.since), m.busy, m.why, m.kind)
            for m in members
        ],
        history=list(adaptive.history[name]) if adaptive is not None else [],
        target=fleet.target(demand),
        held=scheduler.held_by_actors(name, policy),
        gpus=policy.gpus,
        price=policy.price,
        idle_timeout=fleet.idle.rounded,
        idle_why=fleet.idle.why,
        suspended=fleet.suspended,
        fixed=fleet.fixed,
        runner_seconds=usage.paid(members, monotonic),
        busy_seconds=fleet.index.busy_seconds(monotonic),
        kinds={**dict.fromkeys(fleet.kinds.kinds, 0.0), **usage.paid_by_kind(members, monotonic)},
    )

"""Prometheus metrics of the clusters in this process (driver).

If ``prometheus_client`` is installed (``pip install 'dask-flame[metrics]'``), Dask's scheduler
serves the process's registry at ``/metrics`` beside its dashboard. The metrics have the names of
cluster and pool as labels, as a process may have several clusters.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dask_flame.driver.fleets import PoolFleets
from dask_flame.driver.hosts.base import SchedulerView
from dask_flame.history.records import History
from dask_flame.scaling.fleet import Phase
from dask_flame.scheduler.home.home import Home


@dataclass(frozen=True, eq=False)
class Measured:
    """The parts of a cluster from which its metrics are read.

    Attributes
    ----------
    name : str
        Name of the cluster.
    scheduler : SchedulerView
    home : Home
    fleets : PoolFleets
    history : History
    """

    name: str
    scheduler: SchedulerView
    home: Home
    fleets: PoolFleets
    history: History


_clusters: weakref.WeakSet[Measured] = weakref.WeakSet()
_registered = False


def expose(cluster: Measured) -> None:
    """Add this cluster's metrics to the process's registry, until :func:`withdraw`."""
    global _registered
    with suppress(ImportError):
        if not _registered:
            import prometheus_client

            # Registered once, for the life of the process.
            prometheus_client.REGISTRY.register(_Collector())
            _registered = True
        _clusters.add(cluster)


def withdraw(cluster: Measured) -> None:
    """Remove a closed cluster's metrics."""
    _clusters.discard(cluster)


class _Collector:
    def describe(self) -> Iterable[Any]:
        # Called once, at registration; the metrics depend on the clusters at collection.
        return ()

    def collect(self) -> Iterator[Any]:
        clusters = list(_clusters)
        yield from _gauges(clusters)
        yield from _counters(clusters)


def _gauges(clusters: list[Measured]) -> Iterator[Any]:
    from prometheus_client.core import GaugeMetricFamily as Gauge

    by_pool = ["cluster", "pool"]
    runners = Gauge("dask_flame_runners", "Runners there are", labels=[*by_pool, "phase"])
    busy = Gauge("dask_flame_runners_busy", "Ready runners with a call", labels=by_pool)
    least = Gauge("dask_flame_runners_min", "Runners kept at all times", labels=by_pool)
    most = Gauge("dask_flame_runners_max", "Most runners at a time", labels=by_pool)
    demand = Gauge("dask_flame_demand_slots", "Slots that could be used now", labels=by_pool)
    waiting = Gauge("dask_flame_waiting_calls", "Ready calls without a slot", labels=by_pool)
    home = Gauge("dask_flame_home_bytes", "Results at home", labels=["cluster", "where"])
    for cluster in clusters:
        for pool, fleet in cluster.fleets:
            of = [cluster.name, pool]
            for phase in Phase:
                runners.add_metric([*of, phase.value], fleet.count(phase))
            working = [m for m in list(fleet.members.values()) if m.phase is Phase.READY and m.busy]
            busy.add_metric(of, len(working))
            least.add_metric(of, fleet.pool.min)
            most.add_metric(of, fleet.pool.max)
            demand.add_metric(of, cluster.scheduler.demand(pool))
            waiting.add_metric(of, cluster.scheduler.waiting(pool))
        home.add_metric([cluster.name, "memory"], cluster.home.memory)
        home.add_metric([cluster.name, "disk"], cluster.home.disk)
    yield from (runners, busy, least, most, demand, waiting, home)


def _counters(clusters: list[Measured]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily as Counter

    by_pool = ["cluster", "pool"]
    boots = Counter("dask_flame_boots", "Runners asked for", labels=by_pool)
    up = Counter("dask_flame_registrations", "Runners that came up", labels=by_pool)
    booting = Counter(
        "dask_flame_boot_seconds", "From request to registration, summed", labels=by_pool
    )
    of_phase = [*by_pool, "phase"]
    phases = Counter(
        "dask_flame_boot_phase_seconds", "Of boots, in this phase, summed", labels=of_phase
    )
    passed = Counter("dask_flame_boot_phases", "Boots that were through it", labels=of_phase)
    ended = Counter("dask_flame_runners_ended", "Runners gone", labels=[*by_pool, "how"])
    paid = Counter(
        "dask_flame_runner_seconds", "From request to end, summed over runners", labels=by_pool
    )
    events = Counter("dask_flame_events", "Decisions and observations", labels=["cluster", "kind"])
    now = time.monotonic()
    for cluster in clusters:
        for pool, fleet in cluster.fleets:
            of, ledger = [cluster.name, pool], cluster.history.usage[pool]
            boots.add_metric(of, ledger.boots)
            up.add_metric(of, ledger.registered)
            booting.add_metric(of, ledger.boot_seconds)
            for phase, (seconds, number) in list(ledger.phases.items()):
                phases.add_metric([*of, phase], seconds)
                passed.add_metric([*of, phase], number)
            for how, number in ledger.ended.items():
                ended.add_metric([*of, how], number)
            paid.add_metric(of, ledger.paid(list(fleet.members.values()), now))
        for kind, number in list(cluster.history.events.counts.items()):
            events.add_metric([cluster.name, kind], number)
    yield from (boots, up, booting, phases, passed, ended, paid, events)

"""A cluster as text, as a table, and as the dashboard's page wants it (driver)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from distributed import Status

from dask_flame.fleet import Fleet, Phase

if TYPE_CHECKING:
    from dask_flame.adaptive import FlameAdaptive
    from dask_flame.cluster import FlameCluster
    from dask_flame.events import EventLog
    from dask_flame.scheduler import FlameScheduler

_SHOWN_EVENTS = 50


def counts(fleet: Fleet) -> dict[str, int]:
    """How many runners are booting, ready, busy (of the ready ones) and ending."""
    members = list(fleet.members.values())
    return {
        "booting": sum(m.phase is Phase.BOOTING for m in members),
        "ready": sum(m.phase is Phase.READY for m in members),
        "busy": sum(m.phase is Phase.READY and m.busy > 0 for m in members),
        "ending": sum(m.phase is Phase.ENDING for m in members),
    }


def text(cluster: FlameCluster) -> str:
    """One line: what a terminal shows."""
    pool = cluster.fleet.pool
    if cluster.status is Status.closed:
        return f"FlameCluster({cluster.name}, closed)"
    number = counts(cluster.fleet)
    there = ", ".join(f"{n} {word}" for word, n in number.items() if n) or "none"
    return (
        f"FlameCluster({cluster.name}, {cluster.scheduler_address!r}, {cluster.backend.name}, "
        f"runners: {there} of {pool.min}..{pool.max}, concurrency={pool.concurrency}, "
        f"idle_timeout={pool.idle_timeout:g}s)"
    )


def table(fleet: Fleet) -> str:
    """The pool's state as the notebook widget shows it."""
    pool = fleet.pool
    number = counts(fleet)
    rows = {
        "Policy": f"{pool.min} to {pool.max} runners, {pool.concurrency} calls each, "
        f"idle for {pool.idle_timeout:g} s",
        "Booting": number["booting"],
        "Ready": f"{number['ready']} ({number['busy']} busy)",
        "Ending": number["ending"],
    }
    cells = "".join(
        f'<tr><th style="text-align: left;">{k}</th><td style="text-align: left;">{v}</td></tr>'
        for k, v in rows.items()
    )
    return f"<table>{cells}</table>"


def snapshot(
    fleet: Fleet,
    adaptive: FlameAdaptive | None,
    scheduler: FlameScheduler,
    events: EventLog,
) -> dict[str, Any]:
    """The pools' state for the page ``/flame``: times are Unix seconds."""
    now, monotonic = time.time(), time.monotonic()
    pool = fleet.pool
    return {
        "now": now,
        "pools": [
            {
                "name": "default",
                "min": pool.min,
                "max": pool.max,
                "concurrency": pool.concurrency,
                "demand": scheduler.demand(),
                "waiting": scheduler.waiting(),
                "runners": [
                    {
                        "name": m.name,
                        "state": m.phase.value,
                        "busy": m.busy,
                        "since": now - (monotonic - m.since),
                    }
                    for m in fleet.members.values()
                ],
                "history": list(adaptive.history) if adaptive is not None else [],
            }
        ],
        "events": [
            {"at": e.at, "kind": e.kind, "text": e.text} for e in list(events)[-_SHOWN_EVENTS:]
        ],
    }

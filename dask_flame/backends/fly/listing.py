"""Describe a cluster by its machines; pure (command line)."""

from __future__ import annotations

from collections.abc import Sequence

from dask_flame.backends.fly.api.client import metadata_of
from dask_flame.backends.fly.api.types import Machine
from dask_flame.backends.fly.machine_state import BEFORE, GONE
from dask_flame.backends.fly.metadata import (
    COMPONENT,
    NAME,
    OWNER,
    POOL,
    RESERVE,
    SCHEDULER,
    STOPPED,
)
from dask_flame.backends.fly.orphans import time_of
from dask_flame.backends.fly.present_driver import present
from dask_flame.backends.inspector import ClusterListing, RunnerListing


def listing(
    id: str, machines: Sequence[Machine], orphaned: Sequence[Machine], lives: bool | None
) -> ClusterListing:
    """Describe a cluster.

    Parameters
    ----------
    id : str
        The cluster's id.
    machines : sequence of Machine
        All its machines.
    orphaned : sequence of Machine
        Those that have no driver any more.
    lives : bool or None
        Whether its driver lives; None if that is not known.
    """
    runners = [_runner(m) for m in machines if metadata_of(m).get(COMPONENT) != SCHEDULER]
    # Runners first, then the reserve; each as it is numbered.
    runners.sort(key=lambda r: (r.state.startswith(RESERVE), r.pool, len(r.name), r.name))
    first = next(filter(None, (metadata_of(machine).get(OWNER, "") for machine in machines)), "")
    return ClusterListing(
        id=id,
        name=id.rpartition("-")[0] or id,
        state=_state(machines, orphaned, lives),
        driver=present(machines).get(OWNER) or "?",
        started=min(time_of(machine, "created_at") for machine in machines),
        runners=tuple(runners),
        made_by="" if first.startswith("fly@") else first.rpartition(":")[0],
    )


def name_of(machine: Machine) -> str:
    """Return the name of a runner, or what a machine is called if it is none."""
    own = metadata_of(machine)
    return own.get(NAME) or machine.get("name") or machine.get("id") or "?"


def _state(machines: Sequence[Machine], orphaned: Sequence[Machine], lives: bool | None) -> str:
    if all(machine.get("state") in GONE for machine in machines):
        return "ending"
    if lives is False or len(orphaned) == len(machines):
        return "orphaned"
    if any(STOPPED in metadata_of(machine) for machine in machines):
        return "stopped"
    schedulers = [m for m in machines if metadata_of(m).get(COMPONENT) == SCHEDULER]
    if schedulers and all(m.get("state") in BEFORE for m in schedulers):
        return "starting"
    return "live"


def _runner(machine: Machine) -> RunnerListing:
    own, state = metadata_of(machine), machine.get("state") or "unknown"
    in_reserve = own.get(COMPONENT) == RESERVE
    return RunnerListing(
        name=name_of(machine),
        pool=own.get(POOL, ""),
        state=f"{RESERVE}, {state}" if in_reserve else state,
        started=time_of(machine, "created_at") or None,
        where=" ".join(filter(None, (machine.get("region"), machine.get("id")))),
    )

"""Who drives a cluster: its first driver, or one that has taken its place; pure (all places).

All machines name the driver that has created them. A process that becomes the driver writes a mark
into the metadata of the scheduler's machine, before it changes anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dask_flame.backends.fly.api.client import metadata_of
from dask_flame.backends.fly.api.types import Machine
from dask_flame.backends.fly.metadata import (
    COMPONENT,
    DRIVER,
    OWNER,
    PROCESS,
    SCHEDULER,
    Identity,
)


@dataclass(frozen=True)
class DriverMark:
    """The mark of a driver that has taken over a cluster.

    Attributes
    ----------
    id : str
        A unique id; empty for the first driver, which leaves no mark.
    owner, process : str
        See :class:`Identity`.
    since : float
        Unix time by the clock of the API.
    """

    id: str = ""
    owner: str = ""
    process: str = ""
    since: float = 0.0


def mark_text(id: str, identity: Identity, since: float) -> str:
    """Return the mark of a driver, as text."""
    return f"{id} {identity.owner} {identity.process} {since:.0f}"


def mark_in(metadata: Mapping[str, str]) -> DriverMark:
    """Return the mark in the metadata of a scheduler's machine.

    Examples
    --------
    >>> mark_in({DRIVER: "3f me@laptop:7 2f1e:7:4567 60"}).owner, mark_in({}).id
    ('me@laptop:7', '')
    """
    parts = metadata.get(DRIVER, "").split(" ")
    if len(parts) != 4 or not parts[3].isdecimal():
        return DriverMark()
    id, owner, process, since = parts
    return DriverMark(id, owner, process, float(since))


def scheduler_of(machines: Iterable[Machine]) -> Machine | None:
    """Return the machine of a cluster's scheduler, if its process runs."""
    for machine in machines:
        if metadata_of(machine).get(COMPONENT) == SCHEDULER and machine.get("state") == "started":
            return machine
    return None


def present(machines: Iterable[Machine]) -> dict[str, str]:
    """Return the metadata by which the present driver of a cluster is known.

    Parameters
    ----------
    machines : iterable of Machine
        All machines of the cluster.
    """
    everything = [metadata_of(machine) for machine in machines]
    for own in everything:
        if (mark := mark_in(own)).id:
            return {OWNER: mark.owner, PROCESS: mark.process}
    return next((dict(own) for own in everything if OWNER in own), {})


def taken_over_at(machines: Iterable[Machine]) -> float:
    """Return when the present driver took over, as Unix time; 0 for the first one."""
    return max((mark_in(metadata_of(machine)).since for machine in machines), default=0.0)

"""Choose the host of a runner; pure (driver)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from dask_flame.backends.specs import MostRunners, RunnerSpec
from dask_flame.backends.ssh.claims import Capacity, Need, Taken
from dask_flame.backends.ssh.hosts import HostSpec
from dask_flame.backends.ssh.launch import need

#: Hosts that are named where the default of `max` comes from.
_NAMED = 8


class Place(Protocol):
    """A host, as its runners have left it."""

    @property
    def host(self) -> HostSpec: ...
    @property
    def capacity(self) -> Capacity: ...
    def taken(self) -> Taken: ...


def choose(spec: RunnerSpec, places: Iterable[Place], *, keep_gpus: bool = False) -> Place | None:
    """Return the host with the most room for a runner; None if none has any.

    Parameters
    ----------
    spec : RunnerSpec
    places : iterable of Place
    keep_gpus : bool, default False
        Whether runners without GPUs go to hosts without GPUs, as long as these have room.
    """
    best: tuple[bool, float] | None = None
    chosen: Place | None = None
    for place in places:
        wants, taken = need(spec, place.host, place.capacity), place.taken()
        if place.capacity.why_never(wants) or place.capacity.why_not(wants, taken):
            continue
        keep = keep_gpus and bool(place.capacity.gpus) and not wants.gpus
        rank = (keep, _use(wants, taken, place.capacity))
        if best is None or rank < best:
            best, chosen = rank, place
    return chosen


def _use(wants: Need, taken: Taken, capacity: Capacity) -> float:
    """Return how much of what a runner needs would be taken, of 1."""
    after = taken.plus(wants)
    if wants.gpus:
        return after.gpus / len(capacity.gpus)
    return max(after.cpus / max(capacity.cpus, 1e-9), after.runners / (capacity.slots or 1e9))


def why_never(spec: RunnerSpec, places: Sequence[Place]) -> str:
    """Return why no host could ever take a runner; empty if one could."""
    reasons = []
    for place in places:
        why = place.capacity.why_never(need(spec, place.host, place.capacity))
        if not why:
            return ""
        reasons.append(f"{place.host.name}: {why}")
    return "; ".join(reasons)


def why_full(spec: RunnerSpec, places: Iterable[Place]) -> str:
    """Return what there is too little of on each host, for a runner."""
    reasons = []
    for place in places:
        wants = need(spec, place.host, place.capacity)
        why = place.capacity.why_never(wants) or place.capacity.why_not(wants, place.taken())
        reasons.append(f"{place.host.name}: {why or 'it has room'}")
    return "; ".join(reasons)


def most(spec: RunnerSpec, places: Sequence[Place], away: Sequence[str] = ()) -> MostRunners:
    """Return how many such runners the hosts hold, if they have no other ones.

    Parameters
    ----------
    spec : RunnerSpec
    places : sequence of Place
        The hosts that are connected.
    away : sequence of str, default ()
        The names of the others, which hold none.
    """
    held = {p.host.name: p.capacity.most(need(spec, p.host, p.capacity)) for p in places}
    words = [f"{name} holds {number}" for name, number in held.items()]
    words += [f"{name} is away" for name in away]
    if len(words) > _NAMED:
        words[_NAMED:] = [f"and {len(words) - _NAMED} more hosts"]
    return MostRunners(sum(held.values()), ", ".join(words))


def capacity_of(host: HostSpec, said: Mapping[str, Any]) -> Capacity:
    """Return what a host has for runners: what the user has said, else what was found out."""
    gpus = tuple(said["gpus"])
    if host.gpus is not None:
        gpus = tuple(map(str, range(host.gpus))) if host.gpus > len(gpus) else gpus[: host.gpus]
    return Capacity(
        slots=host.slots or 0,
        cpus=float(said["cpus"] if host.cpus is None else host.cpus),
        memory=said["memory"] if host.memory is None else host.memory,
        gpus=gpus,
    )

"""Choose an instance of an application for front ends that show a list (driver)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from dask_flame.attached.client.application import Application
from dask_flame.attached.client.attaching import attach
from dask_flame.attached.client.found import find
from dask_flame.attached.places import Instance, instances


@dataclass(frozen=True)
class Choice:
    """An application, or one of its instances.

    Attributes
    ----------
    application : str
    instance : int
        Process id; 0: any.
    title : str
        What a list says of it.
    """

    application: str
    instance: int
    title: str


def choices() -> list[Choice]:
    """Return what runs now: each application, and the instances of those that have several."""
    found = []
    for name, several in groupby(instances(), key=lambda one: one.application):
        pids = [one.pid for one in several]
        if len(pids) == 1:
            found.append(Choice(name, 0, name))
            continue
        found.append(Choice(name, 0, f"{name}: any of {len(pids)} processes"))
        found += [Choice(name, pid, f"{name}: process {pid}") for pid in pids]
    return found


def choose(name: str, instance: int = 0) -> Instance:
    """Return an instance that runs.

    Parameters
    ----------
    name : str
    instance : int, default 0
        Process id; 0: the first, if there are several.

    Raises
    ------
    AttachError
        There is none.
    """
    there = [] if instance else instances(name)
    return there[0] if there else find(name, instance or None)


def attach_to(name: str, instance: int = 0) -> Application:
    """Attach to an instance, as :func:`choose` returns it; the name may say where it runs."""
    if "@" in name:
        return attach(name, instance=instance or None)
    return attach(name, instance=choose(name, instance).pid)

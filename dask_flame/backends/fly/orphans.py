"""Tell the machines whose drivers have ended from the others; pure (command line)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dask_flame.backends.fly.api.client import events_of, metadata_of
from dask_flame.backends.fly.api.types import Machine
from dask_flame.backends.fly.machine_state import BEFORE, ENDED, is_gone
from dask_flame.backends.fly.metadata import (
    ALIVE,
    ALIVE_WITHIN,
    COMPONENT,
    OWNER,
    RESERVE,
    owner_of,
    process_of,
)

#: Seconds after which a machine that has not started yet is waited for by no driver, as far as can
#: be told from elsewhere.
UNSTARTED_WITHIN = 3600.0


@dataclass(frozen=True)
class Observer:
    """Who looks at the machines, and what it knows of drivers.

    Attributes
    ----------
    computer : str
        See :func:`dask_flame.backends.fly.metadata.computer`.
    began : callable
        Returns when the process with a number began, on this computer; empty if there is none.
    machines : mapping of str to Machine
        Machines of the app, by id: drivers may be in them.
    """

    computer: str
    began: Callable[[int], str]
    machines: Mapping[str, Machine]

    def driver_lives(self, own: Mapping[str, str], since: float) -> bool | None:
        """Return whether a driver lives; None if that cannot be told from here.

        Parameters
        ----------
        own : mapping of str to str
            The metadata of one of its machines.
        since : float
            Unix time, by the clock of the API: the driver lived then.
        """
        computer, process, begun = process_of(own)
        if process and computer == self.computer:
            return self.began(process) == begun
        user, host, _ = owner_of(own)
        if user == "fly" and host in self.machines:
            machine = self.machines[host]
            # A suspended machine goes on with all its processes.
            if is_gone(machine) or machine.get("state") in ENDED - {"suspended"}:
                return False
            if (_last_start(machine) or 0.0) > since:
                return False  # it has started again since, without its processes of then
        return None


def why_orphan(machine: Machine, lives: bool | None, now: float, wall: float) -> str:
    """Return why a machine has no driver any more; empty if it has one, or if it may have one.

    A machine that runs ends by itself when it has lost its scheduler. So one that runs is evidence
    of its driver, unless it is known that the driver has ended.

    Parameters
    ----------
    machine : Machine
    lives : bool or None
        Whether its driver lives, see :meth:`Observer.driver_lives`.
    now : float
        Unix time, by the clock of the API.
    wall : float
        Unix time, by the clock of this computer.
    """
    own, state = metadata_of(machine), machine.get("state") or ""
    if is_gone(machine) or lives:
        return ""
    if lives is False:
        return f"its driver, {own.get(OWNER)}, has ended"
    if own.get(COMPONENT) == RESERVE:
        silent = wall - _number(own.get(ALIVE))
        return _silent(silent) if silent > ALIVE_WITHIN and state in (*BEFORE, *ENDED) else ""
    silent = now - time_of(machine, "updated_at")
    if state in ENDED and silent > ALIVE_WITHIN:
        return f"it has been {state} for {_long(silent)}, and its driver has not removed it"
    if state in BEFORE and silent > UNSTARTED_WITHIN:
        return f"it has been {state} for {_long(silent)}, and its driver has not removed it"
    return ""


def alive(machines: Sequence[Machine], wall: float) -> bool:
    """Return whether one of a cluster's machines says that its driver has lived recently."""
    said = (_number(metadata_of(one).get(ALIVE)) for one in machines)
    return any(wall - when <= ALIVE_WITHIN for when in said)


def time_of(machine: Machine, name: str) -> float:
    """Return one of a machine's times, ``created_at`` or ``updated_at``, as Unix time.

    Examples
    --------
    >>> time_of({"created_at": "1970-01-01T00:01:00Z"}, "created_at")
    60.0
    """
    try:
        return datetime.fromisoformat(str(machine.get(name))).timestamp()
    except ValueError:
        return 0.0


def _last_start(machine: Machine) -> float | None:
    for event in events_of(machine):
        if event.get("type") == "start" and event.get("status") == "started":
            return (event.get("timestamp") or 0) / 1000
    return None


def _silent(seconds: float) -> str:
    return f"it is in reserve, and its driver has not said for {_long(seconds)} that it lives"


def _long(seconds: float) -> str:
    """Return a duration in whole minutes or hours.

    Examples
    --------
    >>> _long(700), _long(9000)
    ('11m', '2h')
    """
    minutes = int(seconds // 60)
    return f"{minutes}m" if minutes < 120 else f"{minutes // 60}h"


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0

"""Find out whether the driver and the hosts can connect to each other (driver)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dask_flame.backends.ssh.machine import Machine


async def can_all_reach(machines: Sequence[Machine]) -> bool:
    """Return whether the driver and all hosts can connect to any port of each other."""
    return False


def own_address(machines: Iterable[Machine]) -> str:
    """Return where a scheduler listens that hosts connect to directly."""
    own = {machine.peer[0] for machine in machines}
    return own.pop() if len(own) == 1 else "0.0.0.0"

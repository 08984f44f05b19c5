"""Pass the connection of a notebook on to the runner that it attaches to (scheduler)."""

from __future__ import annotations

import contextlib
from typing import Any

from distributed import Scheduler
from distributed.comm import Comm, CommClosedError, connect

from dask_flame.core.client_ids import ONLY_LOOKS, is_observer
from dask_flame.core.messages import ATTACH
from dask_flame.core.tunnel import until_one_ends

#: Seconds for the connection to a runner.
_WITHIN = 10.0


async def attach_to(
    scheduler: Scheduler, comm: Comm, name: str, options: dict[str, Any], client: str
) -> None:
    """Connect a notebook with a runner, until one of them closes.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    comm : distributed.comm.Comm
        The notebook's; closed at the end.
    name : str
        The runner.
    options : dict
        For the runner.
    client : str
        The id of the notebook's client; empty if it has attached through its cluster.
    """
    if is_observer(client):
        await _refuse(comm, f"a cell in {name} {ONLY_LOOKS}")
        return
    address = scheduler.aliases.get(name, "")
    if address not in scheduler.workers:
        there = ", ".join(sorted(map(str, scheduler.aliases))) or "none"
        await _refuse(comm, f"there is no runner {name} that is up; there are: {there}")
        return
    try:
        other = await connect(address, timeout=_WITHIN, **scheduler.connection_args)
    except OSError as error:
        await _refuse(comm, f"{name} cannot be reached: {error}")
        return
    try:
        await other.write({"op": ATTACH, "reply": False, **options})
        await until_one_ends(_pass(comm, other), _pass(other, comm))
    except (OSError, CommClosedError):
        pass
    finally:
        other.abort()
        comm.abort()


async def _refuse(comm: Comm, why: str) -> None:
    with contextlib.suppress(OSError):
        await comm.write({"failed": why})
        await comm.close()


async def _pass(source: Comm, target: Comm) -> None:
    with contextlib.suppress(OSError, CommClosedError):
        while True:
            await target.write(await source.read())

"""Destroy machines, and verify that they are gone (driver)."""

from __future__ import annotations

import asyncio

from dask_flame.backends.fly.api.client import FlyApi
from dask_flame.backends.fly.api.errors import FlyError
from dask_flame.backends.fly.machine_state import GONE, is_gone
from dask_flame.backends.fly.metadata import CLUSTER
from dask_flame.core.backoff import Backoff

#: First and longest pause in seconds between two looks at a machine that is being destroyed.
_FIRST, _LONGEST = 0.2, 2.0
#: Seconds for which Fly may take to destroy one before it is told again.
_TOLD_AGAIN = 10.0


async def destroy(api: FlyApi, id: str) -> None:
    """Destroy a machine by force, in whatever state it is; return when it is gone.

    Raises
    ------
    FlyError
        If Fly cannot be reached, or refuses it.
    """
    loop = asyncio.get_running_loop()
    backoff = Backoff(_FIRST, _LONGEST)
    told = float("-inf")
    while True:
        if loop.time() > told + _TOLD_AGAIN:
            told = loop.time()
            try:
                if not await api.destroy(id):
                    return
            except FlyError as error:
                if not error.conflict:  # it is changing its state just now
                    raise
                told = float("-inf")
        try:
            machine = await api.get(id)
        except FlyError as error:
            if error.gone:
                return
            raise
        if is_gone(machine):
            return
        if machine.get("state") not in GONE and told < loop.time() - _LONGEST:
            told = float("-inf")  # it has survived
        await asyncio.sleep(backoff.next_with_jitter())


async def remove_cluster(api: FlyApi, cluster: str) -> None:
    """Destroy all machines of a cluster, until there are none.

    Raises
    ------
    FlyError
        If some are left: the first reason.
    """
    while found := [m for m in await api.list_machines({CLUSTER: cluster}) if not is_gone(m)]:
        work = (destroy(api, machine["id"]) for machine in found)
        for result in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

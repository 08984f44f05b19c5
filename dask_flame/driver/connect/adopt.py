"""Become the driver of a running cluster whose driver is gone (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from distributed import Security
from distributed.comm import connect as connect_to

from dask_flame.backends.registry import find_backend
from dask_flame.core.connection import this_process, unseal
from dask_flame.core.messages import ADOPT
from dask_flame.driver.cluster import FlameCluster
from dask_flame.driver.connect.entrance import Door
from dask_flame.driver.connect.handover import Handover, unpacked
from dask_flame.driver.hosts.base import Adopted
from dask_flame.errors import BackendError


class AdoptedCluster(FlameCluster):
    """A FlameCluster that continues that of an earlier driver.

    Parameters
    ----------
    adopted : Adopted
    handover : Handover
    backend : str or callable
    places : mapping of str to str
        The options ``namespace`` and ``context`` that were given.
    """

    def __init__(
        self,
        adopted: Adopted,
        handover: Handover,
        *,
        backend: Any,
        places: Mapping[str, str],
    ) -> None:
        self._adopted = adopted
        self._handed_over = handover
        super().__init__(
            **handover.options,
            backend=backend,
            scheduler="pod",
            security=Security(**adopted.connection.security),
            namespace=places.get("namespace"),
            context=places.get("context"),
        )

    def _token(self) -> str | None:
        return self._handed_over.token

    def _seed_of_hashes(self) -> str:
        return self._handed_over.hash_seed

    async def _start_files(self) -> None:
        # The scheduler has them, whatever they are on this machine by now.
        self._stack.callback(self._files.close)
        self._files.plan = dict(self._handed_over.files)


async def claim(
    stack: contextlib.AsyncExitStack, door: Door, *, timeout: float
) -> tuple[Adopted, Handover]:
    """Claim the place of the driver until `stack` closes, or until it has connected.

    Raises
    ------
    BackendError
        There is a driver, or the cluster cannot have another one.
    """
    cluster, info = door.cluster, door.entrance.connection
    if not info.key:
        raise BackendError(_local(door))
    if not getattr(find_backend(door.backend), "adopts", False):
        raise BackendError(
            f"a cluster of backend={door.backend!r} cannot have another driver; connect("
            f'"{cluster.name}", backend="{door.backend}") observes it'
        )
    adopted = Adopted(cluster=cluster.id, driver=secrets.token_hex(8), connection=info)
    try:
        async with asyncio.timeout(timeout):
            comm = await connect_to(door.entrance.address, timeout=timeout, **door.connection_args)
            stack.callback(comm.abort)
            me = {"proof": info.proof, "driver": adopted.driver, "who": this_process()}
            await comm.write({"op": ADOPT, "reply": False, **me})
            answer = await comm.read()
    except OSError as error:
        raise BackendError(
            f"the scheduler of {cluster.id} does not answer, so it has ended, or is about to: "
            f"{str(error) or type(error).__name__} ({_clock()}); a cluster ends disconnect_grace "
            "after its driver"
        ) from error
    if answer["refused"]:
        raise BackendError(
            f"{cluster.id} cannot be adopted: {answer['refused']}; it can be observed: "
            f'dask_flame.connect("{cluster.name}")'
        )
    return adopted, unpacked(unseal(info.key, answer["handover"]))


def _local(door: Door) -> str:
    cluster = door.cluster
    return (
        f"{cluster.id} cannot be adopted: its scheduler is in its driver, {cluster.driver}, and "
        "ends with it. Only a scheduler in a process of its own outlives its driver: write "
        'FlameCluster(backend="kubernetes", scheduler="pod", disconnect_grace="10m")'
    )


def _clock() -> str:
    return datetime.fromtimestamp(time.time()).strftime("%H:%M:%S")

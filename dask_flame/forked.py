"""A fork of the driver: it says that the cluster is not its own, and leaves it alone (driver).

A child that was made by ``os.fork`` has the cluster and its Clients as they were in its parent, but
not the thread that runs them: to use them would hang, and to end them would end the parent's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

import distributed.utils
from distributed import Client

from dask_flame.errors import ForkedError

if TYPE_CHECKING:
    from dask_flame.cluster import FlameCluster


def clients_of(cluster: FlameCluster) -> Iterator[Client]:
    """The Clients of a cluster in this process; by a private name, as there is no other way."""
    for client in list(Client._instances):
        if client.cluster is cluster:
            yield client


def leave_alone(clusters: Iterable[FlameCluster]) -> None:
    """Have these clusters, in a child that was forked, do nothing but say so."""
    # Its thread stays in the parent, too, and what a cluster made here gives it would wait for
    # ever. Private, as is all that distributed has of it.
    distributed.utils._offload_executor = ThreadPoolExecutor(1, "Dask-Offload")
    for cluster in clusters:
        cluster.forked_from = os.getppid()
        for client in list(Client._instances):
            if client.cluster is cluster or _address(client) == cluster.scheduler_address:
                _cut_off(client, cluster)
        for server in (getattr(cluster, "scheduler", None), *_workers(cluster)):
            _keep_folder(server)


def refuse(cluster: FlameCluster) -> NoReturn:
    """Say that this process cannot use its parent's cluster, and what it can do.

    Raises
    ------
    ForkedError
    """
    raise ForkedError(
        f"process {os.getpid()} was forked from the one that has cluster {cluster.name}, and "
        "cannot use it, as its threads and connections stay there; to use it from here, write "
        f"Client({cluster.scheduler_address!r}), or make a FlameCluster here"
    )


def _cut_off(client: Client, cluster: FlameCluster) -> None:
    def refused(*args: Any, **kwargs: Any) -> NoReturn:
        refuse(cluster)

    # All that it does goes through one of these two, the second of which is private.
    client.sync = refused
    client._send_to_scheduler = refused
    client.status = "closed"  # so that it is not the default one, and is not closed at exit


def _address(client: Client) -> str | None:
    return None if client.scheduler is None else str(client.scheduler.address)


def _workers(cluster: FlameCluster) -> list[Any]:
    home = getattr(cluster, "home", None)
    return [] if home is None else [home.worker]


def _keep_folder(server: Any) -> None:
    """Have a server's folder not removed when this process exits; by private names of Dask."""
    with contextlib.suppress(AttributeError):
        server._workdir._finalizer.detach()

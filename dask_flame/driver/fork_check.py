"""Protect the cluster from use in a fork of the driver (driver).

A child process of ``os.fork`` has copies of the cluster and its Clients, but not the thread that
runs them. Using them would hang, and closing them would close the parent's cluster.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, Protocol

from distributed import Client
from distributed.diskutils import WorkDir

from dask_flame.backends.base import Backend
from dask_flame.core import distributed_internals as internals
from dask_flame.errors import ForkedError


class Forkable(Protocol):
    """A cluster of which a forked process has a copy.

    Attributes
    ----------
    name : str
    backend : Backend
    scheduler_address : str
    """

    backend: Backend
    _loop_runner: Any

    @property
    def name(self) -> str: ...

    @property
    def scheduler_address(self) -> str: ...


def clients_of(cluster: object) -> Iterator[Client]:
    """Yield the Clients of a cluster in this process."""
    for client in internals.clients():
        if client.cluster is cluster:
            yield client


def leave_alone(clusters: Iterable[Forkable]) -> None:
    """Detach a forked process from these clusters; their Clients then raise ForkedError."""
    # The thread of this executor also stays in the parent: work of a cluster made here would hang.
    internals.renew_offload_executor(ThreadPoolExecutor(1, "Dask-Offload"))
    _keep_folders()
    for cluster in clusters:
        with contextlib.suppress(Exception):  # errors of a backend
            cluster.backend.forked()
        with contextlib.suppress(Exception):
            _let_go_of_connections(cluster)
        for client in internals.clients():
            if client.cluster is cluster or _address(client) == cluster.scheduler_address:
                _cut_off(client, cluster)


def refuse(cluster: Forkable) -> NoReturn:
    """Raise the error for the use of the parent's cluster.

    Raises
    ------
    ForkedError
    """
    raise ForkedError(
        f"process {os.getpid()} was forked from the one that has cluster {cluster.name}, and "
        "cannot use it, as its threads and connections stay there; to use it from here, write "
        f"Client({cluster.scheduler_address!r}), or make a FlameCluster here"
    )


def _cut_off(client: Client, cluster: Forkable) -> None:
    def refused(*args: Any, **kwargs: Any) -> NoReturn:
        refuse(cluster)

    # All methods of a Client use one of these two.
    internals.replace(client, "sync", refused)
    internals.replace(client, "_send_to_scheduler", refused)
    client.status = "closed"  # it is not the default client, and is not closed at exit


def _address(client: Client) -> str | None:
    return None if client.scheduler is None else str(client.scheduler.address)


def _keep_folders() -> None:
    """Keep the folders of the parent's servers when this process exits.

    Uses a private name of :mod:`weakref`, as a cluster does not know all servers of its process.
    """
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        what = finalizer.peek()
        if what is not None and isinstance(what[0], WorkDir):
            finalizer.detach()


def _let_go_of_connections(cluster: Forkable) -> None:
    """Close this process's copies of the parent's sockets, so that they end with the parent.

    The file descriptors are redirected to the null device rather than closed, as Python objects
    still refer to them. They are found through a private name of asyncio in the cluster's event
    loop, if Dask started it.
    """
    own = internals.own_loop(cluster)
    if own is None:
        return  # the user's event loop
    loop: Any = own.asyncio_loop
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        for descriptor in list(loop._selector.get_map()):
            os.dup2(nowhere, descriptor, inheritable=False)
    finally:
        os.close(nowhere)

"""A fork of the driver: it says that the cluster is not its own, and leaves it alone (driver).

A child that was made by ``os.fork`` has the cluster and its Clients as they were in its parent, but
not the thread that runs them: to use them would hang, and to end them would end the parent's.
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
    """A cluster that a process which was forked from its driver has as well.

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
    """Let go of these clusters in a child that was forked: their Clients say so when used."""
    # Its thread stays in the parent, too, and what a cluster made here gives it would wait for
    # ever.
    internals.renew_offload_executor(ThreadPoolExecutor(1, "Dask-Offload"))
    _keep_folders()
    for cluster in clusters:
        with contextlib.suppress(Exception):  # of a backend
            cluster.backend.forked()
        with contextlib.suppress(Exception):
            _let_go_of_connections(cluster)
        for client in internals.clients():
            if client.cluster is cluster or _address(client) == cluster.scheduler_address:
                _cut_off(client, cluster)


def refuse(cluster: Forkable) -> NoReturn:
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


def _cut_off(client: Client, cluster: Forkable) -> None:
    def refused(*args: Any, **kwargs: Any) -> NoReturn:
        refuse(cluster)

    # All that it does goes through one of these two.
    internals.replace(client, "sync", refused)
    internals.replace(client, "_send_to_scheduler", refused)
    client.status = "closed"  # so that it is not the default one, and is not closed at exit


def _address(client: Client) -> str | None:
    return None if client.scheduler is None else str(client.scheduler.address)


def _keep_folders() -> None:
    """Have no folder of the parent's servers removed when this process exits.

    By a private name of :mod:`weakref`: who is about to open home, say, is not known to a cluster.
    """
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        what = finalizer.peek()
        if what is not None and isinstance(what[0], WorkDir):
            finalizer.detach()


def _let_go_of_connections(cluster: Forkable) -> None:
    """Have the parent's connections and ports end with the parent, though this process goes on.

    Their numbers stay taken, as objects that have them are still there. Those that are known are
    what the cluster's event loop listens to, if that is Dask's own, of which the thread is not in
    this process: by a private name of asyncio.
    """
    own = internals.own_loop(cluster)
    if own is None:
        return  # it is the user's
    loop: Any = own.asyncio_loop
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        for descriptor in list(loop._selector.get_map()):
            os.dup2(nowhere, descriptor, inheritable=False)
    finally:
        os.close(nowhere)

"""The open clusters of this process: close them at exit, detach them in a fork (driver)."""

from __future__ import annotations

import atexit
import contextlib
import os
import weakref
from typing import Any, Protocol

from distributed import Status

from dask_flame.driver.fleets import PoolFleets
from dask_flame.driver.fork_check import Forkable, leave_alone


class OpenCluster(Forkable, Protocol):
    """A cluster of this process, or a copy of the parent's.

    Attributes
    ----------
    forked_from : int or None
        In a process forked from the driver: the driver's process ID.
    """

    fleets: PoolFleets
    forked_from: int | None
    status: Status
    _made_by: int | None

    @property
    def called_from_running_loop(self) -> bool: ...

    def close(self, timeout: Any = None) -> Any: ...


_open: weakref.WeakSet[OpenCluster] = weakref.WeakSet()


def add(cluster: OpenCluster) -> None:
    """Close a cluster when this process ends, unless it is removed before."""
    _open.add(cluster)


def remove(cluster: OpenCluster) -> None:
    """Forget a cluster that has closed."""
    _open.discard(cluster)


def open_clusters() -> list[OpenCluster]:
    """Return the clusters of this process that have not closed."""
    return [
        cluster
        for cluster in list(_open)
        if cluster._made_by == os.getpid() and cluster.status is not Status.closed
    ]


def _forked() -> None:
    global _open
    clusters = list(_open)
    if not clusters:
        return
    _open = weakref.WeakSet()
    for cluster in clusters:
        cluster.forked_from = os.getppid()
    with contextlib.suppress(Exception):  # the caller of os.fork could not catch it
        leave_alone(clusters)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@atexit.register
def _close_all() -> None:
    for cluster in list(_open):
        if cluster._made_by != os.getpid():
            continue  # it belongs to the parent process
        with contextlib.suppress(Exception):
            # The loop of an asynchronous cluster no longer runs; the backends' own safeguards end
            # its runners when this process ends.
            if not cluster.called_from_running_loop:
                longest = max(fleet.pool.shutdown_timeout for _, fleet in cluster.fleets)
                cluster.close(timeout=10 + longest)

"""Give clients in the driver access to the reports of their FlameCluster (driver)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from tornado.ioloop import IOLoop

from dask_flame.driver.hosts.base import SchedulerHost
from dask_flame.reports.scheduler.store import ReportStore


class ClusterReports:
    """The report source of a FlameCluster.

    This is a :class:`~dask_flame.reports.driver.replica.Source`.

    Parameters
    ----------
    store : ReportStore
    host : SchedulerHost or None
        None before the cluster has started.
    loop : callable
        Returns the cluster's event loop.
    """

    def __init__(
        self, store: ReportStore, host: SchedulerHost | None, loop: Callable[[], IOLoop]
    ) -> None:
        self._store = store
        self._host = host
        self._loop = loop

    @property
    def store(self) -> ReportStore:
        return self._store

    async def caught_up(self) -> None:
        """Wait until the store has all reports of calls that are known to have ended."""
        host, loop = self._host, self._loop().asyncio_loop
        if host is not None:
            # A client may use another event loop than its cluster.
            with contextlib.suppress(RuntimeError, OSError):
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(host.caught_up(), loop))

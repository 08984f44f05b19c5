"""The reports of a FlameCluster of this process, for its clients (driver)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from dask_flame.reports.scheduler.store import ReportStore

if TYPE_CHECKING:
    from dask_flame.driver.cluster import FlameCluster


class ClusterReports:
    """The store of a FlameCluster; a :class:`~dask_flame.reports.driver.replica.Source`.

    Parameters
    ----------
    cluster : FlameCluster
    """

    def __init__(self, cluster: FlameCluster) -> None:
        self._cluster = cluster

    @property
    def store(self) -> ReportStore:
        return self._cluster.reports

    async def caught_up(self) -> None:
        """Wait until all is in the store that calls had reported whose end is known here."""
        seat, loop = self._cluster._seat, self._cluster.loop.asyncio_loop
        if seat is not None:
            # A client's event loop may be another one than its cluster's.
            with contextlib.suppress(RuntimeError, OSError):
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(seat.told(), loop))

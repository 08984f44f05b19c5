"""The lease: who keeps whom alive (scheduler).

A cluster lives for its drivers. When the last one's connection is gone and none has come back
within the grace, the lease lapses and everything ends. A plain Dask plugin, usable on any cluster::

    client.register_plugin(dask_flame.Lease("30s"))
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from distributed import Scheduler, SchedulerPlugin

from dask_flame import config
from dask_flame.checks import Duration, seconds

logger = logging.getLogger("dask_flame")


class Lease(SchedulerPlugin):
    """Ends a cluster when its last client has been gone for a while.

    Clients that calls on workers have opened do not count.

    Parameters
    ----------
    grace : duration, default "10s" (``flame.disconnect-grace``)
        How long the cluster outlives its last client. A client that comes back, or another that
        comes, within this time finds all as it was.
    first : duration, optional
        How long a cluster that never had a client may live; by default it is not limited.
    on_lapse : callable, optional
        What to do when the lease lapses, with no argument; by default the scheduler closes, and
        its workers with it.
    on_return : callable, optional
        What to do when a client comes after a lapse. Of use only with an ``on_lapse`` that leaves
        the scheduler running.

    Notes
    -----
    The scheduler sees a client's end when its connection closes. A client whose machine vanishes
    is noticed when TCP gives up: after ``distributed.comm.timeouts.tcp``, 30 s by default.
    """

    name = "flame-lease"
    idempotent = False

    def __init__(
        self,
        grace: Duration | None = None,
        *,
        first: Duration | None = None,
        on_lapse: Callable[[], None] | None = None,
        on_return: Callable[[], None] | None = None,
    ) -> None:
        self.grace = seconds("grace", config.get("disconnect-grace") if grace is None else grace)
        self.first = None if first is None else seconds("first", first)
        self.on_lapse = on_lapse
        self.on_return = on_return
        self.lapsed = False
        self._clients: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """Whether a driver is connected."""
        return bool(self._clients)

    async def start(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        # Of those that are connected: `scheduler.clients` has variables and queues as well.
        self._clients = {c for c in scheduler.client_comms if is_driver(c)}
        if not self._clients and self.first is not None:
            self._arm(self.first)

    def add_client(self, scheduler: Scheduler, client: str) -> None:
        if not is_driver(client):
            return
        self._clients.add(client)
        self._disarm()
        if self.lapsed:
            self.lapsed = False
            if self.on_return is not None:
                self.on_return()

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        self._clients.discard(client)
        if is_driver(client) and not self._clients and not self.lapsed:
            self._arm(self.grace)

    async def before_close(self) -> None:
        self._disarm()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._lapse)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _lapse(self) -> None:
        self._timer = None
        self.lapsed = True
        logger.info("the lease has lapsed: no client for %g s", self.grace)
        if self.on_lapse is not None:
            self.on_lapse()
        else:
            self._closing = asyncio.ensure_future(self.scheduler.close(reason="flame-lease-lapsed"))

    def __getstate__(self) -> dict[str, Any]:
        # What is sent to a scheduler elsewhere is the policy, not the state.
        return {**self.__dict__, "_clients": set(), "_timer": None, "_closing": None}


def is_driver(client: str) -> bool:
    """Whether a client's id, as the scheduler knows it, is that of a driver.

    ``fire-and-forget`` is the scheduler's own; ``Client-worker-…`` are clients that calls opened.
    """
    return client != "fire-and-forget" and not client.startswith("Client-worker-")

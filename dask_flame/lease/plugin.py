"""The lease: who keeps whom alive (scheduler).

A cluster lives for its drivers. When the last one's connection is gone and none has come back
within the grace, the lease lapses and everything ends. A plain Dask plugin, usable on any cluster::

    client.register_plugin(dask_flame.Lease("30s"))

or, with what ``flame.*`` says in Dask's configuration, from the command line::

    dask scheduler --preload dask_flame.lease.plugin
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from distributed import Scheduler, SchedulerPlugin

from dask_flame.core.option_checks import GRACE, Duration, function, seconds
from dask_flame.core.settings import configured
from dask_flame.core.settings import grace as configured_grace
from dask_flame.lease.client_sessions import ClientSessions
from dask_flame.lease.clients import Alarm, is_driver
from dask_flame.lease.resume import resume_clients

__all__ = ["Lease", "dask_setup", "is_driver"]

logger = logging.getLogger("dask_flame")


class Lease(SchedulerPlugin):
    """Ends a cluster when its last driver has been gone for a while; keeps its work until then.

    A driver is any Client but those that calls on workers have opened, and observers: a client
    made by ``Client(address, name="observer")`` holds no lease.

    Parameters
    ----------
    grace : duration, default "10s" (``flame.disconnect-grace``)
        How long the cluster outlives its last driver. When a driver's connection drops without
        its goodbye, what it wanted is kept for it for as long: its calls go on, and if it comes
        back within this time it finds all as it was.
    silence : duration, default "60s" (``flame.silence``)
        A client of which nothing was heard for this long (stopped, its machine gone, its link
        dead) is taken for gone: its connection is ended, and the grace begins. 0: never. In the
        scheduler this counts for clients without :func:`dask_flame.resume_clients` from three of
        Dask's own heartbeats on, 15 s or more.
    max_lifetime : duration, optional (``flame.max-lifetime``)
        When this has passed since the start, the lease lapses whatever drivers there are.
    first : duration, optional
        How long a cluster that never had a driver may live; by default it is not limited.
    on_lapse : callable, optional
        What to do when the lease lapses; takes the reason, a str. By default the scheduler closes,
        and its workers with it.
    on_return : callable, optional
        What to do when a driver comes after a lapse. Of use only with an ``on_lapse`` that leaves
        the scheduler running. Not called after ``max_lifetime``.

    Attributes
    ----------
    lapsed : bool
        Whether the lease has lapsed, and no driver has come since.
    expired : bool
        Whether ``max_lifetime`` has passed.

    Raises
    ------
    PoolError
        An option is wrong.

    Notes
    -----
    Making one lets the Clients of this process resume: see :func:`dask_flame.resume_clients`,
    which drivers in other processes call themselves. A client without it that comes back has its
    results kept, but has cancelled its own futures.

    The scheduler sees a client's end when its connection closes. A client whose machine vanishes
    is noticed when TCP gives up (``distributed.comm.timeouts.tcp``, 30 s by default) or after
    ``silence``. The time during which the scheduler's own process was stopped counts for neither.
    """

    name = "flame-lease"
    idempotent = False

    def __init__(
        self,
        grace: Duration | None = None,
        *,
        silence: Duration | None = None,
        max_lifetime: Duration | None = None,
        first: Duration | None = None,
        on_lapse: Callable[[str], None] | None = None,
        on_return: Callable[[], None] | None = None,
    ) -> None:
        said = configured_grace("grace", grace)
        self.grace = GRACE if said is None else said
        self.silence = configured("silence") if silence is None else seconds("silence", silence)
        self.max_lifetime = (
            configured("max-lifetime")
            if max_lifetime is None
            else seconds("max_lifetime", max_lifetime, zero=False)
        )
        self.first = None if first is None else seconds("first", first)
        self.on_lapse = None if on_lapse is None else function("on_lapse", on_lapse)
        self.on_return = None if on_return is None else function("on_return", on_return)
        self.lapsed = self.expired = False
        self._clients: set[str] = set()
        self._timer: Alarm | None = None
        self._end: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self._keeper: ClientSessions | None = None
        self._seen = self._stopped = False
        resume_clients()

    @property
    def held(self) -> bool:
        """Whether a driver is connected."""
        return bool(self._clients)

    async def start(self, scheduler: Scheduler) -> None:
        if self._keeper is not None and not self._stopped:
            return  # distributed starts what a preload has registered and started once more
        self._stopped = self._seen = False
        self.scheduler = scheduler
        others = [p for p in scheduler.plugins.values() if isinstance(p, Lease) and p is not self]
        # One that is registered anew replaces the old, of which distributed tells nobody.
        records = others[0].stop(replaced=True) if others else None
        self._keeper = ClientSessions(
            scheduler,
            grace=self.grace,
            silence=self.silence,
            on_drop=self._left,
            in_force=self._in_force,
        )
        self._keeper.start(records)
        # Of those that are connected: `scheduler.clients` has variables and queues as well.
        self._clients = {c for c in scheduler.client_comms if is_driver(c)}
        if not self._clients and others:
            self._arm(self.grace, self._gone)
        elif not self._clients and self.first is not None:
            self._arm(self.first, f"no client came within first={self.first:g} s")
        if self.max_lifetime is not None:
            loop = asyncio.get_running_loop()
            self._end = loop.call_later(self.max_lifetime, self._expire, self.max_lifetime)

    def stop(self, *, replaced: bool = False) -> Any:
        """End what this started and leave the scheduler as it was; safe to call twice."""
        self._stopped = True
        self._disarm()
        if self._end is not None:
            self._end.cancel()
            self._end = None
        return self._keeper.stop(release=not replaced) if self._keeper is not None else {}

    def add_client(self, scheduler: Scheduler, client: str) -> None:
        if self._keeper is not None:
            self._keeper.arrived(client)
        if not is_driver(client):
            return
        self._clients.add(client)
        if self.expired:
            return
        self._disarm()
        if self.lapsed:
            self.lapsed = False
            if self.on_return is not None:
                self.on_return()

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        if self._keeper is not None:
            self._keeper.gone(client)
        self._left(client)

    async def before_close(self) -> None:
        self.stop()
        if self._keeper is not None:
            await self._keeper.part()

    @property
    def _gone(self) -> str:
        return f"no client for disconnect_grace={self.grace:g} s"

    def _left(self, client: str) -> None:
        # Once for each: one whose grace is over was already counted out when its connection fell.
        if client in self._clients:
            self._clients.discard(client)
            if not self._clients and not self.lapsed and not self._stopped:
                self._arm(self.grace, self._gone)

    def _in_force(self) -> bool:
        there = any(plugin is self for plugin in self.scheduler.plugins.values())
        self._seen = self._seen or there
        gone = self._seen and not there
        if gone and not self._stopped:
            self.stop()
        return not gone

    def _arm(self, delay: float, reason: str) -> None:
        self._disarm()
        self._timer = Alarm(delay, lambda: self._lapse(reason))

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self, after: float) -> None:
        self.expired = True
        self._disarm()
        self._lapse(f"max_lifetime={after:g} s has passed")

    def say_last(self, reason: str) -> None:
        """Tell the drivers that all ends now, though they are there: what they wait for fails."""
        if self._keeper is not None:
            self._keeper.say_last(
                f"The cluster has ended: {reason}, after which it ends whatever runs. Make one "
                'with a longer one, such as max_lifetime="8h", or without, and run it again there.'
            )

    def _lapse(self, reason: str) -> None:
        if not self._in_force():
            return
        self._timer = None
        self.lapsed = True
        logger.info("the lease has lapsed: %s", reason)
        if self.on_lapse is not None:
            self.on_lapse(reason)
        else:
            if self.expired:
                self.say_last(reason)
            self._closing = asyncio.ensure_future(self.scheduler.close(reason="flame-lease-lapsed"))

    def __getstate__(self) -> dict[str, Any]:
        # What is sent to a scheduler elsewhere is the policy, not the state.
        state = dict.fromkeys(("_timer", "_end", "_closing", "_keeper"))
        return {**self.__dict__, **state, "_clients": set(), "_seen": False}


async def dask_setup(scheduler: Scheduler) -> None:
    """As a preload of ``dask scheduler``; takes what ``flame.*`` says in Dask's configuration."""
    if not isinstance(scheduler, Scheduler):
        raise TypeError(
            f"--preload dask_flame.lease is for the scheduler, not for a {type(scheduler).__name__}"
        )
    await scheduler.register_scheduler_plugin(Lease(), idempotent=False)

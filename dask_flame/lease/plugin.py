"""The lease, a scheduler plugin that ends a cluster without drivers (scheduler).

When the last driver's connection has ended and no driver has connected within the grace, the lease
lapses and the cluster ends. This is a plain Dask plugin, for use on any cluster::

    client.register_plugin(dask_flame.Lease("30s"))

or, with the options ``flame.*`` of Dask's configuration, from the command line::

    dask scheduler --preload dask_flame.lease.plugin
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from dask.typing import Key
from distributed import Scheduler, SchedulerPlugin

from dask_flame.core.option_checks import GRACE, Duration, function, seconds
from dask_flame.core.settings import configured
from dask_flame.core.settings import grace as configured_grace
from dask_flame.lease.client_sessions import ClientSessions
from dask_flame.lease.clients import Alarm, is_driver
from dask_flame.lease.handed_over import put_in_order
from dask_flame.lease.resume import resume_clients

__all__ = ["Lease", "dask_setup", "is_driver"]

logger = logging.getLogger("dask_flame")


class Lease(SchedulerPlugin):
    """End a cluster when its last driver has been disconnected for a while.

    Until then, keep the work of disconnected drivers. A driver is any Client except those that
    calls on workers have opened, and observers: a client made by
    ``Client(address, name="observer")`` does not hold the lease.

    Parameters
    ----------
    grace : duration, default "10s" (``flame.disconnect-grace``)
        How long the cluster outlives its last driver. If a driver's connection drops before the
        driver closes, its work is kept for the same time: its calls continue, and a driver that
        reconnects within this time finds everything as it was.
    silence : duration, default "60s" (``flame.silence``)
        A client that sends nothing for this long (it is suspended, its machine is lost, or its
        network fails) is considered lost: its connection is closed, and the grace begins. 0 means
        never. For clients without :func:`dask_flame.resume_clients`, the scheduler waits for at
        least three of Dask's heartbeats, 15 s or more.
    max_lifetime : duration, optional (``flame.max-lifetime``)
        The lease lapses when this time has passed since the start, even if drivers are connected.
    first : duration, optional
        How long a cluster may wait for its first driver; unlimited by default.
    on_lapse : callable, optional
        Called with the reason, a str, when the lease lapses. By default, the scheduler closes
        together with its workers.
    on_return : callable, optional
        Called when a driver connects after the lease has lapsed. Only useful with an ``on_lapse``
        that leaves the scheduler running. Not called after ``max_lifetime``.

    Attributes
    ----------
    lapsed : bool
        Whether the lease has lapsed, and no driver has connected since.
    expired : bool
        Whether ``max_lifetime`` has passed.

    Raises
    ------
    PoolError
        An option is wrong.

    Notes
    -----
    Creating a Lease also lets the Clients of this process resume. Drivers in other processes call
    :func:`dask_flame.resume_clients` themselves. If a client without it reconnects, its results
    have been kept, but it has cancelled its own futures.

    The scheduler notices the end of a client when its connection closes. It notices a client whose
    machine is lost when TCP times out (``distributed.comm.timeouts.tcp``, 30 s by default) or after
    ``silence``. Time during which the scheduler's own process was suspended does not count.
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
        self._sessions: ClientSessions | None = None
        self._seen = self._stopped = False
        resume_clients()

    @property
    def held(self) -> bool:
        """Whether a driver is connected."""
        return bool(self._clients)

    async def start(self, scheduler: Scheduler) -> None:
        if self._sessions is not None and not self._stopped:
            return  # distributed starts a plugin twice if a preload has registered it
        self._stopped = self._seen = False
        self.scheduler = scheduler
        others = [p for p in scheduler.plugins.values() if isinstance(p, Lease) and p is not self]
        # distributed does not notify a plugin that is replaced by one with the same name.
        records = others[0].stop(replaced=True) if others else None
        self._sessions = ClientSessions(
            scheduler,
            grace=self.grace,
            silence=self.silence,
            on_drop=self._left,
            in_force=self._in_force,
        )
        self._sessions.start(records)
        # Read the connections: `scheduler.clients` also has variables and queues.
        self._clients = {c for c in scheduler.client_comms if is_driver(c)}
        if not self._clients and others:
            self._arm(self.grace, self._gone)
        elif not self._clients and self.first is not None:
            self._arm(self.first, f"no client came within first={self.first:g} s")
        if self.max_lifetime is not None:
            loop = asyncio.get_running_loop()
            self._end = loop.call_later(self.max_lifetime, self._expire, self.max_lifetime)

    def stop(self, *, replaced: bool = False) -> Any:
        """Stop, and restore the scheduler's methods; safe to call twice."""
        self._stopped = True
        self._disarm()
        if self._end is not None:
            self._end.cancel()
            self._end = None
        return self._sessions.stop(release=not replaced) if self._sessions is not None else {}

    def add_client(self, scheduler: Scheduler, client: str) -> None:
        if self._sessions is not None:
            self._sessions.arrived(client)
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
        if self._sessions is not None:
            self._sessions.gone(client)
        self._left(client)

    def update_graph(
        self,
        scheduler: Scheduler,
        *,
        keys: set[Key],
        priority: dict[Key, tuple[int | float, ...]],
        **_: Any,
    ) -> None:
        put_in_order(scheduler, keys, priority)

    async def before_close(self) -> None:
        self.stop()
        if self._sessions is not None:
            await self._sessions.part()

    @property
    def _gone(self) -> str:
        return f"no client for disconnect_grace={self.grace:g} s"

    def _left(self, client: str) -> None:
        # A client whose grace has passed was already discarded when its connection ended.
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

    def hand_over(self, within: float) -> None:
        """Keep the work of the drivers for another process, which has become the driver.

        Parameters
        ----------
        within : float
            Seconds for its Client to connect.
        """
        if self._sessions is None or self._stopped:
            return
        self._sessions.hand_over()
        if not self._clients and not self.lapsed:
            self._arm(max(within, self.grace), self._gone)

    def say_last(self, reason: str) -> None:
        """Notify the drivers that the cluster ends while they are connected, so that calls fail."""
        if self._sessions is not None:
            self._sessions.say_last(
                f"The cluster has ended: {reason}, after which it ends whatever runs. Make one "
                'with a longer one, such as max_lifetime="8h", or without, and run it again there.'
            )

    def say_closed(self, name: str) -> None:
        """Notify the drivers that the cluster was closed, so that they do not try to reconnect."""
        if self._sessions is not None and not (self._stopped or self.expired):
            self._sessions.say_last(
                f"The cluster {name} was closed; gather results before you close a cluster."
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
        # Only the options are sent to a scheduler in another process, not the state.
        state = dict.fromkeys(("_timer", "_end", "_closing", "_sessions"))
        return {**self.__dict__, **state, "_clients": set(), "_seen": False}


async def dask_setup(scheduler: Scheduler) -> None:
    """Register a lease, as a preload of ``dask scheduler``, with the options of ``flame.*``."""
    if not isinstance(scheduler, Scheduler):
        raise TypeError(
            f"--preload dask_flame.lease is for the scheduler, not for a {type(scheduler).__name__}"
        )
    await scheduler.register_scheduler_plugin(Lease(), idempotent=False)

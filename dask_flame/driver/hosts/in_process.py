"""The host of a scheduler in the driver's process (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import dask.config
from distributed import SchedulerPlugin
from distributed.deploy.cluster import Cluster

from dask_flame.backends.specs import Ended
from dask_flame.comm.addresses import HOST, SCHEME
from dask_flame.comm.backend import register
from dask_flame.core.budget import Budget
from dask_flame.core.open_files import check_room
from dask_flame.core.own_folders import make_own, why_unsafe
from dask_flame.core.settings import configured
from dask_flame.dashboard.access import guard
from dask_flame.dashboard.deferred import install_later
from dask_flame.driver import metrics
from dask_flame.driver.control_loop import FlameAdaptive
from dask_flame.driver.dashboard_links import dashboard_link, served_at
from dask_flame.driver.dashboard_port import free_address
from dask_flame.driver.hosts.base import HostParts
from dask_flame.driver.hosts.known_runs import KnownRuns
from dask_flame.errors import BackendError
from dask_flame.lease.plugin import Lease
from dask_flame.scaling.fleet import Phase
from dask_flame.scheduler.home.home import Home
from dask_flame.scheduler.scheduler import FlameScheduler

logger = logging.getLogger("dask_flame")

#: Seconds that runners may take to close their workers when their cluster closes. The rest of
#: their exit, such as atexit handlers, is limited by their pool's ``shutdown_timeout``.
END_GRACE = 2.0


def fixed_text(number: int) -> str:
    """Return the text of the event for a pool that stops following demand."""
    runners = "1 runner is" if number == 1 else f"{number} runners are"
    return (
        f"adapt(...).stop(): {runners} kept, whatever the demand; further calls wait for a free "
        "slot until cluster.adapt(), cluster.scale(n) or cluster.resize(…)"
    )


class InProcessScheduler:
    """Run the scheduler in this process.

    Parameters
    ----------
    parts : HostParts
    cluster : distributed.deploy.cluster.Cluster
        The cluster, for its status and event loop in distributed's Adaptive.
    plugins : sequence of SchedulerPlugin, optional
        Scheduler plugins in addition to the lease.
    handlers : mapping of str to callable, optional
        Additional request handlers, installed before the scheduler listens.

    See Also
    --------
    dask_flame.driver.hosts.base.SchedulerHost : The interface.
    dask_flame.driver.hosts.remote.RemoteScheduler : The host of a remote scheduler.
    """

    #: No port is forwarded.
    dashboard_port = 0

    def __init__(
        self,
        parts: HostParts,
        *,
        cluster: Cluster,
        plugins: Sequence[SchedulerPlugin] = (),
        handlers: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
    ) -> None:
        self._parts = parts
        self._cluster = cluster
        self._plugins = plugins
        self._handlers = handlers
        self._adaptive: FlameAdaptive | None = None
        self._measured: metrics.Measured | None = None
        self._lease: Lease | None = None
        self.scheduler: FlameScheduler | None = None
        self.home: Home | None = None
        self.runs = KnownRuns()

    @property
    def address(self) -> str:
        assert self.scheduler is not None
        address: str = self.scheduler.address
        return address

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start the scheduler and home, and push the callbacks that close them on `stack`."""
        parts = self._parts
        register()
        check_room(sum(policy.max for policy in parts.fleets.policies.values()))
        self._lease = Lease(
            parts.disconnect_grace,
            max_lifetime=parts.max_lifetime,
            on_lapse=self._lapsed,
            on_return=self._returned,
        )
        wanted = parts.dashboard_address
        # Without a dashboard the scheduler still serves its health and metrics pages.
        served, taken = free_address(wanted or "127.0.0.1:0")
        listening = self._listening()
        scheduler = self.scheduler = FlameScheduler(
            pools=parts.fleets.policies,
            policies=lambda: parts.fleets.policies,
            shared_folder=lambda: None if parts.backend.remote else parts.backend.scratch,
            packages=parts.packages,
            **listening,
            security=parts.security,
            local_directory=self._directory(),
            dashboard=False,
            dashboard_address=served,
            plugins=[self._lease, *self._plugins],
        )
        guard(scheduler, parts.dashboard_token)
        scheduler.handlers.update(self._handlers)
        stack.push_async_callback(scheduler.close, reason="flame-cluster-closed")
        if wanted is not None:
            install_later(scheduler)
        try:
            await scheduler
        except RuntimeError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and listening.get("protocol") == SCHEME:
                raise BackendError(
                    f"the scheduler cannot listen in {parts.backend.folder}: {cause}; write "
                    'dask.config.set({"temporary-directory": "/tmp"})'
                ) from error
            raise
        if taken:
            port = scheduler.services["dashboard"].port
            link = dashboard_link(served_at(served, scheduler.address), port, set())
            logger.warning("port %d is in use: the dashboard is at %s", taken, link)
        self.home = Home(
            scheduler,
            security=parts.security,
            directory=self._directory,
            limit=parts.home_limit,
            memory=configured("home.memory"),
        )
        stack.push_async_callback(self.home.close)

    def _listening(self) -> Mapping[str, Any]:
        listening = self._parts.backend.listening
        if listening.get("protocol") == SCHEME and self._parts.security.require_encryption:
            return {"host": HOST}  # over TLS
        return listening

    def _directory(self) -> str:
        """Return where distributed makes folders for the scheduler, which is on the import path.

        Raises
        ------
        BackendError
            Other users could put modules there.
        """
        if (folder := self._parts.backend.folder) is not None:
            return folder
        # Its usual folder in /tmp is the same for all users, and belongs to whoever was first.
        place = dask.config.get("temporary-directory", default=None) or tempfile.gettempdir()
        own = os.path.abspath(os.path.join(place, f"dask-scratch-space-{os.getuid()}"))
        make_own(own)
        if why := why_unsafe(own):
            raise BackendError(
                f"the temporary folder {own!r} is not safe from other users of this machine: {why};"
                ' write dask.config.set({"temporary-directory": "/a/folder/of/your/own"})'
            )
        return own

    def follow(self, stack: contextlib.AsyncExitStack) -> FlameAdaptive:
        """Start the control loop; the cluster must be connected."""
        assert self.scheduler is not None
        assert self.home is not None
        parts, scheduler, home = self._parts, self.scheduler, self.home
        self._adaptive = FlameAdaptive(self._cluster, parts=parts, scheduler=scheduler, home=home)
        stack.push_async_callback(self._adaptive.finish)
        self._adaptive.wake()
        self._measured = metrics.Measured(parts.name, scheduler, home, parts.fleets, parts.history)
        metrics.expose(self._measured)
        return self._adaptive

    async def caught_up(self) -> None:
        """Return immediately, as the scheduler is in this process."""

    def ends(self) -> None:
        """Release nothing singly any more: the scheduler closes as a whole."""
        if self.scheduler is not None:
            self.scheduler.ending = True

    async def finish(self) -> None:
        """Stop the control loop, and let runners exit normally."""
        if self._adaptive is not None:
            await self._adaptive.finish()
            if self._parts.fleets.members:
                await self._part()
        if self._measured is not None:
            metrics.withdraw(self._measured)
        if self._lease is not None:
            self._lease.say_closed(self._parts.name)

    def hand_over(self, within: float) -> None:
        """Keep the work of the drivers for another process; see :meth:`Lease.hand_over`."""
        assert self._lease is not None
        self._lease.hand_over(within)

    def part_from_clients(self) -> None:
        """Stop the lease without notifying the Clients, as if their connections dropped."""
        assert self._lease is not None
        self._lease.stop(replaced=True)

    async def _part(self) -> None:
        """Ask the runners to end, and give them time to exit normally."""
        parts, scheduler = self._parts, self.scheduler
        assert scheduler is not None
        left = {n for n, m in parts.fleets.members.items() if m.phase is not Phase.BOOTING}
        tasks = []
        for _, fleet in parts.fleets:
            if names := list(fleet.members):
                for name in names:
                    fleet.leaving(name, time.monotonic())
                limit = max(END_GRACE, fleet.pool.shutdown_timeout)
                tasks.append(asyncio.ensure_future(parts.backend.end(names, grace=limit)))
        # Some substrates end a runner by SIGTERM, upon which it asks to be drained. Nothing drains
        # it any more, so its worker is closed from here.
        for name in left & scheduler.aliases.keys():
            scheduler.close_worker(scheduler.aliases[name])
        longest = max(fleet.pool.shutdown_timeout for _, fleet in parts.fleets)
        _, late = await asyncio.wait(tasks, timeout=END_GRACE)
        if late:
            # Runners whose workers have closed are running their atexit handlers; end the others.
            hang = [n for n in parts.fleets.members if n not in left or n in scheduler.aliases]
            tasks.append(asyncio.ensure_future(parts.backend.end(hang, grace=0)))
            _, late = await asyncio.wait(tasks, timeout=max(1.0, longest + 1 - END_GRACE))
        for task in late:
            task.cancel()
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(error, Exception):
                # Not critical: the backend ends the runners when it closes.
                logger.debug("runners could not be told to end", exc_info=error)

    # Events of the backend

    def ended(self, what: Ended) -> None:
        """Handle the end of a runner."""
        if self._adaptive is not None:
            self._adaptive.ended(what)

    def reached(self, name: str, step: str) -> None:
        """Handle a boot that has reached a step."""
        if self._adaptive is not None:
            self._adaptive.reached(name, step)

    def held_up(self, name: str, why: str) -> None:
        """Handle a boot that is held up, or no longer if `why` is empty."""
        if self._adaptive is not None:
            self._adaptive.held_up(name, why)

    def queued(self, name: str, *, waits: bool) -> None:
        """Handle a boot that waits its turn, or whose turn has come."""
        if self._adaptive is not None:
            self._adaptive.queued(name, waits=waits)

    def stopped(self, why: str) -> None:
        """Handle a cluster that was stopped from outside."""
        self._parts.note_stop(why)
        if self._adaptive is not None:
            self._adaptive.wake()

    def replaced(self, why: str) -> None:
        """Do nothing: this process ends with its scheduler."""

    # Requests of the user

    def resized(self, pool: str, changes: Mapping[str, Any], text: str) -> None:
        """Apply a changed policy and record the event; see :meth:`SchedulerHost.resized`."""
        parts, adaptive = self._parts, self._adaptive
        assert adaptive is not None
        if pool == parts.fleets.default:
            policy = parts.fleets.policies[pool]
            adaptive.minimum, adaptive.maximum = policy.min, policy.max
        parts.history.journal.note("policy", text, pool=pool)
        adaptive.wake()

    def fixed(self, pool: str) -> None:
        """Stop following demand in a pool."""
        number = self._parts.fleets.fleets[pool].fix()
        self._parts.history.journal.note("policy", fixed_text(number), pool=pool)
        if self._adaptive is not None:
            self._adaptive.wake()

    def budgeted(self, budget: Budget | None, text: str) -> None:
        """Follow another budget, and record the event; see :meth:`SchedulerHost.budgeted`."""
        self._parts.fleets.budget = budget
        self._parts.history.journal.note("policy", text)
        if self._adaptive is not None:
            self._adaptive.wake()

    # Callbacks of the lease

    def _lapsed(self, why: str) -> None:
        parts = self._parts
        parts.history.journal.note("lease", why)
        parts.fleets.suspend(why)
        assert self._lease is not None
        if self._lease.expired:
            self._lease.say_last(why)  # before calls fail because their runners end
            parts.expire(why)
        elif self._adaptive is not None:
            self._adaptive.wake()

    def _returned(self) -> None:
        self._parts.history.journal.note("lease", "a client is there again")
        self._parts.fleets.suspend("")
        if self._adaptive is not None:
            self._adaptive.wake()

"""A cluster's scheduler in the driver's process, and what decides beside it (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dask_flame.backends.base import Ended
from dask_flame.core.accept_backoff import accept_patiently
from dask_flame.core.open_files import check_room
from dask_flame.core.settings import configured
from dask_flame.dashboard.deferred import install_later
from dask_flame.driver import metrics
from dask_flame.driver.control_loop import FlameAdaptive
from dask_flame.lease.plugin import Lease
from dask_flame.reports.scheduler.plugin import Reports
from dask_flame.scaling.fleet import Phase
from dask_flame.scheduler.home.home import Home
from dask_flame.scheduler.scheduler import FlameScheduler

if TYPE_CHECKING:
    from dask_flame.driver.cluster import FlameCluster

logger = logging.getLogger("dask_flame")

#: Seconds that runners may take to close their workers when their cluster closes. What they do
#: after it, as Python does when it exits, is bounded by their pool's ``shutdown_timeout``.
END_GRACE = 2.0


def fixed_text(number: int) -> str:
    """What an event says of a pool that follows demand no longer."""
    runners = "1 runner is" if number == 1 else f"{number} runners are"
    return (
        f"adapt(...).stop(): {runners} kept, whatever the demand; further calls wait for a free "
        "slot until cluster.adapt(), cluster.scale(n) or cluster.resize(…)"
    )


class InProcessScheduler:
    """The seat of a scheduler that runners can reach in this process.

    Parameters
    ----------
    cluster : FlameCluster
        Its backend must have started. Its ``scheduler``, ``home`` and ``_adaptive`` are made here.
    reports : Reports

    See Also
    --------
    dask_flame.driver.hosts.remote.RemoteScheduler : the other seat, with the same methods.
    """

    def __init__(self, cluster: FlameCluster, reports: Reports) -> None:
        self._cluster = cluster
        self._reports = reports
        self._adaptive: FlameAdaptive | None = None

    #: A forwarded port of this machine; there is none to the scheduler's own.
    dashboard_port = 0

    @property
    def address(self) -> str:
        """Where this machine's Clients reach the scheduler."""
        address: str = self._cluster.scheduler.address
        return address

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start the scheduler and the home; their ends are put on a stack."""
        cluster = self._cluster
        check_room(sum(policy.max for policy in cluster.fleets.policies.values()))
        self._lease = Lease(
            cluster.disconnect_grace,
            max_lifetime=cluster.max_lifetime,
            on_lapse=self._lapsed,
            on_return=self._returned,
        )
        wanted = cluster.dashboard_address
        cluster.scheduler = FlameScheduler(
            pools=cluster.fleets.policies,
            **cluster.backend.listening,
            security=cluster.security,
            local_directory=cluster.backend.folder,
            dashboard=False,
            # Without a dashboard the scheduler still serves its health and metrics somewhere.
            dashboard_address=wanted or "127.0.0.1:0",
            plugins=[self._lease, self._reports, *cluster.print_plugins()],
        )
        cluster.scheduler.handlers.update(cluster.handlers)
        stack.push_async_callback(cluster.scheduler.close, reason="flame-cluster-closed")
        if wanted is not None:
            install_later(cluster.scheduler)
        await cluster.scheduler
        accept_patiently(cluster.scheduler)
        cluster.home = Home(
            cluster.scheduler,
            security=cluster.security,
            directory=lambda: cluster.backend.folder,
            limit=cluster.home_limit,
            memory=configured("home.memory"),
        )
        stack.push_async_callback(cluster.home.close)

    def follow(self, stack: contextlib.AsyncExitStack) -> None:
        """Begin to decide, once the cluster is connected."""
        self._adaptive = self._cluster._adaptive = FlameAdaptive(self._cluster)
        stack.push_async_callback(self._adaptive.finish)
        self._adaptive.wake()
        metrics.expose(self._cluster)

    async def told(self) -> None:
        """There is nothing to wait for: what the scheduler knows is known here."""

    async def finish(self) -> None:
        """Decide nothing any more, and let runners go by themselves."""
        if self._adaptive is not None:
            await self._adaptive.finish()
            if self._cluster.fleets.members:
                await self._part()
        metrics.withdraw(self._cluster)

    async def _part(self) -> None:
        """Tell the runners to end, and give them what they need to do it as Python does."""
        cluster, scheduler = self._cluster, self._cluster.scheduler
        left = {n for n, m in cluster.fleets.members.items() if m.phase is not Phase.BOOTING}
        tasks = []
        for _, fleet in cluster.fleets:
            if names := list(fleet.members):
                for name in names:
                    fleet.leaving(name, time.monotonic())
                limit = max(END_GRACE, fleet.pool.shutdown_timeout)
                tasks.append(asyncio.ensure_future(cluster.backend.end(names, grace=limit)))
        # Nobody sees out any more who is taken away, which is how some substrates tell them.
        for name in left & scheduler.aliases.keys():
            scheduler.close_worker(scheduler.aliases[name])
        longest = max(fleet.pool.shutdown_timeout for _, fleet in cluster.fleets)
        _, late = await asyncio.wait(tasks, timeout=END_GRACE)
        if late:
            # What has closed its worker is alive, and runs what was registered with atexit.
            hang = [n for n in cluster.fleets.members if n not in left or n in scheduler.aliases]
            tasks.append(asyncio.ensure_future(cluster.backend.end(hang, grace=0)))
            _, late = await asyncio.wait(tasks, timeout=max(1.0, longest + 1 - END_GRACE))
        for task in late:
            task.cancel()
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(error, Exception):
                # What is asked for here is a courtesy: that the backend closes is what ends them.
                logger.debug("runners could not be told to end", exc_info=error)

    # What the backend says

    def ended(self, what: Ended) -> None:
        """A runner is gone."""
        if self._adaptive is not None:
            self._adaptive.ended(what)

    def reached(self, name: str, step: str) -> None:
        """A boot has come to a step."""
        if self._adaptive is not None:
            self._adaptive.reached(name, step)

    def held_up(self, name: str, why: str) -> None:
        """A boot is held up, or no longer."""
        cluster = self._cluster
        if cluster.boots.held_up(name, why):
            pool = cluster.fleets.of(name) or ""
            news = self._adaptive.told.shorten(pool, name, why) if self._adaptive else why
            if news:
                cluster.events.add("held", news, runners=[name], pool=pool)

    def stopped(self, why: str) -> None:
        """The cluster has been stopped from outside."""
        self._cluster.note_stop(why)
        if self._adaptive is not None:
            self._adaptive.wake()

    # What the user says

    def resized(self, pool: str, changes: Mapping[str, Any], text: str) -> None:
        """A pool's policy has changed: follow it, and say so."""
        cluster, adaptive = self._cluster, self._adaptive
        assert adaptive is not None
        if pool == cluster.fleets.default:
            policy = cluster.fleets.policies[pool]
            adaptive.minimum, adaptive.maximum = policy.min, policy.max
        cluster.events.add("policy", text, pool=pool)
        adaptive.wake()

    def fixed(self, pool: str) -> None:
        """A pool is to follow demand no longer."""
        cluster = self._cluster
        number = cluster.fleets.fleets[pool].fix()
        cluster.events.add("policy", fixed_text(number), pool=pool)
        if self._adaptive is not None:
            self._adaptive.wake()

    # What the lease says

    def _lapsed(self, why: str) -> None:
        cluster = self._cluster
        cluster.events.add("lease", why)
        cluster.fleets.suspend(why)
        if self._lease.expired:
            self._lease.say_last(why)  # before calls fail because their runners go
            cluster.expire(why)
        elif self._adaptive is not None:
            self._adaptive.wake()

    def _returned(self) -> None:
        self._cluster.events.add("lease", "a client is there again")
        self._cluster.fleets.suspend("")
        if self._adaptive is not None:
            self._adaptive.wake()

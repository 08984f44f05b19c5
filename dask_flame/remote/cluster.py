"""A cluster whose driver is in another process (scheduler's pod)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from distributed import Security

from dask_flame.backends.specs import BackendContext
from dask_flame.core.budget import Budget
from dask_flame.core.channel import Channel
from dask_flame.core.pool import Pool
from dask_flame.core.rate_limit import Limits
from dask_flame.driver.cluster import FlameCluster
from dask_flame.driver.hosts.in_process import InProcessScheduler
from dask_flame.driver.hosts.known_runs import answer
from dask_flame.driver.hosts.replication import (
    JournalPublisher,
    PrintPublisher,
    StatePublisher,
)
from dask_flame.packages.check import AskedCheck, RegistrationCheck
from dask_flame.prints.driver.show import LastLines
from dask_flame.prints.scheduler.plugin import Taker
from dask_flame.remote.proxy_backend import ProxyBackend


class PodCluster(FlameCluster):
    """A FlameCluster near the runners, connected to its driver by a channel.

    Parameters
    ----------
    link : Channel
        The channel to the driver.
    handlers : mapping of str to callable
        Handlers of requests of the driver, and of other processes that want to become the driver,
        from the moment when the scheduler listens.
    resized : callable
        Called with ``"on_grow"`` or ``"on_shrink"``, a pool and its number of runners, in the
        thread for callbacks. The user's functions are in the driver.
    listening : mapping
        See :attr:`dask_flame.backends.Backend.listening`.
    scratch : str
        Folder for temporary files.
    security : distributed.Security
    pools : mapping of str to Pool
    **options
        Options of :class:`dask_flame.FlameCluster`.
    """

    def __init__(
        self,
        *,
        link: Channel,
        handlers: Mapping[str, Callable[..., Awaitable[Any]]],
        resized: Callable[[str, str, int], None],
        listening: Mapping[str, Any],
        scratch: str,
        security: Security,
        pools: Mapping[str, Pool],
        **options: Any,
    ) -> None:
        self._link = link
        self._driver_handlers = dict(handlers)
        followed = {
            name: pool.replace(
                on_grow=partial(resized, "on_grow"), on_shrink=partial(resized, "on_shrink")
            )
            for name, pool in pools.items()
        }

        class Relay(ProxyBackend):
            def __init__(self, context: BackendContext) -> None:
                super().__init__(context, link=link, listening=listening, scratch=scratch)

        super().__init__(
            backend=Relay,
            security=security,
            pools=followed,
            code=False,  # the local modules are the driver's
            asynchronous=True,
            **options,
        )
        self._publisher = JournalPublisher(self._history.journal, link)

    def _print_taker(self, print_limits: Limits) -> Taker:
        publish = PrintPublisher(self._link)
        # For the pages, which this process serves.
        kept = self._show = LastLines(print_limits)

        def take(runner: str, pieces: Sequence[Sequence[Any]]) -> None:
            kept.said(runner, pieces)
            publish(runner, pieces)

        return take

    def _handlers(self) -> Mapping[str, Callable[..., Any]]:
        # The driver may connect as soon as the port listens.
        return {**super()._handlers(), **self._driver_handlers}

    async def _start_files(self) -> None:
        """Do nothing: the driver sends the files for runners."""

    def _make_host(self) -> InProcessScheduler:
        self._own_host = self._make_own_host()
        return self._own_host

    def _package_check(self) -> RegistrationCheck | None:
        if super()._package_check() is None:
            return None
        return AskedCheck(partial(self._link.ask, "packages"))

    # Requests of the driver

    def take_files(self, pack: bytes | None) -> None:
        """Keep files that runners will ask for; None is the last of them."""
        self._files.store.add(pack)

    def known_runs(self, version: int, *, calls: bool) -> dict[str, Any] | None:
        """Return the runs, and their calls if wanted; None if they have this version."""
        return answer(self._reports, version, calls=calls)

    def follow_resize(self, pool: str, changes: Mapping[str, Any], text: str) -> None:
        """Apply options that the driver has changed, and note the driver's text as an event.

        Parameters
        ----------
        pool : str
        changes : mapping of str to object
            The changed options of the pool.
        text : str
            The text of the event.
        """
        self.fleets.resize(pool, changes)
        self._own_host.resized(pool, changes, text)

    def follow_fix(self, pool: str) -> None:
        """Stop adapting a pool to demand."""
        self._own_host.fixed(pool)

    def follow_budget(self, budget: Budget | None, text: str) -> None:
        """Follow another budget, and note the driver's text as an event."""
        self._own_host.budgeted(budget, text)

    def follow_stop(self, why: str) -> None:
        """Boot no further runners, because the cluster was stopped from outside."""
        self._own_host.stopped(why)

    def hand_over(self, within: float) -> None:
        """Keep everything for a new driver, and tell it all that there has been so far.

        Parameters
        ----------
        within : float
            Seconds for its Client to connect.
        """
        self._own_host.hand_over(within)
        for entry in self._history.journal:
            self._publisher.send(entry)
        pools: dict[str, list[str]] = {
            pool: list(fleet.members) for pool, fleet in self.fleets.fleets.items()
        }
        self._link.send(
            "past",
            pools=pools,
            usage=dict(self._history.usage),
            stopped=self.fleets.stopped,
            fixed=[pool for pool, fleet in self.fleets if fleet.fixed is not None],
        )

    async def end_runners(self) -> None:
        """Stop scaling, and let runners end by themselves."""
        await self._own_host.finish()

    def part_from_clients(self) -> None:
        """Disconnect the Clients as if their connection were lost."""
        self._own_host.part_from_clients()

    def state_publisher(self) -> StatePublisher:
        """Return the publisher of the runners' state; call this once the cluster has started."""
        assert self._own_host.scheduler is not None
        return StatePublisher(self._own_host.scheduler, self.fleets, self._link)

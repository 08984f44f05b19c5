"""Make the host of a cluster's scheduler, and pass the backend's events on to it (driver)."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed import Security, Status
from distributed.objects import SchedulerInfo

from dask_flame.backends.specs import Ended, RunnerSpec
from dask_flame.core.distributed_internals import watch_worker_status, worker_status_lost
from dask_flame.core.rate_limit import Limits
from dask_flame.driver.default_max import follow
from dask_flame.driver.hosts.base import Adopted, HostParts, SchedulerHost
from dask_flame.driver.hosts.in_process import InProcessScheduler
from dask_flame.driver.pools_api import PoolsApi
from dask_flame.history.boots import is_step
from dask_flame.packages.check import RegistrationCheck
from dask_flame.prints.driver.show import DriversShow, Show
from dask_flame.prints.scheduler.plugin import Prints, Taker
from dask_flame.prints.settings import limits

if TYPE_CHECKING:
    from dask_flame.files.driver.cluster_files import ClusterFiles
    from dask_flame.history.records import History
    from dask_flame.reports.scheduler.plugin import Reports
    from dask_flame.reports.scheduler.store import ReportStore

logger = logging.getLogger("dask_flame")


class HostedCluster(PoolsApi):
    """The part of a :class:`dask_flame.FlameCluster` that knows where its scheduler runs."""

    disconnect_grace: float
    max_lifetime: float | None
    home_limit: int
    security: Security
    dashboard_address: str | None
    _dashboard_token: str | None
    #: What troubles the backend, apart from single boots.
    _trouble: str = ""
    _files: ClusterFiles
    _history: History
    _reports: Reports
    #: The cluster of an earlier driver that this one continues.
    _adopted: Adopted | None = None
    _watch_worker_status_task: Any  # set by the base class

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._start_task: asyncio.Task[Any] | None = None
        self._expiring: asyncio.Task[None] | None = None
        self._host: SchedulerHost | None = None
        self.over = ""  # why the cluster ended, if the user did not close it
        self._show: Show | None = None
        self._prints: Taker | None = None

    @property
    @abstractmethod
    def reports(self) -> ReportStore:
        """The store of all reports made by calls."""

    @abstractmethod
    def specs(self, kinds: Mapping[str, str]) -> list[RunnerSpec]:
        """Return the launch specifications of runners, whose kinds are given by their names."""

    @abstractmethod
    def _handover(self) -> bytes:
        """Return what another process needs to become the driver, pickled."""

    # The scheduler

    def _host_parts(self) -> HostParts:
        return HostParts(
            name=self.name,
            backend=self.backend,
            fleets=self.fleets,
            history=self._history,
            security=self.security,
            disconnect_grace=self.disconnect_grace,
            max_lifetime=self.max_lifetime,
            home_limit=self.home_limit,
            dashboard_address=self.dashboard_address,
            dashboard_token=self._dashboard_token,
            files=self._files,
            specs=self.specs,
            fix=self.fix,
            note_stop=self._note_stop,
            expire=self._expire,
            packages=self._package_check(),
            handover=self._handover,
            adopted=self._adopted,
        )

    def _package_check(self) -> RegistrationCheck | None:
        """Return the check of the packages of runners that register; None if there is none."""
        check: RegistrationCheck | None = self._packages.check(self._history.journal.note)
        return check

    def _make_host(self) -> SchedulerHost:
        if not self.backend.apart:
            return self._make_own_host()
        # Imported only if needed.
        from dask_flame.driver.hosts.remote import RemoteScheduler
        from dask_flame.lease.resume import tell_clients

        return RemoteScheduler(
            self._host_parts(),
            reports=self.reports,
            prints=self._prints,
            watch_again=self._watch_again,
            tell_clients=partial(tell_clients, self),
        )

    def _make_own_host(self) -> InProcessScheduler:
        return InProcessScheduler(
            self._host_parts(),
            cluster=self,
            plugins=[self._reports, *self.print_plugins()],
            handlers=self._handlers(),
        )

    def _handlers(self) -> Mapping[str, Callable[..., Any]]:
        """Return additional request handlers, installed before the scheduler listens."""
        return self._files.store.handlers

    def _print_taker(self, print_limits: Limits) -> Taker:
        """Return the callable that receives the runners' output: see :mod:`dask_flame.prints`."""
        self._show = DriversShow(print_limits)
        return self._show.said

    async def _watch_again(self) -> bool:
        """Wait until the base class's subscription to worker status is lost, then subscribe again.

        Returns
        -------
        bool
            False if the cluster is closing.

        Raises
        ------
        OSError
            The scheduler could not be reached.
        """
        await worker_status_lost(self)
        if self.status is not Status.running:
            return False
        comm = await self.scheduler_comm.live_comm()
        try:
            await comm.write({"op": "subscribe_worker_status"})
            self.scheduler_info = SchedulerInfo(await comm.read())
        except BaseException:
            comm.abort()
            raise
        watch_worker_status(self, comm)
        return True

    def print_plugins(self) -> list[Prints]:
        """Return the scheduler plugins that receive the runners' output, if any."""
        return [] if self._prints is None else [Prints(limits(), to=self._prints)]

    # Events of the backend

    def _ended(self, what: Ended) -> None:
        if self._show is not None:
            self._show.over(what.name)
        if self._host is not None:
            self._host.ended(what)

    def _step(self, name: str, step: str) -> None:
        if self._host is not None and is_step(step):
            self._host.reached(name, step)

    def _held_up(self, name: str, why: str) -> None:
        if not name:
            before, self._trouble = self._trouble, why
            if why != before:  # a backend may say it at each poll
                self._history.journal.note("held", why or f"over: {before}")
        elif self._host is not None:
            self._host.held_up(name, why)

    def _queued(self, name: str, waits: bool) -> None:
        if self._host is not None:
            self._host.queued(name, waits=waits)

    def _follow_most(self) -> None:
        """Let pools without a ``max`` of the user's be as large as the backend can hold."""
        for pool, policy in follow(self.fleets, self.backend, self._expected()).items():
            text = f"max={policy.max} by default: {policy.max_from}"
            if self._host is None or self._adaptive is None:
                self._history.journal.note("policy", text, pool=pool)
            else:
                self._host.resized(pool, {"max": policy.max}, text)

    def _stopped(self, why: str) -> None:
        if self._host is not None:
            self._host.stopped(why)
        else:
            self._note_stop(why)

    def _replaced(self, why: str) -> None:
        if self._host is not None:
            self._host.replaced(why)

    def _note_stop(self, why: str) -> None:
        """Boot no more runners, because the cluster was stopped from outside."""
        if not self.fleets.stopped:
            self._history.journal.note("stopped", why)
            self.fleets.stop(why)

    def _expire(self, why: str, *, logged: bool = False) -> None:
        """Close the cluster without a request of the user; log the reason unless `logged`."""
        self.over = why
        if not logged:
            logger.warning("cluster %s ends: %s", self.name, why)
        if self._start_task is not None:
            self._start_task.cancel()  # it closes the parts that have started
            return
        self._expiring = asyncio.ensure_future(self._close())

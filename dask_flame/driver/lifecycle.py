"""Start the parts of a FlameCluster, pass events on to them, and close them (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from dask.typing import Key
from distributed import Security, Status
from distributed.core import rpc
from distributed.objects import SchedulerInfo

from dask_flame.backends.registry import made
from dask_flame.backends.specs import BackendContext, Ended, RunnerSpec
from dask_flame.core.connection import ConnectionInfo
from dask_flame.core.distributed_internals import stop_loop, watch_worker_status, worker_status_lost
from dask_flame.core.messages import CODE
from dask_flame.core.option_checks import Duration, seconds
from dask_flame.core.rate_limit import Limits
from dask_flame.core.settings import configured
from dask_flame.core.threads import in_thread
from dask_flame.driver import open_clusters
from dask_flame.driver.certificates import inlined
from dask_flame.driver.closed import closed
from dask_flame.driver.connect.hint import report_left
from dask_flame.driver.fork_check import clients_of, refuse
from dask_flame.driver.hosts.base import Adopted, HostParts, SchedulerHost
from dask_flame.driver.hosts.in_process import END_GRACE, InProcessScheduler
from dask_flame.driver.log_filter import QuietLogs, logs_of
from dask_flame.driver.pools_api import PoolsApi
from dask_flame.history.boots import is_step
from dask_flame.packages.check import RegistrationCheck
from dask_flame.prints.driver.show import DriversShow, Show
from dask_flame.prints.scheduler.plugin import Prints, Taker
from dask_flame.prints.settings import limits, shown
from dask_flame.reports.runs import Run
from dask_flame.reports.series import CallReports

if TYPE_CHECKING:
    from dask_flame.code.driver.local_code import LocalCode
    from dask_flame.files.driver.cluster_files import ClusterFiles
    from dask_flame.history.costs import Costs
    from dask_flame.history.records import History
    from dask_flame.reports.scheduler.plugin import Reports
    from dask_flame.reports.scheduler.store import ReportStore

logger = logging.getLogger("dask_flame")


class ClusterLifecycle(PoolsApi):
    """The life of a :class:`dask_flame.FlameCluster`, from its start to its end.

    :class:`dask_flame.FlameCluster` checks the options, which are the attributes below.
    """

    disconnect_grace: float
    max_lifetime: float | None
    home_limit: int
    security: Security
    dashboard_address: str | None
    _dashboard_token: str | None
    local_code: LocalCode | None
    _files: ClusterFiles
    _history: History
    _reports: Reports
    _silence_logs: int | None

    #: The cluster of an earlier driver that this one continues.
    _adopted: Adopted | None = None

    _quiet: ClassVar[QuietLogs] = QuietLogs()
    #: In a process forked from the driver: the driver's process ID.
    forked_from: int | None = None
    #: ID of the process that made this cluster.
    _made_by: int | None = None
    _watch_worker_status_task: Any  # set by the base class

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._stack = contextlib.AsyncExitStack()
        self._starting: asyncio.Task[None] | None = None
        self._start_task: asyncio.Task[Any] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._expiring: asyncio.Task[None] | None = None
        self._host: SchedulerHost | None = None
        self._came_to: Costs | None = None  # final costs, once closed
        self.over = ""  # why the cluster ended, if the user did not close it
        self._logs_of = object()  # what Dask logs for this cluster
        self._request_level: Callable[[int], None] | None = None  # of these messages
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

    @abstractmethod
    def _show_end(self) -> None:
        """Show that the cluster has ended."""

    # Start

    def _make_parts(
        self,
        factory: Callable[..., Any],
        print_limits: Limits,
        *,
        where: str,
        places: Mapping[str, str],
        disconnect_grace: float | None,
    ) -> None:
        """Make the parts that exist before the cluster starts.

        Parameters
        ----------
        factory : callable
            Makes the backend.
        print_limits : Limits
        where, places, disconnect_grace
            See :class:`dask_flame.backends.BackendContext`.
        """
        told = BackendContext(
            cluster=self.name,
            ended=self._ended,
            progress=self._step,
            trouble=self._held_up,
            stopped=self._stopped,
            scheduler=where,
            places=places,
            disconnect_grace=disconnect_grace,
            adopts="" if self._adopted is None else self._adopted.cluster,
            replaced=self._replaced,
        )
        self.backend = made(factory, told)
        self.status = Status.created
        if shown() and not getattr(self.backend, "shows_output", False):
            self._prints = self._print_taker(print_limits)
        # A backend of another package may not be derived from Backend.
        here = None if self._show is None else self._show.recent
        self._reports.lines = here or getattr(self.backend, "recent_output", None)

    def _start_now(self) -> None:
        """Start the cluster, unless it is used with ``async with``."""
        open_clusters.add(self)
        if not self.called_from_running_loop:
            try:
                self._loop_runner.start()
                self._in_own_context(self.sync, self._start)
            except BaseException:
                self.close()
                raise

    def __await__(self) -> Any:
        async def started() -> ClusterLifecycle:
            if self._starting is None and self.status is Status.created:
                self._starting = self._in_own_context(lambda: asyncio.ensure_future(self._start()))
            if self._starting is not None:
                await self._starting
            return self

        return started().__await__()

    def _in_own_context(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in a context of this cluster alone.

        The tasks of a cluster outlive the code that makes it. In the context of a notebook's cell,
        whatever they log would appear under that cell, and not under the one that runs.
        """
        context = contextvars.Context()
        context.run(logs_of.set, self._logs_of)
        return context.run(function, *args)

    async def _start(self) -> None:
        self._start_task = asyncio.current_task()
        try:
            await self._start_parts()
        except BaseException:
            await self._close()
            if self.over:
                raise closed(self.name, f"{self.over}, before it had started") from None
            raise
        finally:
            self._start_task = None

    async def _start_parts(self) -> None:
        # The stack closes in reverse order.
        await self._stack.__aenter__()
        if self._silence_logs:
            quiet = ClusterLifecycle._quiet.held(self._silence_logs, self._logs_of)
            self._request_level = self._stack.enter_context(quiet)
        self._stack.push_async_callback(self.backend.close)
        if self._show is not None:
            self._stack.push_async_callback(self._show.finish)
        await self._packages.prepare(self.fleets.policies)
        self.backend.expect(self._expected())
        await self.backend.start()
        self.disconnect_grace = self.backend.disconnect_grace
        await self._start_files()
        self._keep_runs()
        host = self._host = self._make_host()
        await host.start(self._stack)
        self.scheduler_comm = rpc(
            host.address, connection_args=self.security.get_connection_args("client")
        )
        await super()._start()
        if not self.backend.apart:
            await self._announce()
        await self._send_code()
        self._adaptive = host.follow(self._stack)
        if self.backend.adopts and self._adopted is None and self.backend.apart:
            looking = asyncio.ensure_future(
                report_left(self.backend.name, self.backend.context.places)
            )
            self._stack.push_async_callback(_cancelled, looking)

    async def _announce(self) -> None:
        """Let other processes of this user observe this cluster."""
        security = inlined(self.security) if self.security.require_encryption else {}
        address = self.scheduler_address
        await self.backend.announce(ConnectionInfo(address=address, security=security))

    async def _send_code(self) -> None:
        """Send the local modules now, if runners need them before there are calls."""
        policies = self.fleets.policies.values()
        needed = any(policy.preload or policy.setup is not None for policy in policies)
        if self.local_code is None or not needed:
            return
        version, pack, _ = self.local_code.pack(())
        if version is not None:
            await getattr(self.scheduler_comm, CODE)(client="", version=version, pack=pack)

    async def _start_files(self) -> None:
        self._stack.callback(self._files.close)
        await self._files.start(self.name, self.backend.folder)

    def _keep_runs(self) -> None:
        """Keep the runs of this cluster in a file, if the configuration names one."""
        if configured("reports.keep") is not None:
            # Most clusters do not need SQLite.
            from dask_flame.reports.driver.keeper import RunKeeper, kept_in

            path = kept_in()
            assert path is not None
            keeper = RunKeeper(path, self._known_runs, self._known_calls)
            self._stack.push_async_callback(in_thread, keeper.close)

    def _known_runs(self) -> Sequence[Run]:
        there = [] if self._host is None else self._host.runs.runs
        return there or self._reports.runs()

    def _known_calls(self) -> dict[Key, CallReports]:
        there = {} if self._host is None else self._host.runs.calls
        return {**there, **self._reports.calls()}

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

    # Close

    async def _close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close_parts())
        await asyncio.shield(self._closing)

    async def _close_parts(self) -> None:
        # The base class sets `closing`, closes its own connections, and sets `closed`.
        self.status = Status.closing
        self._note_end()
        try:
            if self._host is not None:
                await self._host.finish()
                self._came_to = self.cost()
        finally:
            try:
                await self._stack.aclose()
            finally:
                await super()._close()
                open_clusters.remove(self)
                if self.local_code is not None:
                    self.local_code.close()
                self._show_end()

    def _note_end(self) -> None:
        if self._request_level is not None:
            # Of data that is lost, calls that are cancelled, and connections that break, now.
            self._request_level(logging.CRITICAL)
        if self._host is not None:
            self._host.ends()

    @property
    def loop(self) -> Any:
        if self.forked_from is not None:
            refuse(self)  # a new Client reads this attribute first
        return super().loop

    def sync(self, *args: Any, **kwargs: Any) -> Any:
        if self.forked_from is not None:
            refuse(self)
        if self.status is Status.closed:
            raise closed(self.name, self.over)
        return super().sync(*args, **kwargs)

    def close(self, timeout: Duration | None = None) -> Any:
        """End all runners and the scheduler, remove their resources, and close the Clients.

        In a process forked from the driver, do nothing: the cluster belongs to the driver.

        Parameters
        ----------
        timeout : duration, optional
            Seconds, or a string such as ``"30s"``.
        """
        if self.forked_from is not None:
            return None
        timeout = None if timeout is None else seconds("timeout", timeout)
        if not self.asynchronous:
            self._note_end()
            # What its tasks log belongs to this cluster.
            self._in_own_context(self._close_clients)
        try:
            return super().close(timeout)
        finally:
            if not self.asynchronous:
                self._loop_runner.stop()

    def _leave_to_another(self) -> None:
        """Close without ending anything: the cluster goes on, for another driver to adopt."""
        with contextlib.suppress(Exception):
            self.sync(self._leave)
        self.close()

    async def _leave(self) -> None:
        self._replaced("it was left to another driver")

    def _close_clients(self) -> None:
        # A Client that loses its cluster closes itself, but cannot end the thread of its own event
        # loop.
        for client in clients_of(self):
            if not client.asynchronous:
                with contextlib.suppress(Exception):
                    client.close(END_GRACE)
                client.status = "closed"  # if it could not close: it is not to be tried once more
                stop_loop(client)

    def __del__(self) -> None:
        if self._made_by == os.getpid():
            super().__del__()

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
            self._history.journal.note("held", why)
        elif self._host is not None:
            self._host.held_up(name, why)

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


async def _cancelled(task: asyncio.Future[None]) -> None:
    """Cancel a task, and wait until it has ended."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

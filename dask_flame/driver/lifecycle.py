"""Start the parts of a FlameCluster, and close them (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from dask.typing import Key
from distributed import Status
from distributed.core import rpc

from dask_flame.backends.registry import made
from dask_flame.backends.specs import BackendContext
from dask_flame.core.distributed_internals import stop_loop
from dask_flame.core.messages import CODE
from dask_flame.core.option_checks import Duration, seconds
from dask_flame.core.rate_limit import Limits
from dask_flame.core.settings import configured
from dask_flame.core.threads import in_thread
from dask_flame.driver import open_clusters
from dask_flame.driver.closed import closed
from dask_flame.driver.connect.announce import announce
from dask_flame.driver.connect.hint import reporting_left
from dask_flame.driver.fork_check import clients_of, refuse
from dask_flame.driver.hosted_cluster import HostedCluster
from dask_flame.driver.hosts.in_process import END_GRACE
from dask_flame.driver.log_filter import QuietLogs, logs_of
from dask_flame.prints.settings import shown
from dask_flame.reports.runs import Run
from dask_flame.reports.series import CallReports

if TYPE_CHECKING:
    from dask_flame.code.driver.local_code import LocalCode
    from dask_flame.history.costs import Costs

logger = logging.getLogger("dask_flame")


class ClusterLifecycle(HostedCluster):
    """The life of a :class:`dask_flame.FlameCluster`, from its start to its end.

    :class:`dask_flame.FlameCluster` checks the options, which are the attributes below.
    """

    local_code: LocalCode | None
    _silence_logs: int | None

    _quiet: ClassVar[QuietLogs] = QuietLogs()
    #: In a process forked from the driver: the driver's process ID.
    forked_from: int | None = None
    #: ID of the process that made this cluster.
    _made_by: int | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._stack = contextlib.AsyncExitStack()
        self._starting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._came_to: Costs | None = None  # final costs, once closed
        self._logs_of = object()  # what Dask logs for this cluster
        self._request_level: Callable[[int], None] | None = None  # of these messages

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
            queued=self._queued,
            stopped=self._stopped,
            most_changed=self._follow_most,
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
        self._follow_most()
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
            await announce(self.backend, self.scheduler_address, self.security)
        await self._send_code()
        self._adaptive = host.follow(self._stack)
        if self.backend.adopts and self._adopted is None and self.backend.apart:
            await self._stack.enter_async_context(reporting_left(self.backend))

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

"""FlameCluster: start, connect and end the parts of a cluster (driver)."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from distributed import Security, Status
from distributed.core import rpc
from distributed.objects import SchedulerInfo
from distributed.utils import Log, Logs
from tornado.ioloop import IOLoop

from dask_flame.backends.base import Backend, BackendContext, Ended, RunnerSpec
from dask_flame.backends.registry import find_backend, made
from dask_flame.code.driver.local_code import Choice, versions
from dask_flame.code.tokens import depend_on
from dask_flame.core import config, joblib_hook
from dask_flame.core.distributed_internals import stop_loop, watch_worker_status, worker_status_lost
from dask_flame.core.keyword_only import by_name
from dask_flame.core.messages import CODE
from dask_flame.core.option_checks import GRACE, Duration, one_of, seconds, size, wrong
from dask_flame.core.packages_option import packages_option
from dask_flame.core.pool import Pool
from dask_flame.core.process_settings import hash_seed
from dask_flame.core.processes import PRELOAD
from dask_flame.core.settings import SCHEDULER_PLACES, check_settings, configured, grace
from dask_flame.driver import display
from dask_flame.driver.closed import answer_for_closed, closed
from dask_flame.driver.cluster_options import asynchronous as checked_asynchronous
from dask_flame.driver.cluster_options import cluster_name, event_loop, local_code, log_level
from dask_flame.driver.cluster_options import dashboard_address as checked_address
from dask_flame.driver.dashboard_links import dashboard_link, page_link
from dask_flame.driver.fleets import PoolFleets, make_pools
from dask_flame.driver.fork_check import clients_of, leave_alone, refuse
from dask_flame.driver.hosts.base import HostParts, SchedulerHost, SchedulerView
from dask_flame.driver.hosts.in_process import END_GRACE, InProcessScheduler
from dask_flame.driver.ignored_settings import warn_of_ignored
from dask_flame.driver.launch import (
    check_secrets,
    check_taken,
    make_security,
    places_for,
    runner_spec,
)
from dask_flame.driver.log_filter import QuietLogs
from dask_flame.driver.pools_api import PoolsApi
from dask_flame.driver.report_source import ClusterReports
from dask_flame.errors import PoolError
from dask_flame.files.driver.cluster_files import ClusterFiles
from dask_flame.history.boots import is_step
from dask_flame.history.costs import Costs
from dask_flame.history.records import History
from dask_flame.history.state import Snapshot
from dask_flame.packages.check import RegistrationCheck
from dask_flame.packages.policy import PackagePolicy
from dask_flame.prints.driver.show import DriversShow
from dask_flame.prints.rate_limit import Limits
from dask_flame.prints.scheduler.plugin import Prints, Taker
from dask_flame.prints.settings import limits, shown
from dask_flame.reports.scheduler.plugin import Reports
from dask_flame.reports.scheduler.store import ReportStore
from dask_flame.scheduler.dask_histories import forget_connections
from dask_flame.scheduler.home.home import Home

if TYPE_CHECKING:
    from dask_flame.driver.widget import Widget

logger = logging.getLogger("dask_flame")

_OWN_OPTIONS = (
    "pools",
    "backend",
    "scheduler",
    "namespace",
    "context",
    "disconnect_grace",
    "max_lifetime",
    "home_limit",
    "code",
    "files",
    "packages",
    "name",
    "asynchronous",
    "security",
    "dashboard_address",
    "silence_logs",
    "loop",
)


class FlameCluster(PoolsApi):
    """A Dask cluster that boots runners for calls and ends them when they are idle.

    The scheduler runs in this process, or in a pod beside the runners. Runners boot in one wave,
    as many as the ready calls need. A runner without calls for ``idle_timeout`` ends. All runners
    end when this process ends, for whatever reason.

    Parameters
    ----------
    min, max, concurrency, idle_timeout, **options
        The policy of the only pool: the options of :class:`dask_flame.Pool`.
    pools : mapping of str to Pool, optional
        Several kinds of runners, each with its own policy, in place of the options above. Calls
        run in the first pool, unless :func:`dask_flame.on` or their ``resources=`` select another.
    backend : str or callable, optional
        The backend that boots runners: ``"local"`` (the default, ``flame.backend``), the name of
        another installed backend, or a :class:`dask_flame.backends.Backend` subclass.
    scheduler : {"auto", "driver", "pod"}, default "auto" (``flame.scheduler.where``)
        Location of the scheduler: this process, or a separate pod beside the runners that is
        reached through a forwarded port. ``"auto"`` selects this process if runners can reach it.
    namespace, context : str, optional
        For ``backend="kubernetes"``: the namespace of the runners, and the kubeconfig context
        (``flame.kubernetes.namespace`` and ``.context``). The default namespace is the driver's
        own, or that of the current context.
    disconnect_grace : duration, default "10s"
        Time for which runners are kept after the last Client has closed; a new Client boots them
        again. A scheduler in a pod ends, with its runners, after this process has been
        disconnected for this long. The default is "2m" if that pod is reached through the
        Kubernetes API server, which may be unavailable for a while.
    max_lifetime : duration, optional
        Time after which the cluster closes, even if calls run or Clients are connected.
    home_limit : size, default "16 GiB"
        Maximum size of the results of ended runners that are kept in the scheduler's process and
        on its disk. A runner whose results do not fit stays.
    code : bool or list of path-like or module, default True
        The local modules to send to runners: True for all that the driver can import from folders
        that are not installed (``flame.code.limit``, 64 MiB); False for none; or a list of folders
        to import from, packages, and files of modules.
    files : mapping of path to path, optional
        Files and folders of this machine, each with its path on runners: absolute, or relative to
        their working directory. They are there before a runner's first call. Their total size is
        limited by ``flame.files.limit`` (64 MiB). See docs/files.md.
    packages : {"check", "sync", "ignore"}, False or list of str, default "check"
        The packages of runners (``flame.packages``). ``"check"`` compares them with those that this
        process has imported, when a runner registers: a version with which calls cannot work is an
        error, and others are reported once. ``"sync"`` also has each runner install those that are
        missing there or have another version, before its first call. Of a list of requirements,
        such as ``"polars==1.2"`` or the path of a wheel, a runner installs those. ``"ignore"`` or
        False compares nothing but Python.
    name : str, optional
        Letters, digits and ``-``; random by default.
    asynchronous : bool, default False
        Whether the cluster is used with ``async with``, on the running event loop.
    security : distributed.Security or bool, optional
        TLS between all parts; True makes certificates for this cluster only. By default,
        connections to runners on this machine are unencrypted and use its loopback address.
    dashboard_address : str or None, default "127.0.0.1:8787"
        Address of the dashboard; another port is used if this one is taken. None disables the
        dashboard.
    silence_logs : int, str or None, default logging.WARNING
        Hide the scheduler's log messages below this level (a number or a name); None shows all.
    loop : tornado.ioloop.IOLoop, optional
        A running event loop; by default the cluster starts its own.

    Raises
    ------
    PoolError
        An option is invalid; nothing was started.
    BackendError
        The backend is unknown or cannot be used here; everything started was ended.

    Examples
    --------
    >>> from dask.distributed import Client
    >>> cluster = FlameCluster(max=8, concurrency=1, idle_timeout="60s")
    >>> client = Client(cluster)
    >>> client.gather(client.map(abs, [-1, -2]))
    [1, 2]
    >>> client.close()
    >>> cluster.close()
    """

    _open: ClassVar[weakref.WeakSet[FlameCluster]] = weakref.WeakSet()
    _quiet: ClassVar[QuietLogs] = QuietLogs()
    #: In a process forked from the driver: the driver's process ID.
    forked_from: int | None = None
    #: ID of the process that made this cluster.
    _made_by: int | None = None
    _watch_worker_status_task: Any  # set by the base class

    @by_name("FlameCluster", "min", "max", "concurrency", "idle_timeout")
    def __init__(
        self,
        *,
        min: int | None = None,
        max: int | None = None,
        concurrency: int | None = None,
        idle_timeout: Duration | None = None,
        pools: Mapping[str, Pool] | None = None,
        backend: str | type[Backend] | None = None,
        scheduler: str | None = None,
        namespace: str | None = None,
        context: str | None = None,
        disconnect_grace: Duration | None = None,
        max_lifetime: Duration | None = None,
        home_limit: str | int | None = None,
        code: Choice = True,
        files: Mapping[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        packages: str | bool | Sequence[str] | None = None,
        name: str | None = None,
        asynchronous: bool = False,
        security: Security | bool | None = None,
        dashboard_address: str | None = "127.0.0.1:8787",
        silence_logs: int | str | None = logging.WARNING,
        loop: IOLoop | None = None,
        **options: Any,
    ) -> None:
        self.status = Status.closed  # so that __del__ does not warn after an error below
        self._made_by = os.getpid()
        config.check()
        check_settings()
        print_limits = limits()
        bounds = {"min": min, "max": max, "concurrency": concurrency, "idle_timeout": idle_timeout}
        policies = make_pools(pools, {**bounds, **options}, _OWN_OPTIONS)
        if not any(pool.max for pool in policies.values()):
            raise wrong("max", 0, "a whole number of 1 or more: nothing could ever run")
        said = grace("disconnect_grace", disconnect_grace)
        self.disconnect_grace = GRACE if said is None else said
        self.max_lifetime = (
            configured("max-lifetime")
            if max_lifetime is None
            else seconds("max_lifetime", max_lifetime, zero=False)
        )
        self.home_limit = (
            configured("home.limit") if home_limit is None else size("home_limit", home_limit)
        )
        chosen = (
            configured("packages") if packages is None else packages_option("packages", packages)
        )
        name = cluster_name(name)
        factory = find_backend(config.get("backend") if backend is None else backend)
        where = self._where(factory, scheduler)
        places = places_for(factory, namespace=namespace, context=context)
        for policy in policies.values():
            check_taken(factory, policy.options)
            check_secrets(factory, policy.secrets)
        remote = getattr(factory, "remote", False)
        self._packages = PackagePolicy(chosen, remote=remote)
        self.security = make_security(security, remote=remote)
        disposable = getattr(factory, "disposable", False)
        self._files = ClusterFiles(files, remote=remote, disposable=disposable)
        self.dashboard_address = checked_address(dashboard_address)
        self._silence_logs = log_level(silence_logs)
        loop = event_loop(loop)
        asynchronous = checked_asynchronous(asynchronous, loop)
        warn_of_ignored(stacklevel=4)
        self.local_code = local_code(code, data=getattr(factory, "remote", False))
        self.fleets = PoolFleets(policies)
        self._history = History(policies)
        self.events, self.boots = self._history.events, self._history.boots
        self._hash_seed = hash_seed()
        self._warned: set[str] = set()  # link templates already warned about
        super().__init__(asynchronous=asynchronous, loop=loop, name=name, quiet=True)
        self.status = Status.closed
        told = BackendContext(
            cluster=self.name,
            ended=self._ended,
            progress=self._step,
            trouble=self._held_up,
            stopped=self._stopped,
            scheduler=where,
            places=places,
            disconnect_grace=said,
        )
        self.backend = made(factory, told)
        self.status = Status.created
        self._stack = contextlib.AsyncExitStack()
        self._starting: asyncio.Task[None] | None = None
        self._start_task: asyncio.Task[Any] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._expiring: asyncio.Task[None] | None = None
        self._host: SchedulerHost | None = None
        self._shown: Widget | None = None
        self._came_to: Costs | None = None  # final costs, once closed
        self.over = ""  # why the cluster ended, if the user did not close it
        self._show: DriversShow | None = None
        self._prints: Taker | None = None
        if shown() and not getattr(self.backend, "shows_output", False):
            self._prints = self._print_taker(print_limits)
        self._reports = Reports()
        self._reports.pools = self._pools
        joblib_hook.register()
        if self.local_code is not None:
            depend_on(versions)
        answer_for_closed(FlameCluster)
        FlameCluster._open.add(self)
        if not self.called_from_running_loop:
            try:
                self._loop_runner.start()
                self.sync(self._start)
            except BaseException:
                self.close()
                raise

    @staticmethod
    def _where(factory: Any, scheduler: str | None) -> str:
        where: str = (
            configured("scheduler.where")
            if scheduler is None
            else one_of("scheduler", scheduler, SCHEDULER_PLACES)
        )
        places = getattr(factory, "scheduler_places", Backend.scheduler_places)
        if where != "auto" and where not in places:
            raise PoolError(
                f"scheduler={where!r} is not for this backend, whose scheduler is in the "
                f'{" or the ".join(sorted(places))}; leave it out, or write scheduler="auto"'
            )
        return where

    # State

    @property
    def scheduler(self) -> SchedulerView:
        """The Dask scheduler if it runs in this process; otherwise a view of it."""
        if (scheduler := self._view) is None:
            raise AttributeError("the cluster has not started, so it has no scheduler yet")
        return scheduler

    @property
    def _view(self) -> SchedulerView | None:
        return None if self._host is None else self._host.scheduler

    @property
    def home(self) -> Home | None:
        """The store for results of ended runners; None if the scheduler runs elsewhere."""
        return None if self._host is None else self._host.home

    @property
    def reports(self) -> ReportStore:
        """The store of all reports made by calls."""
        return self._reports.store

    @property
    def _report_source(self) -> ClusterReports:
        """The source of reports for clients in this process: see reports/driver/replica.py."""
        return ClusterReports(self.reports, self._host, lambda: self.loop)

    @property
    def dashboard_link(self) -> str:
        """Address of the dashboard; empty without one, as in distributed."""
        if not self.dashboard_address:
            return ""  # the scheduler still serves its health and metrics pages
        if self._host is not None and (port := self._host.dashboard_port):
            return dashboard_link("127.0.0.1", port, self._warned)
        served = self.scheduler_info.get("services", {}).get("dashboard")
        if served is None:
            return ""
        host = self.scheduler_address.partition("://")[2].rpartition(":")[0]
        return dashboard_link(host, served, self._warned)

    @property
    def flame_link(self) -> str:
        """Address of the page ``/flame``; empty without a dashboard."""
        return page_link(self.dashboard_link, "flame")

    def specs(self, names: Sequence[str]) -> list[RunnerSpec]:
        """Return the launch specifications of the named runners."""
        pools = [self.fleets.of(name) or self.fleets.default for name in names]
        common = {pool: self._spec(pool) for pool in set(pools)}
        return [replace(common[pool], name=n) for pool, n in zip(pools, names, strict=True)]

    def _spec(self, pool: str) -> RunnerSpec:
        policy, where = self.fleets.policies[pool], self.scheduler.address
        return runner_spec(
            "",
            policy,
            of=pool,
            scheduler=where,
            security=self.security,
            hash_seed=self._hash_seed,
            files=self._files.plan,
            packages=self._packages.of(policy),
        )

    # Start and close

    def __await__(self) -> Any:
        async def started() -> FlameCluster:
            if self._starting is None and self.status is Status.created:
                self._starting = asyncio.ensure_future(self._start())
            if self._starting is not None:
                await self._starting
            return self

        return started().__await__()

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
            self._stack.enter_context(FlameCluster._quiet.held(self._silence_logs))
        self._stack.push_async_callback(self.backend.close)
        if self._show is not None:
            self._stack.push_async_callback(self._show.finish)
        await self._packages.prepare(self.fleets.policies)
        self.backend.expect(self._expected())
        await self.backend.start()
        self.disconnect_grace = self.backend.disconnect_grace
        await self._start_files()
        host = self._host = self._make_host()
        await host.start(self._stack)
        self.scheduler_comm = rpc(
            host.address, connection_args=self.security.get_connection_args("client")
        )
        await super()._start()
        await self._send_code()
        self._adaptive = host.follow(self._stack)

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
            files=self._files,
            specs=self.specs,
            fix=self.fix,
            note_stop=self._note_stop,
            expire=self._expire,
            packages=self._package_check(),
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

    async def _close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close_parts())
        await asyncio.shield(self._closing)

    async def _close_parts(self) -> None:
        # The base class sets `closing`, closes its own connections, and sets `closed`.
        self.status = Status.closing
        try:
            if self._host is not None:
                await self._host.finish()
                self._came_to = self.cost()
        finally:
            try:
                await self._stack.aclose()
            finally:
                await super()._close()
                FlameCluster._open.discard(self)
                if self.local_code is not None:
                    self.local_code.close()
                if self._shown is not None:
                    self._shown.update()

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
            self._close_clients()
        try:
            return super().close(timeout)
        finally:
            if not self.asynchronous:
                self._loop_runner.stop()

    def _close_clients(self) -> None:
        # A Client that loses its cluster closes itself, but cannot end the thread of its own event
        # loop.
        for client in clients_of(self):
            if not client.asynchronous:
                with contextlib.suppress(Exception):
                    client.close(END_GRACE)
                stop_loop(client)

    def __del__(self) -> None:
        if self._made_by == os.getpid():
            super().__del__()

    def print_plugins(self) -> list[Prints]:
        """Return the scheduler plugins that receive the runners' output, if any."""
        return [] if self._prints is None else [Prints(limits(), to=self._prints)]

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

    # Display

    async def _get_logs(
        self, cluster: bool = True, scheduler: bool = True, workers: Any = True
    ) -> Logs:
        logs = await super()._get_logs(cluster=False, scheduler=scheduler, workers=workers)
        if cluster:
            logs["Cluster"] = Log("\n".join(map(str, self.events)))
        if workers is True:
            names = {e.runners[0] for e in self.events if len(e.runners) == 1}
            names |= {PRELOAD, *self.fleets.members}
            for name, text in (await self.backend.logs(names)).items():
                logs[name] = Log(text)
        # Drop empty entries. Runners print their log lines, so the backend's entries have them.
        return Logs({k: v for k, v in logs.items() if v or k in ("Cluster", "Scheduler")})

    def _update_worker_status(self, op: str, msg: Any) -> None:
        super()._update_worker_status(op, msg)
        if op == "remove":
            for client in clients_of(self):
                client.loop.add_callback(forget_connections, client.rpc)
        workers = self.scheduler_info["workers"].values()
        # The base class does not update these totals after its start.
        self.scheduler_info["n_workers"] = len(workers)
        self.scheduler_info["total_threads"] = sum(w["nthreads"] for w in workers)
        self.scheduler_info["total_memory"] = sum(w["memory_limit"] or 0 for w in workers)

    def _pools(self) -> Snapshot:
        return display.snapshot(self.fleets, self._adaptive, self.scheduler, self._history)

    def __repr__(self) -> str:
        return display.text(self, self._view)

    def _repr_html_(self, cluster_status: Any = None) -> str:
        return display.html(self, Snapshot(time.time()) if self._view is None else self._pools())

    def _widget(self) -> Any:
        """Return the live notebook widget; None without ipywidgets."""
        if self._shown is None:
            # Imported here, as scripts do not need it.
            from dask_flame.driver.widget import Widget

            try:
                self._shown = Widget(self)
            except ImportError:
                return None
        return self._shown.root


def _forked() -> None:
    clusters = list(FlameCluster._open)
    if not clusters:
        return
    FlameCluster._open = weakref.WeakSet()
    for cluster in clusters:
        cluster.forked_from = os.getppid()
    with contextlib.suppress(Exception):  # the caller of os.fork could not catch it
        leave_alone(clusters)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@atexit.register
def _close_all() -> None:
    for cluster in list(FlameCluster._open):
        if cluster._made_by != os.getpid():
            continue  # it belongs to the parent process
        with contextlib.suppress(Exception):
            # The loop of an asynchronous cluster no longer runs; the backends' own safeguards end
            # its runners when this process ends.
            if not cluster.called_from_running_loop:
                longest = max(fleet.pool.shutdown_timeout for _, fleet in cluster.fleets)
                cluster.close(timeout=10 + longest)

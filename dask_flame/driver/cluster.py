"""FlameCluster: its options, its state, and how it is shown (driver)."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from distributed import Security, Status
from distributed.utils import Log, Logs
from tornado.ioloop import IOLoop

from dask_flame.backends.base import Backend
from dask_flame.backends.registry import find_backend
from dask_flame.backends.specs import RunnerSpec
from dask_flame.code.driver.local_code import Choice, versions
from dask_flame.code.tokens import depend_on
from dask_flame.core import config, joblib_hook
from dask_flame.core.backend_options import hint_for, meant_for
from dask_flame.core.budget import Budget, check_prices, checked_budget
from dask_flame.core.hidden_logs import without
from dask_flame.core.keyword_only import by_name
from dask_flame.core.option_checks import GRACE, Duration, one_of, seconds, size, wrong
from dask_flame.core.packages_option import PackagesOption, packages_option
from dask_flame.core.pool import Pool
from dask_flame.core.process_settings import hash_seed
from dask_flame.core.processes import PRELOAD
from dask_flame.core.redaction import hide
from dask_flame.core.settings import SCHEDULER_PLACES, check_settings, configured, grace
from dask_flame.driver import display
from dask_flame.driver.closed import answer_for_closed
from dask_flame.driver.cluster_options import asynchronous as checked_asynchronous
from dask_flame.driver.cluster_options import cluster_name, event_loop, local_code, log_level
from dask_flame.driver.cluster_options import dashboard_address as checked_address
from dask_flame.driver.connect.handover import Given, packed
from dask_flame.driver.dashboard_links import dashboard_link, page_link, served_at, with_token
from dask_flame.driver.fleets import PoolFleets, make_pools
from dask_flame.driver.fork_check import clients_of
from dask_flame.driver.hosts.base import SchedulerView
from dask_flame.driver.ignored_settings import warn_of_ignored
from dask_flame.driver.launch import (
    capacity_wait,
    check_gpus,
    check_secrets,
    check_taken,
    make_security,
    of_kind,
    places_for,
    runner_spec,
    with_configured,
)
from dask_flame.driver.lifecycle import ClusterLifecycle
from dask_flame.driver.main_import import refuse_in_import_of_main
from dask_flame.driver.report_source import ClusterReports
from dask_flame.errors import PoolError
from dask_flame.files.driver.cluster_files import ClusterFiles
from dask_flame.history.records import History
from dask_flame.history.state import Snapshot
from dask_flame.packages.policy import PackagePolicy
from dask_flame.prints.settings import limits
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
    "budget",
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


class FlameCluster(ClusterLifecycle):
    """A Dask cluster that boots runners for calls and ends them when they are idle.

    The scheduler runs in this process, or beside the runners, in a pod or a Fly Machine. Runners
    boot in one wave, as many as the ready calls need. A runner without calls for ``idle_timeout``
    ends. All runners end when this process ends, for whatever reason.

    Parameters
    ----------
    min, max, concurrency, idle_timeout, **options
        The policy of the only pool: the options of :class:`dask_flame.Pool`.
    pools : mapping of str to Pool, optional
        Several kinds of runners, each with its own policy, in place of the options above. Calls
        run in the first pool, unless :func:`dask_flame.on` or their ``resources=`` select another.
    backend : str or callable, default "local" (``flame.backend``)
        The backend that boots runners: ``"local"``, the name of another installed backend, or a
        :class:`dask_flame.backends.Backend` subclass.
    scheduler : {"auto", "driver", "pod"}, default "auto" (``flame.scheduler.where``)
        Location of the scheduler: this process, or a separate pod beside the runners that is
        reached through a forwarded port. ``"auto"`` selects this process if runners can reach it.
    namespace, context : str, optional (``flame.kubernetes.namespace``, ``.context``)
        For ``backend="kubernetes"``: the namespace of the runners, and the kubeconfig context. The
        default namespace is the driver's own, or that of the current context.
    disconnect_grace : duration, default "10s" (``flame.disconnect-grace``)
        Time for which runners are kept after the last Client has closed; a new Client boots them
        again. A scheduler in a pod ends, with its runners, after this process has been
        disconnected for this long. The default is "2m" if that pod is reached through the
        Kubernetes API server, which may be unavailable for a while.
    max_lifetime : duration, optional (``flame.max-lifetime``)
        Time after which the cluster closes, even if calls run or Clients are connected.
    home_limit : size, default "16 GiB" (``flame.home.limit``)
        Maximum size of the results of ended runners that are kept in the scheduler's process and
        on its disk. A runner whose results do not fit stays.
    budget : str, optional (``flame.budget``)
        What the runners may cost together: an amount of money such as
        ``"20 USD"`` or ``"$20"``, for pools with a ``price``, or time of runners such as
        ``"40 runner-hours"``, ``"40 h"`` or ``"90 min"``. The currency is only a label: a sign, a
        code, or ``flame.currency``. At 80 % of it there is a warning. Once it is spent, no runner
        boots, idle ones end at once unless their results cannot be moved, running calls finish, and
        waiting and further calls fail with a :class:`~dask_flame.BudgetExhausted`, until
        ``cluster.budget = "40 USD"`` raises it. Pools without a price cost no money, and go on.
    code : bool or list of path-like or module, default True
        The local modules to send to runners: True for all that the driver can import from folders
        that are not installed (``flame.code.limit``, 64 MiB); False for none; or a list of folders
        to import from, packages, and files of modules.
    files : mapping of path to path, optional
        Files and folders of this machine, each with its path on runners: absolute, or relative to
        their working directory. They are there before a runner's first call. Their total size is
        limited by ``flame.files.limit`` (64 MiB).
    packages : {"check", "sync", "ignore"}, False or list, default "check" (``flame.packages``)
        The packages of runners. ``"check"`` compares them with those that this
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
        TLS between all parts; True makes certificates for this cluster only. By default, runners on
        this machine use Unix sockets that only this user can open, and others use TLS with
        certificates for this cluster only.
    dashboard_address : str or None, default "127.0.0.1:8787"
        Address of the dashboard; another port is used if this one is taken. None disables the
        dashboard.
    silence_logs : int, str or None, default logging.WARNING
        Hide the scheduler's log messages below this level (a number or a name); None shows all.
    loop : tornado.ioloop.IOLoop, optional
        A running event loop; by default the cluster starts its own.

    Durations are numbers of seconds, or strings that :func:`dask.utils.parse_timedelta` accepts;
    sizes are numbers of bytes, or strings that :func:`dask.utils.parse_bytes` accepts. The names in
    parentheses are those of the defaults in Dask's configuration.

    Raises
    ------
    PoolError
        An option is invalid; nothing was started.
    BackendError
        The backend is unknown or cannot be used here; everything started was ended.

    Notes
    -----
    docs/pools.md explains the options of pools, ``pools``, ``max_lifetime``, ``budget``, and those
    of the cluster only: ``name``, ``asynchronous``, ``silence_logs`` and ``loop``. Others have
    pages of their own: docs/local.md, docs/kubernetes.md, docs/fly.md, docs/ssh.md and
    docs/slurm.md for each ``backend``; docs/kubernetes.md ``scheduler``, ``namespace`` and
    ``context``; docs/leases.md ``disconnect_grace``; docs/zero.md ``home_limit``; docs/code.md
    ``code``; docs/files.md ``files``; docs/packages.md ``packages``; docs/security.md ``security``
    and ``dashboard_address``.

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
        budget: str | Budget | None = None,
        code: Choice = True,
        files: Mapping[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        packages: str | bool | Sequence[str] | PackagesOption | None = None,
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
        refuse_in_import_of_main()
        config.check(hint_for)
        check_settings()
        print_limits = limits()
        bounds = {"min": min, "max": max, "concurrency": concurrency, "idle_timeout": idle_timeout}
        with meant_for(backend):
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
        chosen: PackagesOption = (
            configured("packages")
            if packages is None
            else packages
            if isinstance(packages, PackagesOption)
            else packages_option("packages", packages)
        )
        allowed = configured("budget") if budget is None else checked_budget("budget", budget)
        check_prices(allowed, policies, name="flame.budget" if budget is None else "budget")
        name = cluster_name(name)
        factory = find_backend(config.get("backend") if backend is None else backend)
        where = self._where(factory, scheduler)
        places = places_for(factory, namespace=namespace, context=context)
        policies = with_configured(factory, policies)
        for policy in policies.values():
            check_taken(factory, policy.options, max=policy.max)
            check_gpus(policy)
            check_secrets(factory, policy.secrets)
            capacity_wait(policy)
        remote = getattr(factory, "remote", False)
        self._packages = PackagePolicy(chosen, remote=remote)
        self.security = make_security(security, remote=remote)
        disposable = getattr(factory, "disposable", False)
        self._files = ClusterFiles(files, remote=remote, disposable=disposable)
        self.dashboard_address = checked_address(dashboard_address)
        self._dashboard_token = self._token()
        self._silence_logs = log_level(silence_logs)
        loop = event_loop(loop)
        asynchronous = checked_asynchronous(asynchronous, loop)
        warn_of_ignored(stacklevel=4)
        self.local_code = local_code(code, data=getattr(factory, "remote", False))
        self.fleets = PoolFleets(policies, allowed)
        self._history = History(policies)
        self.events, self.boots = self._history.events, self._history.boots
        self._hash_seed = self._seed_of_hashes()
        self._given = Given(code=code, packages=chosen)
        self._warned: set[str] = set()  # link templates already warned about
        super().__init__(asynchronous=asynchronous, loop=loop, name=name, quiet=True)
        self.status = Status.closed
        self._shown: Widget | None = None
        self._reports = Reports()
        self._reports.pools = self._pools
        self._make_parts(factory, print_limits, where=where, places=places, disconnect_grace=said)
        joblib_hook.register()
        if self.local_code is not None:
            depend_on(versions)
        answer_for_closed(FlameCluster)
        self._start_now()

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

    def _token(self) -> str | None:
        """Return the token of this cluster's dashboard, as configured."""
        token: str | None = configured("dashboard.token")
        if token == "auto":
            token = secrets.token_urlsafe()
        if token is not None:
            hide([token])
        return token

    def _seed_of_hashes(self) -> str:
        """Return the value of ``PYTHONHASHSEED`` for runners."""
        return hash_seed()

    def _handover(self) -> bytes:
        return packed(self)

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
        """Address of the dashboard, with its token; empty without one, as in distributed."""
        if not self.dashboard_address:
            return ""  # the scheduler still serves its health and metrics pages
        if self._host is not None and (port := self._host.dashboard_port):
            link = dashboard_link("127.0.0.1", port, self._warned)
            return with_token(link, self._dashboard_token)
        served = self.scheduler_info.get("services", {}).get("dashboard")
        if served is None:
            return ""
        host = served_at(self.dashboard_address, self.scheduler_address)
        link = dashboard_link(host, served, self._warned)
        return with_token(link, self._dashboard_token)

    @property
    def flame_link(self) -> str:
        """Address of the page ``/flame``, with its token; empty without a dashboard."""
        return page_link(self.dashboard_link, "flame")

    def specs(self, kinds: Mapping[str, str]) -> list[RunnerSpec]:
        """Return the launch specifications of runners, whose kinds are given by their names."""
        of = {name: (self.fleets.of(name) or self.fleets.default, k) for name, k in kinds.items()}
        policies, pools = self.fleets.policies, {pool for pool, _ in of.values()}
        common = {pool: self._spec(pool) for pool in pools}
        alike = {pk: of_kind(common[pk[0]], policies[pk[0]], pk[1]) for pk in set(of.values())}
        return [replace(alike[pool_and_kind], name=name) for name, pool_and_kind in of.items()]

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

    # Display

    async def _get_logs(
        self, cluster: bool = True, scheduler: bool = True, workers: Any = True
    ) -> Logs:
        logs = await super()._get_logs(cluster=False, scheduler=scheduler, workers=False)
        if workers:
            chosen = None if workers is True else list(workers)
            # A runner may end at this moment.
            with without("distributed.scheduler", "broadcast to "):
                told = await self.scheduler_comm.broadcast(
                    msg={"op": "get_logs", "n": None}, workers=chosen, on_error="ignore"
                )
            for address, lines in told.items():
                logs[address] = Log("\n".join(line for _, line in lines))
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

    def _show_end(self) -> None:
        if self._shown is not None:
            self._shown.update()

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

"""The public interface to a cluster's pools (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import uuid
import warnings
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from distributed import Security, Status
from distributed.deploy.cluster import Cluster
from distributed.exceptions import WorkerStartTimeoutError
from distributed.protocol import pickle
from distributed.utils import NoOpAwaitable

from dask_flame.core.budget import Budget, check_prices, checked_budget
from dask_flame.core.keyword_only import by_name, refusal
from dask_flame.core.messages import HAVE, LOOK
from dask_flame.core.open_files import check_room
from dask_flame.core.option_checks import Duration, seconds, whole
from dask_flame.core.pool import Pool
from dask_flame.driver.budget_watch import changed_text
from dask_flame.driver.closed import closed
from dask_flame.driver.cluster_compatibility import (
    ELSEWHERE,
    WorkerView,
    adapt_bounds,
    runners_for,
    worker_views,
)
from dask_flame.driver.launch import (
    capacity_wait,
    check_gpus,
    check_secrets,
    check_taken,
    runner_spec,
)
from dask_flame.driver.manifest import Manifest
from dask_flame.driver.runners import Runner, Runners, opened
from dask_flame.errors import BackendError, PoolError
from dask_flame.history.costs import Costs, costs
from dask_flame.packages.policy import PackagePolicy
from dask_flame.scaling.fleet import Phase

if TYPE_CHECKING:
    from dask_flame.backends.base import Backend
    from dask_flame.backends.specs import RunnerSpec
    from dask_flame.driver.fleets import PoolFleets
    from dask_flame.driver.hosts.base import AdaptiveBounds, SchedulerHost, SchedulerView
    from dask_flame.history.boots import BootLog
    from dask_flame.history.events import EventLog
    from dask_flame.history.state import Snapshot

_OBSERVED = (Phase.READY, Phase.PAUSED, Phase.DRAINING)


class PoolsApi(Cluster):
    """The methods of :class:`dask_flame.FlameCluster` that inspect and change its pools."""

    fleets: PoolFleets
    over: str
    events: EventLog
    backend: Backend
    boots: BootLog
    _adaptive: AdaptiveBounds | None
    _came_to: Costs | None
    _hash_seed: str
    _host: SchedulerHost | None
    _packages: PackagePolicy

    @property
    @abstractmethod
    def _view(self) -> SchedulerView | None:
        """The readable view of the scheduler; None before the cluster has started."""

    @abstractmethod
    def _pools(self) -> Snapshot:
        """Return the current state of the pools."""

    @abstractmethod
    def _spec(self, pool: str) -> RunnerSpec:
        """Return the launch specification of this pool's runners, without a name."""

    def _expected(self) -> list[RunnerSpec]:
        """Return a specification per pool, without a runner name and a scheduler address."""
        return [
            runner_spec(
                "",
                policy,
                of=pool,
                scheduler="",
                security=Security(),
                hash_seed=self._hash_seed,
                expected=True,
                packages=self._packages.of(policy),
            )
            for pool, policy in self.fleets.policies.items()
        ]

    # State

    @property
    def pools(self) -> Mapping[str, Pool]:
        """The current pool policies, by name; the first is the default."""
        return MappingProxyType(self.fleets.policies)

    @property
    def runners(self) -> Mapping[str, Runner]:
        """A copy of the current runners, by name; includes booting and ending ones.

        Their methods look inside their processes, such as ``cluster.runners["runner-3"].stacks()``.
        """
        return Runners(self.fleets.members, self._look)

    def _look(self, name: str, what: str, options: dict[str, Any]) -> Any:
        """Look inside a runner; see :class:`dask_flame.driver.runners.Runner`."""
        if what == "attach":
            from dask_flame.driver.attached_runners import attach_runner

            self._check_running()
            return attach_runner(self, name)

        async def ask() -> Any:
            self._check_running()
            request = getattr(self.scheduler_comm, LOOK)(name=name, what=what, options=options)
            return await opened(what, request)

        return self.sync(ask)

    @property
    def plan(self) -> set[str]:
        return {m.name for m in self.fleets.members.values() if m.phase is not Phase.ENDING}

    @property
    def requested(self) -> set[str]:
        return set(self.fleets.members)

    @property
    def observed(self) -> set[str]:
        return {m.name for m in self.fleets.members.values() if m.phase in _OBSERVED}

    def cost(self) -> Costs:
        """Return the cost of each pool's runners so far, including the current ones.

        Returns
        -------
        Costs
            A mapping of pool names to :class:`dask_flame.history.costs.Cost`, shown as one line
            each: the time of runners and GPUs, the busy share of it, and the amount if the pool
            has a ``price`` (the cost of one runner per hour). A further line has the part of the
            :attr:`budget` that is spent. Empty before the cluster has started; the final cost after
            it has closed.

        Examples
        --------
        >>> cluster.cost()                                               # doctest: +SKIP
        gpu: 3 h 12 min of runners, 3 h 12 min of GPUs, busy for 91 % of it, $8.00
        >>> cluster.cost()["gpu"].amount                                 # doctest: +SKIP
        8.0
        """
        if self._came_to is not None:
            return self._came_to
        if self._view is None:
            return Costs()
        state = self._pools()
        return costs(state.pools, state.budget)

    @property
    def budget(self) -> Budget | None:
        """What the runners of this cluster may cost together; None without a limit.

        Assign another amount to raise or lower it while the cluster runs, also after it is spent,
        or None to remove it. What has been spent so far counts. ``cluster.cost().budget`` has the
        part that is spent.

        Raises
        ------
        PoolError
            The amount is invalid, or it is money and no pool has a price. Nothing has changed.
        ClosedError
            The cluster has closed.

        Examples
        --------
        >>> cluster.budget = "40 runner-hours"
        >>> print(cluster.budget)
        40 runner-hours
        >>> cluster.budget = None
        """
        return self.fleets.budget

    @budget.setter
    def budget(self, value: Budget | str | None) -> None:
        budget = None if value is None else checked_budget("budget", value)
        check_prices(budget, self.fleets.policies, runs=True)

        async def change() -> None:
            old, self.fleets.budget = self.fleets.budget, budget
            text = changed_text(budget, old, self._pools().budget)
            assert self._host is not None
            self._host.budgeted(budget, text)

        self._do(change)

    def manifest(self) -> Manifest:
        """Return the objects that the backend would send to boot one more runner per pool.

        Nothing is sent. The objects come from the code that makes the real ones. Secrets and values
        of environment variables are shown as ``(hidden)``. Values that the substrate assigns later,
        such as the ``uid`` of an owner, are described in parentheses.

        Returns
        -------
        Manifest
            A list of mappings, shown as YAML.

        Raises
        ------
        BackendError
            If the cluster has not started, or the backend does not support manifests.
        PoolError
            If a pool's options are invalid, such as a ``pod_template`` that is not a pod.

        Examples
        --------
        >>> print(cluster.manifest())
        kind: Runner
        ...
        >>> size = Path("manifest.yaml").write_text(str(cluster.manifest()))
        """
        if self.status in (Status.created, Status.undefined):
            self._check_running()
        return Manifest(
            item
            for pool, fleet in self.fleets
            for item in self.backend.manifest(replace(self._spec(pool), name=fleet.next_name))
        )

    @property
    def workers(self) -> Mapping[str, WorkerView]:
        """Current and possible runners, in the form of the workers of distributed's clusters.

        Libraries use their number as the capacity of the cluster. It therefore includes the runners
        that the default pool may still boot; see ``runners`` for the current ones.
        """
        known = self.scheduler_info.get("workers", {})
        to_come = self.fleets.fleets[self.fleets.default].next_names
        return MappingProxyType(worker_views(self.fleets.members, known, to_come))

    def __getattr__(self, name: str) -> Any:
        if name in ELSEWHERE:
            raise AttributeError(f"a FlameCluster has no {name}; write {ELSEWHERE[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # Changes

    def scale(self, n: int | None = None, memory: Any = None, cores: Any = None) -> Any:
        """Set the default pool's min and max to n: keep exactly n runners, whatever the demand.

        Busy runners finish their calls before they end. ``adapt`` makes the pool follow demand
        again, for example ``cluster.adapt(minimum=0, maximum=8)``.

        If several arguments are given, the largest resulting number of runners is used.

        Parameters
        ----------
        n : int, optional
            Number of runners.
        memory : size, optional
            Total memory of the runners; each has the pool's ``memory``.
        cores : int, optional
            Total number of cores; each runner has the pool's ``concurrency`` or ``cpus``, whichever
            is larger.

        Raises
        ------
        PoolError
            An argument is invalid, or none is given.
        ClosedError
            The cluster has closed.
        """
        policy = self.fleets.policies[self.fleets.default]
        numbers = [] if n is None else [whole("n", n, 0)]
        if memory is not None:
            numbers.append(runners_for(policy, memory=memory))
        if cores is not None:
            numbers.append(runners_for(policy, cores=cores))
        if not numbers:
            raise PoolError("scale() needs the number of runners; write scale(4)")
        n = max(numbers)
        self._resize(None, {"min": n, "max": n}, f"scale({n})")
        # As in distributed, where it may be awaited.
        return NoOpAwaitable() if self.asynchronous else None

    def adapt(
        self,
        *positional: Any,
        minimum: float | None = None,
        maximum: float | None = None,
        **others: Any,
    ) -> AdaptiveBounds:
        """Follow demand within these bounds in the default pool.

        Bounds that are not given do not change. Use :meth:`resize` for other pools.

        Parameters
        ----------
        minimum, maximum : int, optional
            Number of runners. An infinite ``maximum`` keeps the pool's ``max`` and warns.
        **others
            ``minimum_cores``, ``maximum_cores``, ``minimum_memory`` and ``maximum_memory`` count
            runners as in :meth:`scale`. Other keywords of distributed's ``adapt`` (``Adaptive``,
            ``interval``, ``wait_count``, ``target_duration``, ``worker_key``) have no effect and
            cause a warning.

        Returns
        -------
        AdaptiveBounds
            Its ``stop()`` keeps the current number of runners, whatever the demand, until the next
            ``adapt``, ``scale`` or ``resize``. If the scheduler runs outside the driver, the object
            has only the bounds and ``stop()``.

        Raises
        ------
        PoolError
            An argument is invalid.
        ClosedError
            The cluster has closed.
        """
        if len(positional) == 1 and isinstance(positional[0], type):
            others["Adaptive"] = positional[0]
        elif positional:
            raise refusal("cluster.adapt", positional, ("minimum", "maximum"))
        policy = self.fleets.policies[self.fleets.default]
        given = {"minimum": minimum, "maximum": maximum, **others}
        self._resize(None, adapt_bounds(policy, given), "adapt")
        assert self._adaptive is not None
        return self._adaptive

    def fix(self) -> None:
        """Keep the current number of runners in the default pool, whatever the demand.

        ``cluster.adapt(...).stop()`` calls this. The next ``adapt``, ``scale`` or ``resize`` makes
        the pool follow demand again.
        """
        if self.status is not Status.running:
            return

        async def change() -> None:
            assert self._host is not None
            self._host.fixed(self.fleets.default)

        self._do(change)
        if not self.fleets.fleets[self.fleets.default].fixed:
            warnings.warn(
                "adapt(...).stop() keeps the runners that there are now, and there is none: calls "
                "wait until cluster.adapt(), cluster.scale(n) or cluster.resize(…)",
                UserWarning,
                stacklevel=3,
            )

    def wait_for_workers(
        self, n_workers: int, timeout: Duration | None = None, *, pool: str | None = None
    ) -> Any:
        """Boot missing runners, and wait until there are `n_workers`.

        The runners are kept during the wait. Afterwards they end after ``idle_timeout`` without a
        call.

        Parameters
        ----------
        n_workers : int
            Number of runners to wait for.
        timeout : duration, optional
            Seconds, or a string such as ``"2m"``; no limit by default.
        pool : str, optional
            Count and boot runners of this pool only. By default runners of all pools count, and
            missing ones boot in the first pool, up to its ``max``, then in the others.

        Raises
        ------
        PoolError
            `n_workers` exceeds ``max``, or there is no such pool.
        BootError
            Runners could not start.
        TimeoutError
            The runners did not start in time.
        """
        n_workers = whole("n_workers", n_workers, 1)
        self.fleets.known(pool)
        limit = None if timeout is None else seconds("timeout", timeout)
        return self.sync(self._wait_for_workers, n_workers, timeout=limit, pool=pool)

    async def _wait_for_workers(
        self, n_workers: int = 0, timeout: float | None = None, pool: str | None = None
    ) -> None:
        deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        key = f"{self.name}-{uuid.uuid4().hex}"
        while True:
            # Short requests: the wait ends with this process and survives a lost connection.
            ask = getattr(self.scheduler_comm, HAVE)
            answer = await ask(number=n_workers, pool=pool, key=key)
            if "error" in answer:
                raise pickle.loads(answer["error"])
            there = answer["there"]
            if there >= n_workers:
                return
            if time.monotonic() > deadline:
                raise WorkerStartTimeoutError(there, n_workers, timeout or 0)

    @by_name("cluster.resize", "min", "max", first=2)
    def resize(self, pool: str | None = None, **changes: Any) -> Pool:
        """Change a pool's policy while the cluster runs.

        Options that runners receive when they boot (``env``, ``secrets``, ``preload``, ``setup``,
        ``cpus``, ``memory``) apply to new runners; all others apply immediately. Busy runners in
        excess of a lower ``max`` finish their calls first.

        Parameters
        ----------
        pool : str, optional
            Name of the pool; the first one by default.
        **changes
            Options of :class:`dask_flame.Pool`, except ``concurrency``, ``single_use``, ``gpus``
            and ``resources``.

        Returns
        -------
        Pool
            The new policy.

        Raises
        ------
        PoolError
            An option is invalid or cannot be changed; nothing has changed.
        ClosedError
            The cluster has closed.
        """
        self._resize(pool, changes, "resize")
        return self.fleets.policies[pool or self.fleets.default]

    def _resize(self, pool: str | None, changes: Mapping[str, Any], why: str) -> None:
        async def change() -> None:
            check_taken(self.backend, changes)
            self._check_new(pool, changes)
            policy = self.fleets.resize(pool, changes)
            self.backend.expect(self._expected())
            said = policy.said(dict.fromkeys(("min", "max", *changes)))
            what = ", ".join(f"{name}={value}" for name, value in said.items())
            waits = "" if policy.max else "; calls wait until cluster.resize(max=…) raises it"
            assert self._host is not None
            self._host.resized(pool or self.fleets.default, changes, f"{why}: {what}{waits}")

        self._do(change)

    def _check_new(self, pool: str | None, changes: Mapping[str, Any]) -> None:
        """Check that the backend and this process can follow a changed policy."""
        policies, name = self.fleets.policies, pool or self.fleets.default
        if name not in policies:
            return
        changed = policies[name].replace(**changes)  # raises for invalid options
        check_prices(self.fleets.budget, {**policies, name: changed}, runs=True)
        check_taken(self.backend, changed.options, max=changed.max)
        check_gpus(changed)
        check_secrets(self.backend, changed.secrets)
        capacity_wait(changed)
        if changed.max > policies[name].max and not self.backend.apart:
            # For each runner, this process has a connection.
            check_room(changed.max + sum(p.max for other, p in policies.items() if other != name))

    def _check_running(self) -> None:
        if self.status in (Status.created, Status.undefined):
            raise BackendError("the cluster has not started; write `await cluster` before")
        if self.status is not Status.running:
            raise closed(self.name, self.over)

    def _do(self, change: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine function that never suspends, on the cluster's event loop."""
        self._check_running()
        loop = self.loop.asyncio_loop
        # `called_from_running_loop` does not tell: if the cluster is asynchronous, it is also True
        # in other threads that run no loop.
        try:
            on_loop = asyncio.get_running_loop() is loop
        except RuntimeError:
            on_loop = False
        if on_loop:
            # The caller is on this loop and cannot await: run the coroutine to its end here.
            with contextlib.suppress(StopIteration):
                change().send(None)
        elif loop.is_running():
            self.sync(change)
        else:
            raise BackendError(
                "the event loop of this asynchronous cluster does not run, so nothing has changed; "
                "write this line in a coroutine that runs on it"
            )

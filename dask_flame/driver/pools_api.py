"""What a user sees and changes of a cluster's pools (driver)."""

from __future__ import annotations

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

from dask_flame.core.keyword_only import by_name, refusal
from dask_flame.core.messages import HAVE
from dask_flame.core.open_files import check_room
from dask_flame.core.option_checks import Duration, seconds, whole
from dask_flame.core.pool import Pool
from dask_flame.driver.closed import closed
from dask_flame.driver.launch import check_taken, runner_spec
from dask_flame.driver.manifest import Manifest
from dask_flame.driver.other_clusters import (
    ELSEWHERE,
    WorkerView,
    adapt_bounds,
    runners_for,
    worker_views,
)
from dask_flame.errors import BackendError, PoolError
from dask_flame.history.costs import Costs, costs
from dask_flame.scaling.fleet import Phase
from dask_flame.scaling.runner_index import RunnerState

if TYPE_CHECKING:
    from dask_flame.backends.base import Backend, RunnerSpec
    from dask_flame.driver.fleets import PoolFleets
    from dask_flame.driver.hosts.base import AdaptiveBounds, SchedulerHost, SchedulerView
    from dask_flame.history.boots import BootLog
    from dask_flame.history.events import EventLog
    from dask_flame.history.state import Snapshot

_OBSERVED = (Phase.READY, Phase.PAUSED, Phase.DRAINING)


class PoolsApi(Cluster):
    """The side of a :class:`dask_flame.FlameCluster` that is about its pools."""

    fleets: PoolFleets
    over: str
    events: EventLog
    backend: Backend
    boots: BootLog
    _adaptive: AdaptiveBounds | None
    _came_to: Costs | None
    _hash_seed: str
    _host: SchedulerHost | None

    @property
    @abstractmethod
    def _view(self) -> SchedulerView | None:
        """The scheduler as every process can read it; None before the cluster has started."""

    @abstractmethod
    def _pools(self) -> Snapshot:
        """Return the pools as they are now."""

    @abstractmethod
    def _spec(self, pool: str) -> RunnerSpec:
        """What a runner of this pool is told, but for its name."""

    def _expected(self) -> list[RunnerSpec]:
        """What runners of each pool are told, but for their names and where the scheduler is."""
        return [
            runner_spec(
                "",
                policy,
                of=pool,
                scheduler="",
                security=Security(),
                hash_seed=self._hash_seed,
            )
            for pool, policy in self.fleets.policies.items()
        ]

    # What there is

    @property
    def pools(self) -> Mapping[str, Pool]:
        """The policies in force, by name; the first is the default."""
        return MappingProxyType(self.fleets.policies)

    @property
    def runners(self) -> Mapping[str, RunnerState]:
        """The runners there are, by name; booting and ending ones too. A copy."""
        return MappingProxyType(self.fleets.members)

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
        """What the runners of each pool have cost so far, those that are there now included.

        Returns
        -------
        Costs
            A mapping from names of pools to :class:`dask_flame.history.costs.Cost`, shown as a line
            for each: the time of runners and of GPUs, how much of it with a call, and, where the
            pool's ``price`` says what a runner costs an hour, the amount. Empty before the cluster
            has started. Once it has closed, it is what it came to.

        Examples
        --------
        >>> cluster.cost()                                               # doctest: +SKIP
        gpu: 3 h 12 min of runners, 3 h 12 min of GPUs, busy for 91 % of it, $8.00
        >>> cluster.cost()["gpu"].amount                                 # doctest: +SKIP
        8.0
        """
        if self._came_to is not None:
            return self._came_to
        return costs(self._pools().pools) if self._view is not None else Costs()

    def manifest(self) -> Manifest:
        """What would be sent to the substrate if each pool were to boot one more runner.

        Nothing is sent. It is made by what makes that which is sent; values of variables and other
        secrets are shown as ``(hidden)``. What the substrate itself is yet to give, such as the
        ``uid`` of an owner that is not made yet, is said in parentheses.

        Returns
        -------
        Manifest
            A list of mappings, shown as YAML.

        Raises
        ------
        BackendError
            If the cluster has not started, or the backend does not show what it sends.
        PoolError
            If a pool could have no runner, as with a ``pod_template`` that is no pod.

        Examples
        --------
        >>> print(cluster.manifest())
        kind: Runner
        ...
        >>> size = Path("flame.yaml").write_text(str(cluster.manifest()))
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
        """The runners there may be, as distributed's own clusters have their workers.

        Libraries take their number for how much the cluster can do at a time. So those are among
        them that the default pool may still boot; see ``runners`` for those that there are.
        """
        known = self.scheduler_info.get("workers", {})
        to_come = self.fleets.fleets[self.fleets.default].next_names
        return MappingProxyType(worker_views(self.fleets.members, known, to_come))

    def __getattr__(self, name: str) -> Any:
        if name in ELSEWHERE:
            raise AttributeError(f"a FlameCluster has no {name}; write {ELSEWHERE[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # What can be changed

    def scale(self, n: int | None = None, memory: Any = None, cores: Any = None) -> Any:
        """Have exactly n runners, whatever the demand: sets the default pool's min and max to n.

        Runners that are busy are left to finish their calls before they go. ``adapt`` makes the
        pool follow demand again, for example ``cluster.adapt(minimum=0, maximum=8)``.

        Parameters
        ----------
        n : int, optional
        memory : size, optional
            As many runners as have this much memory together, by the pool's ``memory``.
        cores : int, optional
            As many as have so many cores, of which a runner has its pool's ``concurrency``, or
            ``cpus`` if that is more. Of several of the three, the largest number counts.

        Raises
        ------
        PoolError
        ClosedError
        """
        policy = self.fleets.policies[self.fleets.default]
        numbers = [] if n is None else [whole("n", n, 0)]
        if memory is not None:
            numbers.append(runners_for(policy, memory=memory))
        if cores is not None:
            numbers.append(runners_for(policy, cores=cores))
        if not numbers:
            raise PoolError("scale() is told how many runners there are to be; write scale(4)")
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
        """Follow demand within these bounds; those not given stay as they are.

        It is the default pool's bounds that change; see :meth:`resize` for another pool's.

        Parameters
        ----------
        minimum, maximum : int, optional
            An infinite ``maximum`` leaves the pool's ``max`` as it is, with a warning.
        **others
            ``minimum_cores``, ``maximum_cores``, ``minimum_memory`` and ``maximum_memory`` are
            counted as in :meth:`scale`. What else distributed's own takes (``Adaptive``,
            ``interval``, ``wait_count``, ``target_duration``, ``worker_key``) governs nothing, and
            is warned of.

        Returns
        -------
        AdaptiveBounds
            Its ``stop()`` keeps the number of runners that there are then, whatever the demand,
            until the next ``adapt``, ``scale`` or ``resize``. Where the scheduler is apart from the
            driver, it has the bounds and ``stop()`` alone.

        Raises
        ------
        PoolError
        ClosedError
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
        """Keep the runners that the default pool has now, whatever the demand.

        It is what ``cluster.adapt(...).stop()`` does. The next ``adapt``, ``scale`` or ``resize``
        of the pool lets it go on.
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
        """Have so many runners, and wait until they are there.

        Those that are missing boot. They are kept while this waits; then they are idle, and end
        after ``idle_timeout`` if there is no call for them.

        Parameters
        ----------
        n_workers : int
        timeout : duration, optional
            Seconds, or ``"2m"``.
        pool : str, optional
            Whose runners. By default those of all pools count, and what is missing boots in the
            first one, as far as its ``max`` allows, then in the others.

        Raises
        ------
        PoolError
            The pool may not have so many: see ``max``.
        BootError
            Runners could not start.
        TimeoutError
            They were not there in time.
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
            # Again and again, so that it ends with this process, and outlives a lost connection.
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
        """Change a pool's policy while it runs.

        What a runner is told when it boots (``env``, ``preload``, ``cpus``, ``memory``) holds for
        those that boot from now on; all else holds at once. Busy runners beyond a lower ``max``
        finish their calls first.

        Parameters
        ----------
        pool : str, optional
            By default the first one.
        **changes
            Options of :class:`dask_flame.Pool`, except ``concurrency``, ``single_use``, ``gpus``
            and ``resources``.

        Returns
        -------
        Pool
            The policy that is now in force.

        Raises
        ------
        PoolError
            Nothing has changed then.
        ClosedError
            The cluster has closed.
        """
        self._resize(pool, changes, "resize")
        return self.fleets.policies[pool or self.fleets.default]

    def _resize(self, pool: str | None, changes: Mapping[str, Any], why: str) -> None:
        async def change() -> None:
            check_taken(self.backend, changes)
            self._check_room(pool, changes)
            policy = self.fleets.resize(pool, changes)
            self.backend.expect(self._expected())
            said = policy.said(dict.fromkeys(("min", "max", *changes)))
            what = ", ".join(f"{name}={value}" for name, value in said.items())
            waits = "" if policy.max else "; calls wait until cluster.resize(max=…) raises it"
            assert self._host is not None
            self._host.resized(pool or self.fleets.default, changes, f"{why}: {what}{waits}")

        self._do(change)

    def _check_room(self, pool: str | None, changes: Mapping[str, Any]) -> None:
        """See that a higher ``max`` is not more than this process can be connected to."""
        policies, name = self.fleets.policies, pool or self.fleets.default
        if self.backend.apart or name not in policies:
            return
        most = policies[name].replace(**changes).max  # what is wrong in it is said first
        if most > policies[name].max:
            check_room(most + sum(p.max for other, p in policies.items() if other != name))

    def _check_running(self) -> None:
        if self.status in (Status.created, Status.undefined):
            raise BackendError("the cluster has not started; write `await cluster` before")
        if self.status is not Status.running:
            raise closed(self.name, self.over)

    def _do(self, change: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a change that never waits on the cluster's event loop."""
        self._check_running()
        if self.called_from_running_loop:
            # Run to its end here and now, as what calls this is not a coroutine.
            with contextlib.suppress(StopIteration):
                change().send(None)
        else:
            self.sync(change)

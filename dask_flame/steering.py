"""What a user sees and changes of a cluster's pools (driver)."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from distributed import Security, Status
from distributed.deploy.cluster import Cluster

from dask_flame.checks import whole
from dask_flame.costs import Costs, costs
from dask_flame.errors import BackendError, PoolError
from dask_flame.fleet import Member, Phase
from dask_flame.manifest import Manifest
from dask_flame.pool import Pool
from dask_flame.specs import check_taken, runner_spec

if TYPE_CHECKING:
    from dask_flame.adaptive import FlameAdaptive
    from dask_flame.backends import Backend, RunnerSpec
    from dask_flame.boots import Boots
    from dask_flame.events import EventLog
    from dask_flame.pools import Pools

_OBSERVED = (Phase.READY, Phase.PAUSED, Phase.DRAINING)
#: What is not said in an event when it is changed.
_SECRET = ("env", "secrets", "pod_template")


class Steering(Cluster):
    """The side of a :class:`dask_flame.FlameCluster` that is about its pools."""

    fleets: Pools
    events: EventLog
    backend: Backend
    boots: Boots
    _adaptive: FlameAdaptive
    _came_to: Costs | None

    @abstractmethod
    def _pools(self) -> dict[str, Any]:
        """The pools' state, in the form that ``Reports.pools`` describes."""

    @abstractmethod
    def _spec(self, pool: str) -> RunnerSpec:
        """What a runner of this pool is told, but for its name."""

    def _expected(self) -> list[RunnerSpec]:
        """What runners of each pool are told, but for their names and where the scheduler is."""
        return [
            runner_spec("", policy, of=pool, scheduler="", security=Security())
            for pool, policy in self.fleets.policies.items()
        ]

    # What there is

    @property
    def pools(self) -> Mapping[str, Pool]:
        """The policies in force, by name; the first is the default."""
        return MappingProxyType(self.fleets.policies)

    @property
    def runners(self) -> Mapping[str, Member]:
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
            A mapping from names of pools to :class:`dask_flame.costs.Cost`, shown as a line for
            each: the time of runners and of GPUs, how much of it with a call, and, where the
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
        started = getattr(self, "scheduler", None) is not None
        return costs(self._pools()["pools"]) if started else Costs()

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
        >>> print(cluster.manifest())                                    # doctest: +SKIP
        >>> Path("flame.yaml").write_text(str(cluster.manifest()))       # doctest: +SKIP
        """
        if self.status in (Status.created, Status.undefined):
            raise BackendError("the cluster has not started; write `await cluster` before")
        return Manifest(
            item
            for pool, fleet in self.fleets
            for item in self.backend.manifest(replace(self._spec(pool), name=fleet.next_name))
        )

    # What can be changed

    def scale(self, n: int) -> None:
        """Have exactly n runners, whatever the demand: sets the default pool's min and max to n.

        Runners that are busy are left to finish their calls before they go. ``adapt`` makes the
        pool follow demand again, for example ``cluster.adapt(minimum=0, maximum=8)``.
        """
        whole("n", n, 0)
        self._resize(None, {"min": n, "max": n}, f"scale({n})")

    def adapt(
        self, *, minimum: int | None = None, maximum: int | None = None, **others: Any
    ) -> FlameAdaptive:
        """Follow demand within these bounds; those not given stay as they are.

        It is the default pool's bounds that change; see :meth:`resize` for another pool's.

        Returns
        -------
        FlameAdaptive
            Where the scheduler is apart from the driver, what has the bounds alone.

        Raises
        ------
        PoolError
        """
        if others:
            raise PoolError(
                f"adapt() does not take {', '.join(others)}; "
                "write cluster.adapt(minimum=0, maximum=8)"
            )
        policy = self.fleets.policies[self.fleets.default]
        low = policy.min if minimum is None else whole("minimum", minimum, 0)
        high = policy.max if maximum is None else whole("maximum", maximum, 0)
        if low > high:
            raise PoolError(
                f"minimum={low} is more than maximum={high}; "
                f"write cluster.adapt(minimum={high}, maximum={low})"
            )
        self._resize(None, _given(min=minimum, max=maximum), "adapt")
        return self._adaptive

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
        """
        self._resize(pool, changes, "resize")
        return self.fleets.policies[pool or self.fleets.default]

    def _resize(self, pool: str | None, changes: Mapping[str, Any], why: str) -> None:
        async def change() -> None:
            check_taken(self.backend, changes)
            policy = self.fleets.resize(pool, changes)
            self.backend.expect(self._expected())
            said: dict[str, Any] = {"min": policy.min, "max": policy.max}
            shown = {**vars(policy), **policy.pod.given}
            said |= {n: shown.get(n) for n in changes if n not in _SECRET}
            what = ", ".join(f"{name}={value}" for name, value in said.items())
            waits = "" if policy.max else "; calls wait until cluster.resize(max=…) raises it"
            self._resized(pool or self.fleets.default, changes, f"{why}: {what}{waits}")

        if self.called_from_running_loop:
            # It never waits: run to its end here and now, as what calls this is not a coroutine.
            with contextlib.suppress(StopIteration):
                change().send(None)
        else:
            self.sync(change)

    def _resized(self, pool: str, changes: Mapping[str, Any], text: str) -> None:
        """Have a policy that has changed followed."""
        raise NotImplementedError


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}

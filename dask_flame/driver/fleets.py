"""The pools of a cluster: their policies and their fleets (driver)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dask_flame.core.backend_options import option_names
from dask_flame.core.budget import Budget
from dask_flame.core.option_checks import EXAMPLES, line, shown, whole, wrong
from dask_flame.core.pool import Pool, known_option, refuse_unknown
from dask_flame.core.settings import configured
from dask_flame.errors import PoolError
from dask_flame.scaling.fleet import Fleet
from dask_flame.scaling.runner_index import RunnerState

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,39}[A-Za-z0-9])?")


def make_pools(
    pools: Mapping[str, Pool] | None, options: Mapping[str, Any], others: tuple[str, ...]
) -> dict[str, Pool]:
    """Return the pools for a cluster's arguments, by name; the first is the default.

    Parameters
    ----------
    pools : mapping of str to Pool, or None
    options : mapping
        Options of the only pool if `pools` is None, and otherwise options of the backend for all
        pools that do not have their own. Options whose value is None are ignored.
    others : tuple of str
        Names of the cluster's other options, for the error about an unknown option.

    Raises
    ------
    PoolError
    """
    given = {name: value for name, value in options.items() if value is not None}
    refuse_unknown(given, others=others)
    if pools is None:
        if "max" in given:
            # 0 is valid beside other pools and in resize(), but here nothing could ever run.
            whole("max", given["max"], 1)
        return {"default": Pool(**given)}
    shared = {name: given.pop(name) for name in [*given] if name in option_names()}
    if given:
        name = next(iter(given))
        raise PoolError(
            f"{name} belongs to a pool, and pools= is given; "
            f'write pools={{"cpu": Pool({line(name)})}}'
        )
    if not isinstance(pools, Mapping) or not pools:
        raise wrong("pools", pools, "a mapping of names to pools")
    for name, pool in pools.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise PoolError(
                f"pools has the name {shown(name)}; a pool's name is made of letters, digits and "
                f"-; write pools={EXAMPLES['pools']}"
            )
        if not isinstance(pool, Pool):
            raise PoolError(
                f'pools[{name!r}] is a {type(pool).__name__}; write pools={{"{name}": Pool(max=8)}}'
            )
    return {name: pool.with_defaults(shared) for name, pool in pools.items()}


class PoolFleets:
    """The fleets of a cluster, by pool name.

    Parameters
    ----------
    pools : mapping of str to Pool
        The first is the default. Names of runners begin with the pool's name, or with ``runner`` in
        a cluster with one unnamed pool.
    budget : Budget, optional

    Attributes
    ----------
    budget : Budget or None
        What the runners of all pools together may cost.
    """

    def __init__(self, pools: Mapping[str, Pool], budget: Budget | None = None) -> None:
        self.budget = budget
        plain = list(pools) == ["default"]
        self.default = next(iter(pools))
        retry: float = configured("capacity-retry")
        self.fleets = {
            name: Fleet(pool, prefix="runner" if plain else name, capacity_retry=retry)
            for name, pool in pools.items()
        }
        self.stopped = ""  # why no runner boots any more
        self._pool_of: dict[str, str] = {}

    @property
    def policies(self) -> dict[str, Pool]:
        """The current policies, by pool name."""
        return {name: fleet.pool for name, fleet in self.fleets.items()}

    @property
    def members(self) -> dict[str, RunnerState]:
        """A copy of all runners, by name."""
        return {
            name: m for fleet in self.fleets.values() for name, m in list(fleet.members.items())
        }

    def booted(self, pool: str, names: tuple[str, ...]) -> None:
        """Record that these runners of a pool were requested."""
        self._pool_of.update(dict.fromkeys(names, pool))

    def of(self, runner: str) -> str | None:
        """Return the pool of a runner; None if the runner is unknown."""
        return self._pool_of.get(runner)

    def fleet_of(self, runner: str) -> Fleet | None:
        pool = self._pool_of.get(runner)
        return None if pool is None else self.fleets[pool]

    def forget(self, runner: str) -> None:
        """Forget a runner that has ended."""
        self._pool_of.pop(runner, None)

    def suspend(self, why: str) -> None:
        """Keep no runners, for this reason; an empty reason resumes, unless stopped."""
        for fleet in self.fleets.values():
            fleet.suspended = self.stopped or why

    def stop(self, why: str) -> None:
        """Permanently keep no runners, for this reason."""
        self.stopped = why
        self.suspend(why)

    def known(self, pool: str | None) -> str:
        """Return the name of an existing pool, by default the first one.

        Raises
        ------
        PoolError
            If there is no such pool.
        """
        name = self.default if pool is None else pool
        if not isinstance(name, str) or name not in self.fleets:
            # A number was probably meant as a bound.
            hint = f"; write cluster.resize(max={name})" if shown(name).isdigit() else ""
            raise PoolError(
                f"there is no pool {shown(name)}; there are {', '.join(map(repr, self.fleets))}"
                f"{hint or f'; write pool={self.default!r}'}"
            )
        return name

    def resize(self, pool: str | None, changes: Mapping[str, Any]) -> Pool:
        """Change a pool's policy.

        Raises
        ------
        PoolError
            If there is no such pool, or an option is invalid or cannot be changed. Nothing has
            changed.
        """
        name = self.known(pool)
        refuse_unknown(changes)
        for fixed in changes:
            # The scheduler and running runners receive these options only once.
            if (known := known_option(fixed)).fixed:
                raise PoolError(
                    f"{fixed} cannot be changed while the cluster runs; "
                    f'declare another pool: pools={{"other": Pool({fixed}={known.example})}}'
                )
        self.fleets[name].resize(**changes)
        return self.fleets[name].pool

    def __iter__(self) -> Iterator[tuple[str, Fleet]]:
        return iter(self.fleets.items())

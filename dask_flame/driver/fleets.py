"""The pools of a cluster: their policies and their fleets (driver)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dask_flame.core.option_checks import EXAMPLES, line, shown, whole, wrong
from dask_flame.core.pool import Pool, known_option, refuse_unknown
from dask_flame.errors import PoolError
from dask_flame.scaling.fleet import Fleet
from dask_flame.scaling.runner_index import RunnerState

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,39}[A-Za-z0-9])?")


def make_pools(
    pools: Mapping[str, Pool] | None, options: Mapping[str, Any], others: tuple[str, ...]
) -> dict[str, Pool]:
    """The pools that a cluster's arguments ask for, by name; the first is the default.

    Parameters
    ----------
    pools : mapping of str to Pool, or None
    options : mapping
        Options of the one pool of a cluster that names none; those that are None were not given.
    others : tuple of str
        Options that are not a pool's, for the error where there is an unknown one.

    Raises
    ------
    PoolError
    """
    given = {name: value for name, value in options.items() if value is not None}
    refuse_unknown(given, others=others)
    if pools is None:
        if "max" in given:
            # Not 0, as in a pool beside others, or while it runs: nothing could ever run.
            whole("max", given["max"], 1)
        return {"default": Pool(**given)}
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
    return dict(pools)


class PoolFleets:
    """The fleets of a cluster, by the names of their pools.

    Parameters
    ----------
    pools : mapping of str to Pool
        The first is the default. Runners bear their pool's name, except those of a cluster that
        has but one pool without a name.
    """

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        plain = list(pools) == ["default"]
        self.default = next(iter(pools))
        self.fleets = {
            name: Fleet(pool, prefix="runner" if plain else name) for name, pool in pools.items()
        }
        self.stopped = ""  # why there is to be no runner any more
        self._pool_of: dict[str, str] = {}

    @property
    def policies(self) -> dict[str, Pool]:
        """The policies in force."""
        return {name: fleet.pool for name, fleet in self.fleets.items()}

    @property
    def members(self) -> dict[str, RunnerState]:
        """All runners, by name; a copy."""
        return {
            name: m for fleet in self.fleets.values() for name, m in list(fleet.members.items())
        }

    def booted(self, pool: str, names: tuple[str, ...]) -> None:
        """These runners of a pool were asked for."""
        self._pool_of.update(dict.fromkeys(names, pool))

    def of(self, runner: str) -> str | None:
        """The pool of a runner, None where it is not known."""
        return self._pool_of.get(runner)

    def fleet_of(self, runner: str) -> Fleet | None:
        pool = self._pool_of.get(runner)
        return None if pool is None else self.fleets[pool]

    def forget(self, runner: str) -> None:
        """A runner is gone."""
        self._pool_of.pop(runner, None)

    def suspend(self, why: str) -> None:
        """Have no runner at all, for this reason; with an empty one, go on, unless stopped."""
        for fleet in self.fleets.values():
            fleet.suspended = self.stopped or why

    def stop(self, why: str) -> None:
        """Have no runner any more, for this reason."""
        self.stopped = why
        self.suspend(why)

    def known(self, pool: str | None) -> str:
        """Return the name of a pool, by default the first one's.

        Raises
        ------
        PoolError
            If there is no such pool.
        """
        name = self.default if pool is None else pool
        if not isinstance(name, str) or name not in self.fleets:
            # A number in its place was meant for a bound.
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
            If there is no such pool, an option is wrong, or cannot be changed; nothing has changed.
        """
        name = self.known(pool)
        refuse_unknown(changes)
        for fixed in changes:
            # Placement and running runners were told once and for all.
            if (known := known_option(fixed)).fixed:
                raise PoolError(
                    f"{fixed} cannot be changed while the cluster runs; "
                    f'declare another pool: pools={{"other": Pool({fixed}={known.example})}}'
                )
        self.fleets[name].resize(**changes)
        return self.fleets[name].pool

    def __iter__(self) -> Iterator[tuple[str, Fleet]]:
        return iter(self.fleets.items())

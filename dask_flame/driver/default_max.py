"""Bound pools whose ``max`` the user has not written by what the backend can hold (driver)."""

from __future__ import annotations

from collections.abc import Iterable

from dask_flame.backends.base import Backend
from dask_flame.backends.specs import RunnerSpec
from dask_flame.core import open_files
from dask_flame.core.pool import Pool
from dask_flame.driver.fleets import PoolFleets


def follow(fleets: PoolFleets, backend: Backend, specs: Iterable[RunnerSpec]) -> dict[str, Pool]:
    """Bound such pools; return those whose ``max`` or its origin has changed, by name.

    Parameters
    ----------
    fleets : PoolFleets
    backend : Backend
        One that has started.
    specs : iterable of RunnerSpec
        A runner of each pool.
    """
    if (ask := getattr(backend, "most_runners", None)) is None:
        return {}  # a backend of another package need not be derived from Backend
    changed = {}
    for spec in specs:
        fleet = fleets.fleets[spec.pool]
        if not fleet.pool.max_from or (most := ask(spec)) is None:
            continue
        number, why = most.number, most.why
        if (open_for := _open_for(fleets)) is not None and number > open_for:
            number, why = open_for, f"{why}; the driver may not open files for more"
        if fleet.hold(number, why):
            changed[spec.pool] = fleet.pool
    return changed


def _open_for(fleets: PoolFleets) -> int | None:
    """Return for how many runners of such a pool the driver may open files; None if for any."""
    if (most := open_files.most_runners()) is None:
        return None
    policies = fleets.policies.values()
    shared = [policy for policy in policies if policy.max_from]
    return max(1, (most - sum(p.max for p in policies if not p.max_from)) // len(shared))

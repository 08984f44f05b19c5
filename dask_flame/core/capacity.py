"""The number of calls that a pool can run at a time at full size (driver, runner, scheduler).

Libraries that divide work ask for the number of workers, which says little in a pool that boots
workers on demand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from distributed import Client, Scheduler

if TYPE_CHECKING:
    from dask_flame.core.pool import Pool


def capacity(
    client: Client, *, pool: str | None = None, resources: Mapping[str, float] | None = None
) -> int | None:
    """Return how many calls can run at a time in the pool that takes them.

    Parameters
    ----------
    client : distributed.Client
        A synchronous client.
    pool : str, optional
        By default the first pool that offers the resources.
    resources : mapping of str to float, optional
        The resources of each call, as in ``client.submit(..., resources={"GPU": 1})``.

    Returns
    -------
    int or None
        None if the scheduler is not a dask-flame scheduler, or has no such pool.
    """
    try:
        counted: int | None = client.run_on_scheduler(_ask, pool, dict(resources or {}))
    except ImportError:
        return None  # the scheduler does not have this module
    return counted


def _ask(
    pool: str | None, resources: dict[str, float], dask_scheduler: Scheduler | None = None
) -> int | None:
    policies = getattr(dask_scheduler, "policies", None)
    return None if policies is None else slots(policies(), pool, resources)


def slots(
    policies: Mapping[str, Pool], pool: str | None, resources: Mapping[str, float]
) -> int | None:
    """Return how many calls with these resources can run at a time.

    Parameters
    ----------
    policies : mapping of str to Pool
    pool : str or None
        None: the first pool that offers the resources.
    resources : mapping of str to float
        The resources of each call.

    Returns
    -------
    int or None
        None if no pool fits.

    Examples
    --------
    >>> from dask_flame import Pool
    >>> pools = {"cpu": Pool(max=4, concurrency=2), "gpu": Pool(max=2, concurrency=4, gpus=2)}
    >>> slots(pools, None, {}), slots(pools, "gpu", {}), slots(pools, None, {"GPU": 1})
    (8, 8, 4)
    """
    fitting = [
        policy
        for name, policy in policies.items()
        if pool in (None, name)
        and all(policy.offers.get(what, 0) >= amount for what, amount in resources.items())
    ]
    if not fitting:
        return None
    policy = fitting[0]
    shares = [int(policy.offers[what] // amount) for what, amount in resources.items() if amount]
    return policy.max * min([policy.concurrency, *shares])

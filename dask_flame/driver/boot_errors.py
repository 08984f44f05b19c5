"""The errors of calls that wait for runners which do not boot (driver)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_flame.core.text import split_advice
from dask_flame.errors import BootError, BootTimeout

if TYPE_CHECKING:
    from dask_flame.core.pool import Pool
    from dask_flame.driver.fleets import PoolFleets
    from dask_flame.driver.journal_writer import JournalWriter
    from dask_flame.scaling.fleet import Fleet, GiveUp


def boot_error(
    pool: str, give_up: GiveUp, fleets: PoolFleets, writer: JournalWriter
) -> tuple[BootError, str]:
    """Return the error for calls that wait for failing boots, and the reason."""
    why = give_up.reason
    if give_up.late:
        # For a boot that ended by itself, its own event says how far it came.
        why += writer.how_far([give_up.runner])
        why += _what_took_long(
            fleets.policies[pool], setting_up=writer.is_setting_up(give_up.runner)
        )
    kind = BootTimeout if give_up.late else BootError
    of = f" of pool {pool!r}" if len(fleets.fleets) > 1 else ""
    settings = (
        "Relevant settings of the pool: preload, setup, env, boot_timeout, boot_attempts and "
        "on_boot_failure; of the cluster: packages. "
    )
    if split_advice(why)[1]:
        settings = ""  # the reason names those that matter
    error = kind(
        f"no runner{of} could start, so the calls that waited for one have failed: {why}\n"
        f"{settings}See cluster.events and cluster.get_logs() for more; calls submitted from "
        "now on try again, and these do with client.retry(futures). Dask gives the same call "
        "the same error for as long as its future is held."
    )
    return error, why


def _what_took_long(policy: Pool, *, setting_up: bool) -> str:
    """Return what a late boot was doing, and the setting to change; empty if unknown."""
    if setting_up:
        what = "its setup= has not ended"
    elif policy.preload:
        what = f"preload={list(policy.preload)} is imported"
    else:
        return ""
    limit = policy.boot_timeout
    return (
        f"\n{what} within boot_timeout={limit:g} s; where it takes longer, write "
        f'boot_timeout="{4 * limit:g}s"'
    )


def stopped_error(why: str) -> BootError:
    """Return the error for calls of a cluster that somebody else has stopped."""
    return BootError(
        f"{why}, so no runner will run this; results that the driver has can still be "
        "read. To go on, write cluster.close() and make a new FlameCluster"
    )


def why_none(pool: str, fleet: Fleet, *, default: bool) -> str:
    """Return why a pool may have no runner at all, and what to write.

    Parameters
    ----------
    pool : str
    fleet : Fleet
    default : bool
        Whether it is the pool that is meant if none is named.
    """
    if fleet.fixed is not None:
        return fleet.bound[1]
    name = "" if default else f"{pool!r}, "
    return f"max=0; write cluster.resize({name}max=8)"

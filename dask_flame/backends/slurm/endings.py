"""End the jobs of runners (driver)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from dask_flame.backends.slurm import commands
from dask_flame.backends.slurm.runner import Runner

#: Seconds beyond its grace after which a job is ended by force.
_OVERDUE = 5.0


async def end_jobs(runners: Sequence[Runner], grace: float) -> None:
    """End the jobs of runners; return when the ends of all were reported, as lists show them.

    Raises
    ------
    SlurmError
    """
    if grace:
        await _in_peace(runners, grace)
    await _by_force([runner for runner in runners if not runner.gone.is_set()])


async def _in_peace(runners: Sequence[Runner], grace: float) -> None:
    running = [r for r in runners if r.job is not None and r.job.running]
    waiting = [r.target for r in runners if r not in running]
    await commands.cancel(waiting)
    told = [r.target for r in running]
    await commands.signal("TERM", told)
    await _all_gone(runners, grace if running else _OVERDUE)


async def _by_force(runners: Sequence[Runner]) -> None:
    while runners:
        targets = [runner.target for runner in runners]
        # First, because they would start in place of the others.
        await commands.cancel(targets, state="PENDING")
        await commands.signal("USR1", targets)
        await commands.cancel(targets)
        await _all_gone(runners, _OVERDUE)
        runners = [runner for runner in runners if not runner.gone.is_set()]


async def _all_gone(runners: Sequence[Runner], within: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await asyncio.gather(*(runner.gone.wait() for runner in runners))

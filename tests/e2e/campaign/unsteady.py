"""A local backend that fails on demand (driver): real runners, asked for in vain now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from dask_flame.backends import BackendContext, RunnerSpec
from dask_flame.backends.local import LocalBackend
from tests.e2e.campaign.case import Unsteady

_SLOW = 0.4


class UnsteadyBackend(LocalBackend):
    """Fails as it is told to, then works.

    Parameters
    ----------
    context : BackendContext
    plan : Unsteady
    through : callable, optional
        Given the scheduler's address, says at which one runners are to register.
    """

    def __init__(
        self,
        context: BackendContext,
        *,
        plan: Unsteady,
        through: Callable[[str], str] = lambda address: address,
    ) -> None:
        super().__init__(context)
        self._unsteady_way = through
        # Of names that the class below has no use for.
        self._unsteady_boots = iter(plan.boot)
        self._unsteady_ends = iter(plan.end)
        self._unsteady_lists = iter(plan.list)
        self.refused = 0  # boots that were not accepted, or not said to be

    @property
    def mark(self) -> str:
        """What the environment of every process of its runners begins with."""
        return self._mark

    @property
    def supervisor(self) -> int | None:
        """The supervisor's process."""
        return None if self._supervisor is None else self._supervisor.pid

    def pid(self, runner: str) -> int | None:
        """A living runner's process."""
        return self._runners.get(runner)

    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        specs = [replace(spec, scheduler=self._unsteady_way(spec.scheduler)) for spec in specs]
        way = next(self._unsteady_boots, "ok")
        if way in ("before", "half", "after"):
            self.refused += 1
        if way == "before":
            raise OSError("the campaign has no quota")
        await super().boot(specs[: len(specs) // 2] if way == "half" else specs)
        if way == "slow":
            await asyncio.sleep(_SLOW)
        elif way in ("half", "after"):
            raise OSError("the campaign has lost the answer")

    async def end(self, names: Collection[str], *, grace: float = 0) -> None:
        way = next(self._unsteady_ends, "ok")
        if way == "before":
            raise OSError("the campaign cannot end anything now")
        if way == "slow":
            await asyncio.sleep(_SLOW)
        await super().end(names, grace=grace)
        if way == "after":
            raise OSError("the campaign has lost the answer")

    async def list(self) -> set[str]:
        way = next(self._unsteady_lists, "ok")
        if way == "before":
            raise OSError("the campaign has lost its list")
        if way == "slow":
            await asyncio.sleep(_SLOW)
        return await super().list()

"""A backend that asks the driver's, for a scheduler apart from it (scheduler's pod)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from dask_flame.backends.base import Backend, BackendContext, RunnerSpec
from dask_flame.core.channel import Channel


class ProxyBackend(Backend):
    """Passes on what is asked of it, and what is said of runners.

    What runners are told is for the driver to say: it has their environment and their secrets,
    which the scheduler needs not have.

    Parameters
    ----------
    context : BackendContext
    link : Channel
    listening : mapping
        See :attr:`dask_flame.backends.Backend.listening`.
    scratch : str
    """

    remote: ClassVar[bool] = True

    def __init__(
        self,
        context: BackendContext,
        *,
        link: Channel,
        listening: Mapping[str, Any],
        scratch: str,
    ) -> None:
        super().__init__(context)
        self._link = link
        self._listening = dict(listening)
        self._scratch = scratch

    @property
    def listening(self) -> dict[str, Any]:
        return dict(self._listening)

    @property
    def scratch(self) -> str:
        return self._scratch

    async def start(self) -> None:
        """There is nothing to do: what the driver has is there already."""

    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        await self._link.ask("boot", runners={spec.name: spec.pool for spec in specs})

    async def end(self, names: Collection[str], *, grace: float = 0) -> None:
        await self._link.ask("end", names=list(names), grace=grace)

    async def list(self) -> set[str]:
        there: set[str] = await self._link.ask("list")
        return there

    async def logs(self, names: Collection[str]) -> Mapping[str, str]:
        texts: dict[str, str] = await self._link.ask("logs", names=list(names))
        return texts

    async def close(self) -> None:
        """There is nothing to end here: the runners go with the Job that the scheduler is in."""

"""A backend that forwards requests to the driver's backend (scheduler's pod)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from dask_flame.backends.base import Backend
from dask_flame.backends.specs import BackendContext, RunnerSpec
from dask_flame.core.channel import Channel


class ProxyBackend(Backend):
    """Forward requests, and reports about runners, between the cluster and the driver's backend.

    The driver creates the launch configuration of runners: it has their environment and secrets,
    which the scheduler does not need.

    Parameters
    ----------
    context : BackendContext
    link : Channel
        The channel to the driver.
    listening : mapping
        See :attr:`dask_flame.backends.Backend.listening`.
    scratch : str
        Folder for temporary files.
    """

    remote: ClassVar[bool] = True
    #: The driver has checked the options, which are those of its backend.
    checked: ClassVar[bool] = True

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
        """Do nothing: the driver's backend has already started."""

    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        await self._link.ask("boot", runners={s.name: (s.pool, s.kind) for s in specs})

    async def end(self, names: Collection[str], *, grace: float = 0) -> None:
        await self._link.ask("end", names=list(names), grace=grace)

    async def list(self) -> set[str]:
        there: set[str] = await self._link.ask("list")
        return there

    async def logs(self, names: Collection[str]) -> Mapping[str, str]:
        texts: dict[str, str] = await self._link.ask("logs", names=list(names))
        return texts

    async def close(self) -> None:
        """Do nothing: the runners end with the Job that the scheduler belongs to."""

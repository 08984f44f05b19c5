"""One list of all machines of a cluster, asked for as rarely as it may be (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from dask_flame.backends.fly.api.client import FlyApi
from dask_flame.backends.fly.api.errors import FlyError
from dask_flame.backends.fly.api.types import Machine
from dask_flame.backends.fly.metadata import CLUSTER

logger = logging.getLogger("dask_flame")

Known = TypeVar("Known", bound=Hashable)

#: Seconds between two lists while machines start or end, and while none does. All drivers of an app
#: share one list a second.
ACTIVE, QUIET = 1.0, 4.0


class MachineWatch(Generic[Known]):
    """List the machines of a cluster again and again, while there are any.

    Parameters
    ----------
    api : FlyApi
    cluster : str
    known : callable
        Returns what is known to exist at the beginning of a list. Only of that may its absence in
        the list mean anything.
    seen : callable
        Called with the machines, and with what was known.
    needed : callable
        Returns the number of machines that are about to start or end, and whether there are any.
    factor : float
        How many times more than the published rates Fly allows.
    """

    def __init__(
        self,
        api: FlyApi,
        cluster: str,
        known: Callable[[], frozenset[Known]],
        seen: Callable[[list[Machine], frozenset[Known]], None],
        needed: Callable[[], tuple[bool, bool]],
        *,
        factor: float = 1.0,
    ) -> None:
        self._api = api
        self._cluster = cluster
        self._known = known
        self._seen = seen
        self._needed = needed
        self._factor = factor
        self._woken = asyncio.Event()
        self._linger_until = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """List again soon: a machine was created, or is to end."""
        self._woken.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def linger(self, seconds: float) -> None:
        """List for a while, even if no machine is known: one may still come."""
        now = asyncio.get_running_loop().time()
        self._linger_until = max(self._linger_until, now + seconds)
        self.wake()

    async def close(self) -> None:
        """Stop listing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def list_now(self) -> list[Machine]:
        """Return the cluster's machines as they are after this call.

        Raises
        ------
        FlyError
        """
        return await self._api.list_machines({CLUSTER: self._cluster})

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            active, any_ = self._needed()
            lingers = loop.time() < self._linger_until
            if not any_ and not lingers:
                return  # `wake` begins anew
            self._woken.clear()
            try:
                known = self._known()
                self._seen(await self.list_now(), known)
            except FlyError as error:
                logger.debug("the machines cannot be listed: %s", error)
            except Exception:
                logger.exception("what Fly says of the machines was not understood")
            active, _ = self._needed()
            await asyncio.sleep(ACTIVE / self._factor)
            if not (active or lingers):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), (QUIET - ACTIVE) / self._factor)

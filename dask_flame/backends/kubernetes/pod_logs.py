"""The last output of runners in pods (driver)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from dask_flame.backends.kubernetes.api.client import Api, KubernetesError
from dask_flame.backends.kubernetes.objects.resources import CONTAINER

_KEPT = 200
_LINES = 200
#: Maximum number of logs followed at a time; of others only the first part is known.
_FOLLOWED = 16


class PodLogs:
    """The last lines of runners, which are lost with their pods.

    Parameters
    ----------
    api : Api
    """

    def __init__(self, api: Api) -> None:
        self.api = api
        self._text: dict[str, str] = {}
        self._ears = asyncio.Semaphore(_FOLLOWED)

    def of(self, name: str) -> str:
        """Return the known output of a runner; may be empty."""
        return self._text.get(name, "")

    async def fetch(self, name: str, pod: str) -> None:
        """Fetch the present output of a runner."""
        self._keep(name, await self.api.log(pod, CONTAINER, lines=_LINES))

    async def follow(self, name: str, pod: str, within: float) -> None:
        """Read the output of a runner until it ends, or this is cancelled.

        Once its pod has gone, its output cannot be requested, but a stream already open is read to
        its end.

        Parameters
        ----------
        name, pod : str
        within : float
            Time limit in seconds.
        """
        # Fetched first, because the queue for a stream may be long.
        await self.fetch(name, pod)
        lines: deque[str] = deque(maxlen=_LINES)
        async with self._ears:
            try:
                with contextlib.suppress(KubernetesError, TimeoutError):
                    async with asyncio.timeout(within):
                        async for line in self.api.follow(pod, CONTAINER, lines=_LINES):
                            lines.append(line)
            finally:
                self._keep(name, "".join(f"{line}\n" for line in lines))

    def _keep(self, name: str, text: str) -> None:
        if text:
            self._text.pop(name, None)
            self._text[name] = text
            while len(self._text) > _KEPT:
                del self._text[next(iter(self._text))]

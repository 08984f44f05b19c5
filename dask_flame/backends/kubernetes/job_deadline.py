"""Limit the life of a scheduler's Job until its driver has reached it (driver).

A driver may die in its constructor, while the pod waits for room, pulls its image, or starts. At
that time no process can notice the driver's end. Therefore the Job starts with a deadline, an
``activeDeadlineSeconds``, which Kubernetes enforces whatever the state of the pod. The driver moves
it as long as it lives, and removes it once it is connected to the scheduler. The field is one of
the few in a Job's spec that may be changed: see ``ValidateJobSpecUpdate`` in
k8s.io/kubernetes/pkg/apis/batch/validation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time

from dask_flame.backends.kubernetes.api.client import JOBS, Api, KubernetesError
from dask_flame.backends.kubernetes.objects.orphans import MARGIN

logger = logging.getLogger("dask_flame")

#: Seconds between two updates, and the timeout of an update.
_PAUSE = 2.0
_WITHIN = 4.0


class Deadline:
    """Move a Job's deadline until the driver is connected to the scheduler in it.

    Parameters
    ----------
    api : Api
    grace : float
        The driver's ``disconnect_grace``, in seconds.

    Attributes
    ----------
    first : int
        Seconds from the Job's start to its first deadline.
    """

    def __init__(self, api: Api, grace: float) -> None:
        self.first = math.ceil(grace) + MARGIN
        self._api = api
        self._grace = grace
        self._job = ""
        self._made = self._moved = _now()
        self._lifted = False
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def passed(self) -> str:
        """Why the Job has ended, if the deadline has passed as far as is known here; else empty."""
        if not self._job or self._lifted or _since(self._moved) < self.first:
            return ""
        return (
            "the API server had not heard from this driver for "
            f"disconnect_grace={self._grace:g} s, and took it for gone"
        )

    async def keep(self, job: str) -> None:
        """Move the deadline of a new Job, now and periodically.

        Raises
        ------
        KubernetesError
            If it cannot be moved: the Job would end although its driver lives.
        """
        self._job = job
        self._made = self._moved = _now()
        await self._move(patience=None)
        self._task = asyncio.create_task(self._keep())

    async def remove(self, job: str) -> None:
        """Remove the deadline of a Job that an earlier driver has created.

        Raises
        ------
        KubernetesError
        """
        self._job = job
        self._connected.set()
        await self._move(patience=None)

    def lift(self) -> None:
        """Remove the deadline: from now on the scheduler notices its driver's end."""
        self._connected.set()

    async def close(self) -> None:
        """Stop moving the deadline."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        while not self._lifted:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._connected.wait(), _PAUSE)
            try:
                async with asyncio.timeout(_WITHIN):
                    await self._move(patience=0)
            except (KubernetesError, TimeoutError) as error:
                logger.debug("the deadline of %s could not be moved: %r", self._job, error)
                if isinstance(error, KubernetesError) and error.code == 404:
                    return
                await asyncio.sleep(_PAUSE / 2)

    async def _move(self, *, patience: float | None) -> None:
        now, connected = _now(), self._connected.is_set()
        seconds = None if connected else math.ceil(_since(self._made)) + self.first
        changes = {"spec": {"activeDeadlineSeconds": seconds}}
        await self._api.patch(JOBS, self._job, changes, patience=patience)
        self._moved, self._lifted = now, connected


def _now() -> tuple[float, float]:
    return time.monotonic(), time.time()


def _since(then: tuple[float, float]) -> float:
    """Return the seconds since then, including time for which this machine was suspended."""
    return max(now - before for now, before in zip(_now(), then, strict=True))

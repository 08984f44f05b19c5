"""How long a pod may wait for a node before its boot is given up (driver)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dask_flame.backends.kubernetes.api.watcher import Pod
from dask_flame.backends.kubernetes.objects import pod_status


class CapacityWait:
    """Give a boot up once its pod has been unschedulable for too long.

    Parameters
    ----------
    seconds : float or None
        How long it may be; None for as long as the boot may take.
    give_up : callable
        Called with the reason, and the resource version of the pod that it is the reason for.

    Attributes
    ----------
    seconds : float or None
    """

    def __init__(self, seconds: float | None, give_up: Callable[[str, str], object]) -> None:
        self.seconds = seconds
        self._give_up = give_up
        self._since: float | None = None  # when the pod was first seen to be unschedulable
        self._pod: Pod | None = None  # the last state of the pod, while it is
        self._timer: asyncio.TimerHandle | None = None

    @property
    def limited(self) -> bool:
        """Whether the boot will be given up if nothing changes."""
        return self._timer is not None

    def seen(self, pod: Pod, *, wanted: bool) -> None:
        """Take a new state of the pod; the boot is given up only while the runner is wanted."""
        why = pod_status.unschedulable(pod)
        self._pod = pod if why else None
        self.cancel()
        if not why:
            self._since = None
        elif self.seconds is not None and wanted:
            loop = asyncio.get_running_loop()
            if self._since is None:
                self._since = loop.time()
            version = pod["metadata"]["resourceVersion"]
            due = self._since + self.seconds
            self._timer = loop.call_at(due, self._give_up, why, version)

    def change(self, seconds: float | None, *, wanted: bool) -> None:
        """Apply another limit, also to a wait that has begun."""
        if seconds != self.seconds:
            self.seconds = seconds
            if self._pod is not None:
                self.seen(self._pod, wanted=wanted)

    def cancel(self) -> None:
        """Do not give the boot up, unless the pod is seen again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

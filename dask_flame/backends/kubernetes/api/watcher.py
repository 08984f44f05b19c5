"""Watch the pods of a cluster, with one watch for all (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from dask_flame.backends.kubernetes.api.client import PODS, Api, KubernetesError
from dask_flame.backends.kubernetes.api.transport import CLOSED
from dask_flame.core.backoff import Backoff

logger = logging.getLogger("dask_flame")

#: Longest and first delay of retries, in seconds.
_LONGEST, _FIRST = 5.0, 0.2

#: Maximum number of deleted pods to remember.
_REMEMBERED = 1_000

Pod = dict[str, Any]


class Watcher:
    """Keep track of all pods with certain labels, and report changes.

    Parameters
    ----------
    api : Api
    selector : str
    seen : callable
        Called with a new or changed pod.
    gone : callable
        Called with the last state of a pod that has been deleted.
    """

    def __init__(
        self, api: Api, selector: str, seen: Callable[[Pod], None], gone: Callable[[Pod], None]
    ) -> None:
        self.api = api
        self.selector = selector
        self.pods: dict[str, Pod] = {}
        self._seen = seen
        self._gone = gone
        self._version = ""
        self._closed = False
        self._dead: deque[str] = deque(maxlen=_REMEMBERED)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """List the pods, and start the watch."""
        await self._list()
        if not self._closed:
            self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop the watch, or prevent its start."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def take(self, pod: Pod) -> None:
        """Record the state of a pod from another response of the server."""
        self._change("MODIFIED", pod)

    def forget(self, name: str) -> bool:
        """Record that a pod does not exist, by another response; return whether that is new."""
        pod = self.pods.get(name)
        if pod is not None:
            self._change("DELETED", pod)
        return pod is not None

    async def _watch(self) -> None:
        backoff = Backoff(_FIRST, _LONGEST)
        loop = asyncio.get_running_loop()
        while True:
            wait = 0.0
            begun = loop.time()
            try:
                if not self._version:
                    await self._list()
                # aclosing: if this is cancelled, the watch's connection is closed at once.
                watch = self.api.watch(PODS, self.selector, self._version)
                async with contextlib.aclosing(watch) as events:
                    async for kind, pod in events:
                        backoff.reset()
                        self._version = pod["metadata"]["resourceVersion"]
                        if kind != "BOOKMARK":
                            self._change(kind, pod)
                if loop.time() > begun + _LONGEST:
                    continue  # it has lasted for its full duration
            except KubernetesError as error:
                if error.reason == CLOSED:
                    return
                logger.debug("watching pods: %s", error)
                wait = error.wait
                if error.code == 401:
                    await self._renew()
                elif error.code and not error.passes:
                    self._version = ""
                    if error.code == 410 and loop.time() > begun + _LONGEST:
                        continue
            except Exception:
                logger.exception("what the API server said of pods could not be taken in")
                self._version = ""
            await asyncio.sleep(max(wait, backoff.next_with_jitter()))

    async def _renew(self) -> None:
        try:
            await self.api.renew()
        except Exception as error:
            logger.debug("credentials could not be read again: %s", error)

    async def _list(self) -> None:
        pods, version = await self.api.list(PODS, self.selector)
        self._version = version
        there = {pod["metadata"]["name"]: pod for pod in pods}
        for name, known in list(self.pods.items()):
            # A pod created after the list was made is not in it.
            if name not in there and _version(known) <= int(version):
                self._change("DELETED", known)
        for pod in there.values():
            self._change("MODIFIED", pod)

    def _change(self, kind: str, pod: Pod) -> None:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        known = self.pods.get(name)
        if kind == "DELETED":
            self._dead.append(uid)
            if self.pods.pop(name, None) is not None:
                self._gone(pod)
        elif uid in self._dead:
            pass  # a response to its creation, read after its deletion
        elif known is None or _version(pod) >= _version(known):
            self.pods[name] = pod
            self._seen(pod)


def _version(pod: Pod) -> int:
    """Return the version of a pod's state, to recognize responses older than a watch event.

    Since version 1.35, Kubernetes documents that versions may be compared as numbers:
    https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
    """
    return int(pod["metadata"]["resourceVersion"])

"""The pod of a remote scheduler: create it, watch it and connect to it (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from dask_flame.backends.kubernetes.api.client import SERVICES, Api, KubernetesError
from dask_flame.backends.kubernetes.api.port_forward import PortForward
from dask_flame.backends.kubernetes.missing_pods import TEMPLATES
from dask_flame.backends.kubernetes.objects import pod_status
from dask_flame.backends.kubernetes.owner_job import OwnerJob
from dask_flame.backends.specs import SchedulerSpec
from dask_flame.core.text import with_advice
from dask_flame.errors import PRINTED, BackendError

logger = logging.getLogger("dask_flame")

_LINES = 50
#: Seconds between two queries for a Service's address: clouds take a minute or two.
_ASK_AGAIN = 1.0
#: Seconds within which Kubernetes creates a Job's pod; also the interval of queries for the reason
#: if it does not. A refusal is final after `_PATIENCE` seconds: until then, an ending cluster may
#: free room. A pod missing without a refusal is reported only then.
_SEEN_WITHIN = 2.0
_PATIENCE = 10.0
#: Settings behind a lack of nodes for it.
_NODES = (
    "flame.scheduler.cpus and .memory; nodeSelector and tolerations of "
    "flame.scheduler.pod-template and flame.kubernetes.pod-template: those of pools are not for it"
)
_DELETED = "the scheduler's pod was deleted by somebody else"


class SchedulerPod:
    """The pod of a scheduler.

    Parameters
    ----------
    api : Api
    estate : OwnerJob
        Creates the Job, which then owns all other objects.
    over : callable
        Called with the reason when the pod has ended, unless :meth:`close` was called before.
    stopped : callable
        Called before `over`, if someone else has deleted the pod.
    """

    def __init__(
        self,
        api: Api,
        estate: OwnerJob,
        over: Callable[[str], None],
        stopped: Callable[[str], None],
    ) -> None:
        self._api = api
        self._owner_job = estate
        self._over = over
        self._stopped = stopped
        self._pod = self._node = ""
        self._held = self._podless = ""
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._forwards: list[PortForward] = []
        self._burying: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self, spec: SchedulerSpec) -> str:
        """Create the Job; return once the container of its pod has started.

        Returns
        -------
        str
            Host and port of its Service; empty if it has none.

        Raises
        ------
        BackendError
        """
        looking = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(spec.timeout):
                options = self._owner_job.site.complete(spec.options)
                await self._owner_job.create_scheduler_job(spec, options)
                await self._started
                return await self._address(spec) if spec.service else ""
        except KubernetesError as error:
            was = "was refused" if error.code else "could not be asked for"
            what = f"; relevant settings: {TEMPLATES}" if error.code in (400, 422) else ""
            raise BackendError(f"the scheduler's pod {was}: {error}{what}") from error
        except TimeoutError:
            why = self._held if self._pod else self._podless or "its Job has no pod yet"
            if self._started.done() and not self._started.cancelled():
                why = f"its Service of type {spec.service} has no address yet"
            held = f": {why}" if why else ""
            raise BackendError(
                "the scheduler's pod did not start within flame.scheduler.timeout="
                f"{spec.timeout:g} s{held}"
            ) from None
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def join(self, spec: SchedulerSpec) -> str:
        """Use the pod that an earlier driver has created; see :meth:`start`.

        Raises
        ------
        BackendError
        KubernetesError
        """
        async with asyncio.timeout(spec.timeout):
            await self._started
            return await self._address(spec) if spec.service else ""

    @property
    def name(self) -> str:
        """The pod's name; empty if it is not known yet."""
        return self._pod

    async def _address(self, spec: SchedulerSpec) -> str:
        """Return the address of its Service, once the cluster or the cloud has assigned one."""
        while True:
            found = await self._api.get(SERVICES, self._owner_job.scheduler_job)
            if address := service_address(found, self._node):
                return address
            await asyncio.sleep(_ASK_AGAIN)

    async def reach(self, port: int, at: int) -> int:
        """See :meth:`dask_flame.backends.Backend.reach`."""
        forward = PortForward(self._api, self._pod, port)
        self._forwards.append(forward)
        return await forward.start(at)

    @property
    def out_of_reach(self) -> str:
        """See :attr:`dask_flame.backends.Backend.out_of_reach`."""
        return next((forward.trouble for forward in self._forwards if forward.trouble), "")

    async def close(self) -> None:
        """Close all connections. The pod is deleted with its Job."""
        self._closed = True
        if not self._started.done():
            self._started.cancel()
        if self._burying is not None:
            self._burying.cancel()
            await asyncio.gather(self._burying, return_exceptions=True)
        for forward in self._forwards:
            await forward.close()

    async def _look(self) -> None:
        """Report why an expected pod is missing; give up if it is refused."""
        waited = refused = 0.0
        said = ""
        while not self._pod:
            await asyncio.sleep(_SEEN_WITHIN)
            waited += _SEEN_WITHIN
            try:
                found = None if self._pod else await self._owner_job.podless()
            except KubernetesError as error:
                logger.debug("why there is no pod could not be asked: %s", error)
                continue
            refused = refused + _SEEN_WITHIN if found is not None and found.refused else 0.0
            if found is None:
                continue
            self._podless = found.advised
            if said != found.advised and (found.refused or waited > _PATIENCE):
                said = found.advised
                logger.warning("the scheduler's pod is not there yet: %s", said)
            if refused > _PATIENCE and not self._pod and not self._started.done():
                self._started.set_exception(
                    BackendError(f"the scheduler's pod was refused: {found.advised}")
                )
                return

    # Events of the watch

    def seen(self, pod: Mapping[str, Any]) -> None:
        """Handle a change of the pod."""
        self._pod = pod["metadata"]["name"]
        self._node = (pod.get("status") or {}).get("hostIP") or ""
        held = pod_status.held_up(pod)
        if pod_status.unschedulable(pod):
            held = with_advice(held, _NODES)
        if held and held != self._held:
            # A warning, because there is no cluster with events yet.
            logger.warning("the scheduler's pod is held up by %s", held)
        self._held = held or self._held
        if why := pod_status.ended(pod) or pod_status.hopeless(pod):
            self._end(why)
        elif "deletionTimestamp" in pod["metadata"] and not pod_status.evicted(pod):
            self._delete_seen()
        elif pod_status.step(pod) == "started" and not self._started.done():
            self._started.set_result(None)

    def gone(self, pod: Mapping[str, Any]) -> None:
        """Handle the end of the pod."""
        if not (why := pod_status.ended(pod, gone=True)):
            self._delete_seen()
        self._end(why or _DELETED)

    def _delete_seen(self) -> None:
        """Report that someone else deleted the pod: the exit of its process is then irrelevant."""
        if not self._closed and self._burying is None and self._started.done():
            self._stopped(_DELETED)

    def _end(self, why: str) -> None:
        if not self._closed and self._burying is None:
            self._burying = asyncio.create_task(self._bury(why))

    async def _bury(self, why: str) -> None:
        """Report why the pod has ended, with its last output."""
        why = self._owner_job.deadline.passed or why
        with contextlib.suppress(KubernetesError):
            printed = await self._api.log(self._pod, pod_status.SCHEDULER, lines=_LINES)
            if tail := printed.strip():
                why += pod_status.no_package(tail) + PRINTED + tail
        if not self._started.done():
            self._started.set_exception(BackendError(f"the scheduler's pod could not start: {why}"))
        else:
            self._over(why)


def service_address(service: Mapping[str, Any], node: str) -> str:
    """Return host and port of a Service; empty if it has none yet."""
    if not (host := address_of(service, node)):
        return ""
    port = service["spec"]["ports"][0]
    at = port["nodePort"] if service["spec"]["type"] == "NodePort" else port["port"]
    return f"[{host}]:{at}" if ":" in host else f"{host}:{at}"


def address_of(service: Mapping[str, Any], node: str) -> str:
    """Return the host of a Service, by its type; empty if it has none yet."""
    spec = service["spec"]
    if spec["type"] == "ClusterIP":
        return str(spec.get("clusterIP") or "")
    if spec["type"] == "NodePort":
        return node
    given = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or [{}]
    return str(given[0].get("ip") or given[0].get("hostname") or "")

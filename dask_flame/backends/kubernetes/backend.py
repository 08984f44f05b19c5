"""The Kubernetes backend: a bare pod for each runner, and one watch for all of them (driver)."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from dask_flame.backends.base import Backend
from dask_flame.backends.kubernetes.api.client import PODS, POLICIES, Api, KubernetesError
from dask_flame.backends.kubernetes.api.permissions import check
from dask_flame.backends.kubernetes.api.watcher import Pod, Watcher
from dask_flame.backends.kubernetes.objects import manifests
from dask_flame.backends.kubernetes.objects.context import DRIVER as MARK
from dask_flame.backends.kubernetes.objects.context import STOP, ObjectContext
from dask_flame.backends.kubernetes.objects.redact import shown
from dask_flame.backends.kubernetes.options import (
    KubernetesOptions,
    check_context,
    check_namespace,
    check_template,
)
from dask_flame.backends.kubernetes.own_pod import OwnPod, own_pod
from dask_flame.backends.kubernetes.owner_job import OwnerJob
from dask_flame.backends.kubernetes.pod_creation import runner_objects
from dask_flame.backends.kubernetes.runner_pods import RunnerPods
from dask_flame.backends.kubernetes.scheduler_pod import SchedulerPod
from dask_flame.backends.runner_events import STOPPED
from dask_flame.backends.specs import BackendContext, RunnerSpec, SchedulerSpec
from dask_flame.core import config
from dask_flame.core.backend_options import BackendOptions
from dask_flame.core.connection import this_process
from dask_flame.core.options import Check
from dask_flame.errors import BackendError

if TYPE_CHECKING:
    from dask_flame.backends.inspector import Inspector

logger = logging.getLogger("dask_flame")

#: Default `disconnect_grace` in seconds if the driver reaches its scheduler through the API server,
#: which is unavailable for longer when it is upgraded or restarted.
_GRACE = 120.0
#: Maximum time in seconds for each step of closing.
_CLOSE_WITHIN = 15.0


class KubernetesBackend(Backend):
    """Run runners as pods.

    Each runner is a bare Pod. If the driver is in a pod of the same cluster, all objects are owned
    by a Job, see :mod:`dask_flame.backends.kubernetes.watchdog`, which is owned by the driver's
    pod; nothing is created before the first boot. Otherwise, they are owned by the Job of the
    scheduler, see :mod:`dask_flame.remote`.

    Notes
    -----
    The permissions needed are in :data:`dask_flame.backends.kubernetes.api.permissions.NEEDED`.
    """

    name: ClassVar[str] = "kubernetes"
    Options: ClassVar[type[BackendOptions]] = KubernetesOptions
    remote: ClassVar[bool] = True
    disposable: ClassVar[bool] = True
    holds_secrets: ClassVar[bool] = True
    adopts: ClassVar[bool] = True
    scheduler_places: ClassVar[frozenset[str]] = frozenset({"driver", "pod"})
    places: ClassVar[Mapping[str, Check]] = {
        "namespace": check_namespace,
        "context": check_context,
    }

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        # Clusters may have the same name; the random part keeps their objects apart.
        new = f"{context.cluster}-{secrets.token_hex(3)}".lower()
        self._id = context.adopts or new
        self._driver = ""  # this driver's id, if it has taken the cluster over
        # Whether what exists is another driver's: while this one is not connected, and once another
        # one has taken its place.
        self._left = bool(context.adopts)
        self._api: Api | None = None
        self._watcher: Watcher | None = None
        self._host = ""
        self._pods: RunnerPods | None = None
        self._owner_job: OwnerJob | None = None
        self._apart = False
        self._scheduler_pod: SchedulerPod | None = None
        self._closing: asyncio.Task[None] | None = None
        self._why_stopped = ""

    @property
    def listening(self) -> dict[str, Any]:
        return {"host": self._host}

    @property
    def apart(self) -> bool:
        return self._apart

    @property
    def disconnect_grace(self) -> float:
        far = self._apart and config.get("scheduler.service") is None
        if far and self.context.disconnect_grace is None:
            return _GRACE
        return super().disconnect_grace

    @property
    def _selector(self) -> str:
        """Selector of all pods to watch: of runners, and of the watchdog or the scheduler.

        The pods of the latter carry messages for the driver, as annotations.
        """
        which = "dask.org/component in (worker,watchdog,scheduler)"
        return f"dask.org/cluster-name={self._id},{which}"

    def expect(self, specs: Sequence[RunnerSpec]) -> None:
        if self._pods is not None:
            self._pods.expect({spec.pool: spec.capacity_wait for spec in specs})

    async def start(self) -> None:
        try:
            where, seat = self.context.places, self.context.scheduler
            self._api = await Api.connect(
                namespace=where.get("namespace"), context=where.get("context")
            )
            if "namespace" in where and not await self._api.has_namespace():
                raise BackendError(_no_namespace(self._api.namespace))
            place = await own_pod(self._api)
            if place is None and seat == "driver":
                raise BackendError(
                    'scheduler="driver" needs a driver in a pod of the cluster, as a JupyterHub '
                    "server is, that may get its own pod; this one is in none that can be found. "
                    "Where the pod's host name is not its name, set POD_NAME in it; elsewhere "
                    'or where namespace= is another one than its own, write scheduler="pod"'
                )
            self._apart = seat == "pod" or place is None or bool(self.context.adopts)
            setting, given = KubernetesOptions.setting, KubernetesOptions.configured().given
            if (template := config.get("scheduler.pod-template")) is not None:
                check_template("flame.scheduler.pod-template", template)
            fenced = setting("network-policy")
            await check(
                self._api,
                apart=self._apart,
                service=config.get("scheduler.service") is not None,
                but=() if fenced else (POLICIES,),
            )
            place = place or OwnPod.none()
            self._host = place.address
            site = ObjectContext(
                cluster=self._id,
                namespace=self._api.namespace,
                image=given.get("image") or place.image or None,
                owner=place.owner if place.name else None,
                nodes=place.nodes,
                pull_secrets=place.pull_secrets,
                user=place.user or ObjectContext.user,
                group=place.group or ObjectContext.group,
                gpu_kinds=setting("gpu-kinds"),
                gpu_label=setting("gpu-label"),
                template=setting("pod-template"),
                defaults={name: value for name, value in given.items() if name != "image"},
            )
            policy = partial(manifests.network_policy, driver=place.labels, address=place.address)
            trouble = partial(self.trouble, "")
            self._owner_job = OwnerJob(
                self._api, site, policy if fenced else None, trouble, grace=self.disconnect_grace
            )
            self._watcher = Watcher(self._api, self._selector, self._seen, self._gone)
            self._pods = RunnerPods(
                self._api,
                self._owner_job,
                self._watcher,
                self,
                left=lambda: self._left,
                refused=self._refused,
            )
            if not self.context.adopts:
                await self._watcher.start()
            if self._closing is not None:
                # Closed in the meantime, perhaps before there was anything to close.
                await self._close()
                raise BackendError("the cluster is closed")
        except KubernetesError as error:
            await self.close()
            advice = "" if self._api is None else self._api.advice(error)
            raise BackendError(f"the Kubernetes API cannot be used: {error}{advice}") from error
        except BaseException:
            await self.close()
            raise

    async def start_scheduler(self, spec: SchedulerSpec, over: Callable[[str], None]) -> str:
        assert self._api is not None
        assert self._owner_job is not None
        self._scheduler_pod = SchedulerPod(self._api, self._owner_job, over, self._stop)
        return await self._scheduler_pod.start(spec)

    async def join_scheduler(
        self, spec: SchedulerSpec, over: Callable[[str], None], *, driver: str
    ) -> str:
        assert self._api is not None
        assert self._owner_job is not None
        assert self._watcher is not None
        assert self._pods is not None
        self._driver = driver
        self._scheduler_pod = SchedulerPod(self._api, self._owner_job, over, self._stop)
        try:
            await self._owner_job.join_scheduler_job()
            # A driver that still lives sees this before it sees pods that it does not know.
            pod = await self._find_scheduler_pod()
            mark = {"metadata": {"annotations": {MARK: f"{driver} {this_process()}"}}}
            await self._api.patch(PODS, pod, mark)
            self._pods.finding = True
            try:
                await self._watcher.start()
            finally:
                self._pods.finding = False
            return await self._scheduler_pod.join(spec)
        except KubernetesError as error:
            raise BackendError(f"{self._id} cannot be taken over: {error}") from error
        except TimeoutError:
            raise BackendError(
                f"{self._id} cannot be taken over: its scheduler was not seen to run within "
                f"flame.scheduler.timeout={spec.timeout:g} s"
            ) from None

    async def _find_scheduler_pod(self) -> str:
        assert self._api is not None
        selector = f"dask.org/cluster-name={self._id},dask.org/component=scheduler"
        pods, _ = await self._api.list(PODS, selector)
        names = [p["metadata"]["name"] for p in pods if "deletionTimestamp" not in p["metadata"]]
        if not names:
            raise KubernetesError(404, "NotFound", "its scheduler's pod is gone")
        return str(names[-1])

    def scheduler_connected(self) -> None:
        assert self._owner_job is not None
        self._left = False
        self._owner_job.deadline.lift()

    def leave(self) -> None:
        self._left = True

    async def look_for_successor(self) -> None:
        if self._api is None or self._scheduler_pod is None or not self._scheduler_pod.name:
            return
        try:
            async with asyncio.timeout(_CLOSE_WITHIN):
                self._look_for_successor(await self._api.get(PODS, self._scheduler_pod.name))
        except (KubernetesError, TimeoutError) as error:
            if isinstance(error, KubernetesError) and error.code == 404:
                return  # a cluster whose scheduler is gone has no other driver
            logger.warning(
                "the Job of %s, which owns all of it, could not be deleted (%s); it ends by itself "
                "once it has heard nothing of this driver for disconnect_grace, unless another "
                "process has become the driver",
                self._id,
                error if str(error) else f"no answer within {_CLOSE_WITHIN:g} s",
            )
            self.leave()

    def _look_for_successor(self, pod: Pod) -> None:
        mark = str((pod["metadata"].get("annotations") or {}).get(MARK, ""))
        id, _, where = mark.partition(" ")
        # While this driver joins, it may still see the mark of the one before.
        if id and id != self._driver and not self._left:
            self.replaced(f"another process has become the driver of this cluster: {where}")

    async def reach(self, port: int, *, at: int = 0) -> int:
        assert self._scheduler_pod is not None
        return await self._scheduler_pod.reach(port, at)

    @property
    def out_of_reach(self) -> str:
        return self._scheduler_pod.out_of_reach if self._scheduler_pod is not None else ""

    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        pods = self._pods
        if pods is None:
            raise BackendError(self._refused() or "the cluster has not started")
        self.check_new(specs, pods.runners)
        making = [pods.request(self._id, spec) for spec in specs]
        # Creation continues if this is cancelled: the code that ends a runner waits for it.
        await asyncio.gather(*map(asyncio.shield, making))

    async def end(self, names: Collection[str], *, grace: float = 0) -> None:
        if self._pods is not None:
            await self._pods.end(names, grace)

    async def list(self) -> set[str]:
        return set() if self._pods is None else await self._pods.list_names(self._id)

    async def logs(self, names: Collection[str]) -> Mapping[str, str]:
        return {} if self._pods is None else await self._pods.logs(names)

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    @classmethod
    def inspector(cls, **where: str) -> Inspector:
        from dask_flame.backends.inspector import check_where
        from dask_flame.backends.kubernetes.inspector import KubernetesInspector

        own = ("namespace", "context")
        check_where(where, own=own, write="; on Kubernetes write --namespace")
        return KubernetesInspector(**where)

    def manifest(self, spec: RunnerSpec) -> Sequence[Mapping[str, Any]]:
        if self._owner_job is None:
            raise BackendError("the cluster has not started")
        options = self._owner_job.site.complete(spec.options)
        site, first = self._owner_job.planned(spec, options)
        secret, pod = runner_objects(spec, options, site)
        return [shown(item, spec) for item in (*first, secret, pod)]

    # Events of the watch

    def _seen(self, pod: Pod) -> None:
        assert self._owner_job is not None
        self._look_for_stop(pod)
        if _component(pod) == "scheduler":
            self._look_for_successor(pod)
            if self._scheduler_pod is not None:
                self._scheduler_pod.seen(pod)
            return
        if _component(pod) == "watchdog":
            self._owner_job.watchdog_changed(pod)
            return
        if self._pods is not None:
            self._pods.seen(pod)

    def _gone(self, pod: Pod) -> None:
        assert self._owner_job is not None
        if self._scheduler_pod is not None and _component(pod) == "scheduler":
            self._scheduler_pod.gone(pod)
            return
        if self._pods is not None:
            self._pods.gone(pod)

    def _look_for_stop(self, pod: Pod) -> None:
        if STOP in (pod["metadata"].get("annotations") or {}):
            self._stop(STOPPED)

    def _refused(self) -> str:
        """Return why no pods are made any more; empty if they are."""
        return self._why_stopped if self._closing is None else "the cluster is closed"

    def _stop(self, why: str) -> None:
        """Boot no more runners: someone else has stopped the cluster."""
        if not self._why_stopped:
            self._why_stopped = why
            self.stopped(why)

    async def _close(self) -> None:
        if self._api is None:
            return
        if self._scheduler_pod is not None:
            await self._scheduler_pod.close()
        making = [] if self._pods is None else self._pods.give_up()
        tasks = self._owner_job.tasks if self._owner_job is not None else []
        try:
            async with asyncio.timeout(_CLOSE_WITHIN):
                if begun := [*tasks, *making]:
                    await asyncio.wait(begun)
                if self._pods is not None and not self._left:
                    await self._pods.end(list(self._pods.runners), 0)
        except (BackendError, TimeoutError):
            logger.warning("not all pods of %s have ended in time", self._id)
        try:
            async with asyncio.timeout(_CLOSE_WITHIN):
                if self._owner_job is not None:
                    await (self._owner_job.leave() if self._left else self._owner_job.delete())
        except (KubernetesError, TimeoutError) as error:
            logger.warning(
                "the Job of %s, which owns all of it, could not be deleted (%s); it ends by itself "
                "once it has heard nothing of this driver for disconnect_grace",
                self._id,
                error if str(error) else f"no answer within {_CLOSE_WITHIN:g} s",
            )
        if self._owner_job is not None:
            await self._owner_job.close()
        if self._watcher is not None:
            await self._watcher.close()
        tasks = self._owner_job.tasks if self._owner_job is not None else []
        if self._pods is not None:
            await self._pods.close(_CLOSE_WITHIN, [*tasks, *making])
        await self._api.close()


def _no_namespace(namespace: str) -> str:
    return (
        f"there is no namespace {namespace!r} in this cluster; make it (kubectl create namespace "
        f'{namespace}), or name another one: namespace="team"'
    )


def _component(pod: Pod) -> str:
    return str((pod["metadata"].get("labels") or {}).get("dask.org/component", ""))

"""The Kubernetes backend: a bare pod for each runner, and one watch for all of them (driver)."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from dask_flame.backends.base import Backend, BackendContext, Ended, RunnerSpec, SchedulerSpec
from dask_flame.backends.kubernetes.api.client import PODS, POLICIES, Api, KubernetesError
from dask_flame.backends.kubernetes.api.permissions import check
from dask_flame.backends.kubernetes.api.watcher import Pod, Watcher
from dask_flame.backends.kubernetes.capacity_wait import CapacityWait
from dask_flame.backends.kubernetes.objects import manifests, pod_status
from dask_flame.backends.kubernetes.objects.context import DRIVER as MARK
from dask_flame.backends.kubernetes.objects.context import STOP, STOPPED, ObjectContext, object_name
from dask_flame.backends.kubernetes.objects.redact import shown
from dask_flame.backends.kubernetes.options import KubernetesOptions, check_context, check_namespace
from dask_flame.backends.kubernetes.own_pod import OwnPod, own_pod
from dask_flame.backends.kubernetes.owner_job import OwnerJob
from dask_flame.backends.kubernetes.pod_creation import OVER_QUOTA, refusal, runner_objects
from dask_flame.backends.kubernetes.pod_logs import PodLogs
from dask_flame.backends.kubernetes.runner import Runner
from dask_flame.backends.kubernetes.scheduler_pod import SchedulerPod
from dask_flame.backends.redact import scrub
from dask_flame.core import config
from dask_flame.core.backend_options import BackendOptions
from dask_flame.core.connection import this_process
from dask_flame.core.options import Check
from dask_flame.core.text import with_advice
from dask_flame.errors import BackendError, PoolError

if TYPE_CHECKING:
    from dask_flame.backends.inspector import Inspector

logger = logging.getLogger("dask_flame")

#: Default `disconnect_grace` in seconds if the driver reaches its scheduler through the API server,
#: which is unavailable for longer when it is upgraded or restarted.
_GRACE = 120.0
#: Settings behind a lack of capacity.
_NO_CAPACITY = (
    "gpu_kind, spot, cpus, memory, gpus and node_selector; the nodes of the cluster; boot_timeout "
    "and flame.capacity-wait if these take longer to come"
)
_DELETED = "its pod was deleted by somebody else"
#: Seconds beyond its grace after which a pod is deleted without waiting for its node.
_OVERDUE = 30.0
#: Seconds to wait for the last output of a runner after its pod has gone.
_HEARD_WITHIN = 2.0
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
        self._finding = False  # whether the pods of an earlier driver are being listed
        self._api: Api | None = None
        self._watcher: Watcher | None = None
        self._host = ""
        self._runners: dict[str, Runner] = {}
        self._output: PodLogs | None = None
        self._owner_job: OwnerJob | None = None
        self._apart = False
        self._scheduler_pod: SchedulerPod | None = None
        self._background: set[asyncio.Task[None]] = set()
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

    @property
    def _runners_selector(self) -> str:
        return f"dask.org/cluster-name={self._id},dask.org/component=worker"

    def expect(self, specs: Sequence[RunnerSpec]) -> None:
        # Pods that wait follow the present policy: it may have gained other kinds, or lost them.
        waits = {spec.pool: spec.capacity_wait for spec in specs}
        for runner in self._runners.values():
            wait = waits.get(runner.pool, runner.capacity.seconds)
            runner.capacity.change(wait, wanted=runner.wanted)

    async def start(self) -> None:
        try:
            where, seat = self.context.places, self.context.scheduler
            self._api = await Api.connect(
                namespace=where.get("namespace"), context=where.get("context")
            )
            if "namespace" in where and not await self._api.has_namespace():
                raise BackendError(_no_namespace(self._api.namespace))
            self._output = PodLogs(self._api)
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
                template=given.get("pod_template"),
            )
            policy = partial(manifests.network_policy, driver=place.labels, address=place.address)
            trouble = partial(self.trouble, "")
            self._owner_job = OwnerJob(
                self._api, site, policy if fenced else None, trouble, grace=self.disconnect_grace
            )
            self._watcher = Watcher(self._api, self._selector, self._seen, self._gone)
            if not self.context.adopts:
                await self._watcher.start()
            if self._closing is not None:
                # Closed in the meantime, perhaps before there was anything to close.
                await self._close()
                raise BackendError("the cluster is closed")
        except KubernetesError as error:
            await self.close()
            raise BackendError(f"the Kubernetes API cannot be used: {error}") from error
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
        self._driver = driver
        self._scheduler_pod = SchedulerPod(self._api, self._owner_job, over, self._stop)
        try:
            await self._owner_job.join_scheduler_job()
            # A driver that still lives sees this before it sees pods that it does not know.
            pod = await self._find_scheduler_pod()
            mark = {"metadata": {"annotations": {MARK: f"{driver} {this_process()}"}}}
            await self._api.patch(PODS, pod, mark)
            self._finding = True
            try:
                await self._watcher.start()
            finally:
                self._finding = False
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
        self.check_new(specs, self._runners)
        making = []
        for spec in specs:
            pod = object_name(self._id, spec.name)
            runner = self._requested(spec.name, pod, spec.pool, spec.capacity_wait)
            runner.making = asyncio.create_task(self._make(spec, runner))
            making.append(runner.making)
        # Creation continues if this is cancelled: the code that ends a runner waits for it.
        await asyncio.gather(*map(asyncio.shield, making))

    def _requested(self, name: str, pod: str, pool: str, wait: float | None) -> Runner:
        capacity = CapacityWait(wait, partial(self._lacks_capacity, name))
        runner = self._runners[name] = Runner(pod, pool, capacity)
        return runner

    async def end(self, names: Collection[str], *, grace: float = 0) -> None:
        there = [(n, r) for n in names if (r := self._runners.get(n)) is not None]
        for _, runner in there:
            runner.ending = True
        # Runners that have not started first: others may be waiting for their room.
        there.sort(key=lambda item: "started" in item[1].steps)
        await asyncio.gather(*(self._end(name, runner, grace) for name, runner in there))

    async def list(self) -> set[str]:
        if not self._runners:
            return set()
        assert self._api is not None
        try:
            pods, _ = await self._api.list(PODS, self._runners_selector)
        except KubernetesError as error:
            raise BackendError(f"the pods cannot be listed: {error}") from error
        return {_name(pod) for pod in pods} & set(self._runners)

    async def logs(self, names: Collection[str]) -> Mapping[str, str]:
        if self._output is None:
            return {}
        await asyncio.gather(*map(self._fetch, names))
        return {name: text for name in names if (text := self._output.of(name))}

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
        options = KubernetesOptions(**spec.options)
        site, first = self._owner_job.planned(spec, options)
        secret, pod = runner_objects(spec, options, site)
        return [shown(item, spec) for item in (*first, secret, pod)]

    # Creation

    async def _make(self, spec: RunnerSpec, runner: Runner) -> None:
        assert self._api is not None
        assert self._watcher is not None
        assert self._owner_job is not None
        try:
            if self._closing is not None:
                raise BackendError("the cluster is closed")
            if self._why_stopped:
                raise BackendError(self._why_stopped)
            options = KubernetesOptions(**spec.options)
            # The Job that owns the pod may be replaced before this is done.
            site = await self._owner_job.owned(spec, options)
            secret, pod = runner_objects(spec, options, site)
            await self._owner_job.create_secret(site, secret)
            if runner.ending:
                self._over(spec.name, "it was not needed any more")
                return
            self._watcher.take(await self._api.create(PODS, pod))
        except (KubernetesError, BackendError, PoolError) as error:
            no_room = isinstance(error, KubernetesError) and error.code == 403
            no_room = no_room and OVER_QUOTA in str(error)
            # A webhook may repeat what it refuses.
            said = scrub(refusal(error), spec.secret_values)
            self._over(spec.name, f"was refused: {said}", no_room=no_room)
            if isinstance(error, KubernetesError) and error.unsure:
                self._start(self._delete(runner.pod, 0))
        except Exception as error:
            logger.exception("the pod of %s could not be made", spec.name)
            self._over(spec.name, f"was refused: {type(error).__name__}: {error}")

    # Events of the watch

    def _seen(self, pod: Pod) -> None:
        assert self._owner_job is not None
        assert self._output is not None
        self._look_for_stop(pod)
        if _component(pod) == "scheduler":
            self._look_for_successor(pod)
            if self._scheduler_pod is not None:
                self._scheduler_pod.seen(pod)
            return
        if _component(pod) == "watchdog":
            self._owner_job.watchdog_changed(pod)
            return
        name = _name(pod)
        if not name:
            return
        if self._finding and name not in self._runners:
            pool = str(pod["metadata"]["labels"].get("dask-flame/pool", ""))
            self._requested(name, pod["metadata"]["name"], pool, None)
        runner = self._runners.get(name)
        if runner is None or runner.pod != pod["metadata"]["name"]:
            if self._left:
                return
            if "deletionTimestamp" not in pod["metadata"]:  # given up before it was created
                self._start(self._delete(pod["metadata"]["name"], 0))
            return
        for step in ("scheduled", "started"):
            reached = pod_status.step(pod)
            if reached and step not in runner.steps and (step == "scheduled" or reached == step):
                runner.steps.add(step)
                self.progress(name, step)
        if "deletionTimestamp" in pod["metadata"] and runner.wanted:
            # Perhaps it was deleted together with its owner, the Job.
            self._owner_job.owned_object_lost()
            runner.why = pod_status.ended(pod, gone=True) if pod_status.evicted(pod) else _DELETED
            if "started" in runner.steps:
                within = pod["metadata"].get("deletionGracePeriodSeconds", 0) + _OVERDUE
                heard = self._output.follow(name, runner.pod, within)
                runner.following = self._start(heard)
        if why := pod_status.ended(pod) or pod_status.hopeless(pod):
            if not runner.why:
                runner.why, runner.final = why, pod_status.final(pod)
                self._start(self._bury(name, runner))
        elif (held := pod_status.held_up(pod)) != runner.held:
            runner.held = held
            no_node = bool(pod_status.unschedulable(pod))
            self.trouble(name, with_advice(held, _NO_CAPACITY) if no_node else held)
        runner.capacity.seen(pod, wanted=runner.wanted)

    def _lacks_capacity(self, name: str, why: str, version: str) -> None:
        self._start(self._give_up(name, self._runners[name], why, version))

    async def _give_up(self, name: str, runner: Runner, why: str, version: str) -> None:
        """Delete an unschedulable pod, unless it has changed: then the watch reports it again."""
        if runner.wanted:
            runner.why, runner.no_capacity = with_advice(why, _NO_CAPACITY), True
            if not await self._delete(runner.pod, 0, of=name, version=version):
                runner.why, runner.no_capacity = "", False

    def _gone(self, pod: Pod) -> None:
        assert self._owner_job is not None
        assert self._output is not None
        if self._scheduler_pod is not None and _component(pod) == "scheduler":
            self._scheduler_pod.gone(pod)
            return
        name = _name(pod)
        runner = self._runners.get(name)
        if runner is None or runner.pod != pod["metadata"]["name"]:
            return
        why = runner.why or pod_status.ended(pod, gone=True)
        if not why and not runner.ending:
            self._owner_job.owned_object_lost()
            why = _DELETED
        why = why or "ended by force"
        if runner.following is None:
            self._over(name, why, self._output.of(name))
        else:
            self._start(self._last_words(name, runner.following, why))

    async def _last_words(self, name: str, following: asyncio.Task[None], why: str) -> None:
        """Report the end of a runner whose pod has gone, once its last output has arrived."""
        assert self._output is not None
        await asyncio.wait([following], timeout=_HEARD_WITHIN)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        self._over(name, why, self._output.of(name))

    def _look_for_stop(self, pod: Pod) -> None:
        if STOP in (pod["metadata"].get("annotations") or {}):
            self._stop(STOPPED)

    def _stop(self, why: str) -> None:
        """Boot no more runners: someone else has stopped the cluster."""
        if not self._why_stopped:
            self._why_stopped = why
            self.stopped(why)

    async def _bury(self, name: str, runner: Runner) -> None:
        """Fetch the output of a pod that has ended or cannot start, and delete it."""
        await self._fetch(name)
        await self._delete(runner.pod, 0, of=name)

    def _over(self, name: str, why: str, output: str = "", *, no_room: bool = False) -> None:
        runner = self._runners.pop(name, None)
        if runner is not None:
            runner.gone.set()
            runner.capacity.cancel()
            self.ended(
                Ended(
                    name=name,
                    why=why,
                    output=output,
                    no_room=no_room,
                    final=runner.final,
                    no_capacity=runner.no_capacity,
                )
            )

    # Deletion

    async def _end(self, name: str, runner: Runner, grace: float) -> None:
        if runner.making is not None:
            await asyncio.wait([runner.making])
        if runner.gone.is_set():
            return
        # Without grace only if there is no process: otherwise a node may still be ending it after
        # the API server has forgotten it.
        started = "scheduled" in runner.steps
        await self._delete(runner.pod, max(1, grace) if started else 0, of=name)
        try:
            await asyncio.wait_for(runner.gone.wait(), grace + _OVERDUE)
        except TimeoutError:
            logger.warning("pod %s does not end; its node may be gone", runner.pod)
            await self._delete(runner.pod, 0, of=name)
            try:
                await asyncio.wait_for(runner.gone.wait(), _OVERDUE)
            except TimeoutError:
                raise BackendError(f"pod {runner.pod} does not end") from None

    async def _delete(
        self, pod: str, grace: float, *, of: str = "", version: str | None = None
    ) -> bool:
        """Delete a pod, if a version is given only that one; return whether it is deleted."""
        if self._left:
            return False
        assert self._api is not None
        assert self._watcher is not None
        try:
            there = await self._api.delete(PODS, pod, grace=grace, version=version)
        except KubernetesError as error:
            if version is None or error.code != 409:
                logger.warning("pod %s could not be deleted: %s", pod, error)
            return False
        # If it does not exist, the watch may be behind, or interrupted.
        if not there and not self._watcher.forget(pod) and of:
            self._over(of, _DELETED)
        return True

    def _start(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        task: asyncio.Task[Any] = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _fetch(self, name: str) -> None:
        """Fetch the output of a runner whose pod exists."""
        assert self._output is not None
        runner = self._runners.get(name)
        if runner is not None and "started" in runner.steps:
            await self._output.fetch(name, runner.pod)

    async def _close(self) -> None:
        if self._api is None:
            return
        if self._scheduler_pod is not None:
            await self._scheduler_pod.close()
        for runner in self._runners.values():
            runner.ending = True
        making = [r.making for r in self._runners.values() if r.making is not None]
        tasks = self._owner_job.tasks if self._owner_job is not None else []
        try:
            async with asyncio.timeout(_CLOSE_WITHIN):
                if begun := [*tasks, *making]:
                    await asyncio.wait(begun)
                if not self._left:
                    await self.end(list(self._runners))
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
        if self._background:
            await asyncio.wait(self._background, timeout=_CLOSE_WITHIN)
        tasks = self._owner_job.tasks if self._owner_job is not None else []
        rest = [*tasks, *making, *self._background]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for name in list(self._runners):
            self._over(name, "the cluster was closed")
        await self._api.close()


def _no_namespace(namespace: str) -> str:
    return (
        f"there is no namespace {namespace!r} in this cluster; make it (kubectl create namespace "
        f"{namespace}), or name another one: namespace="
    )


def _component(pod: Pod) -> str:
    return str((pod["metadata"].get("labels") or {}).get("dask.org/component", ""))


def _name(pod: Pod) -> str:
    """Return the name of the runner in a pod's labels."""
    return str((pod["metadata"].get("labels") or {}).get("dask-flame/runner", ""))

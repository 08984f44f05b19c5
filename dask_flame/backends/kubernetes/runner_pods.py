"""The pods of runners, from their requests to their ends (driver)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from dask_flame.backends.kubernetes.api.client import PODS, Api, KubernetesError
from dask_flame.backends.kubernetes.api.watcher import Pod, Watcher
from dask_flame.backends.kubernetes.capacity_wait import CapacityWait
from dask_flame.backends.kubernetes.objects import pod_status
from dask_flame.backends.kubernetes.objects.context import object_name
from dask_flame.backends.kubernetes.owner_job import OwnerJob
from dask_flame.backends.kubernetes.pod_creation import OVER_QUOTA, refusal, runner_objects
from dask_flame.backends.kubernetes.pod_logs import PodLogs
from dask_flame.backends.kubernetes.runner import Runner
from dask_flame.backends.redact import scrub
from dask_flame.backends.runner_events import RunnerEvents
from dask_flame.backends.specs import Ended, RunnerSpec
from dask_flame.core.background_tasks import BackgroundTasks, cancel_all
from dask_flame.core.text import with_advice
from dask_flame.errors import BackendError, PoolError

logger = logging.getLogger("dask_flame")

#: Settings behind a lack of capacity.
_NO_CAPACITY = (
    "cpus, memory, gpus, gpu_kind, spot, node_selector and tolerations; the nodes of the cluster; "
    "boot_timeout and flame.capacity-wait if these take longer to come"
)
_DELETED = "its pod was deleted by somebody else"
#: Seconds beyond its grace after which a pod is deleted without waiting for its node.
_OVERDUE = 30.0
#: Seconds until a pod that is deleted without waiting for its node has to be gone.
_FORCED_WITHIN = 30.0
#: Seconds to wait for the last output of a runner after its pod has gone.
_HEARD_WITHIN = 2.0


class RunnerPods:
    """Make, watch and end the pods of a cluster's runners.

    Parameters
    ----------
    api : Api
    owner_job : OwnerJob
        The owner of the pods.
    watcher : Watcher
        The watch that calls :meth:`seen` and :meth:`gone`.
    events : RunnerEvents
    left : callable
        Returns whether the pods are another driver's, so that nothing may be deleted.
    refused : callable
        Returns why no pods are made any more; empty if they are.

    Attributes
    ----------
    runners : dict of str to Runner
        Those whose ends have not been reported.
    output : PodLogs
    finding : bool
        Whether the pods of an earlier driver are being listed, which become this one's.
    """

    def __init__(
        self,
        api: Api,
        owner_job: OwnerJob,
        watcher: Watcher,
        events: RunnerEvents,
        *,
        left: Callable[[], bool],
        refused: Callable[[], str],
    ) -> None:
        self._api = api
        self._owner_job = owner_job
        self._watcher = watcher
        self._events = events
        self._left = left
        self._refused = refused
        self._background = BackgroundTasks()
        self.runners: dict[str, Runner] = {}
        self.output = PodLogs(api)
        self.finding = False

    async def list_names(self, cluster: str) -> set[str]:
        """Return the names of the runners that exist.

        Raises
        ------
        BackendError
        """
        if not self.runners:
            return set()
        selector = f"dask.org/cluster-name={cluster},dask.org/component=worker"
        try:
            pods, _ = await self._api.list(PODS, selector)
        except KubernetesError as error:
            raise BackendError(f"the pods cannot be listed: {error}") from error
        return {runner_of(pod) for pod in pods} & set(self.runners)

    def request(self, cluster: str, spec: RunnerSpec) -> asyncio.Task[None]:
        """Accept a runner, and begin to make its pod."""
        pod = object_name(cluster, spec.name)
        runner = self._requested(spec.name, pod, spec.pool, spec.capacity_wait)
        runner.making = asyncio.create_task(self._make(spec, runner))
        return runner.making

    def expect(self, waits: Mapping[str, float | None]) -> None:
        """Let pods that wait for capacity follow the present policies of their pools.

        A pool may have gained other kinds, or lost them.
        """
        for runner in self.runners.values():
            wait = waits.get(runner.pool, runner.capacity.seconds)
            runner.capacity.change(wait, wanted=runner.wanted)

    def _requested(self, name: str, pod: str, pool: str, wait: float | None) -> Runner:
        capacity = CapacityWait(wait, partial(self._lacks_capacity, name))
        runner = self.runners[name] = Runner(pod, pool, capacity)
        return runner

    # Creation

    async def _make(self, spec: RunnerSpec, runner: Runner) -> None:
        try:
            if refused := self._refused():
                raise BackendError(refused)
            options = self._owner_job.site.complete(spec.options)
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
                self._background.start(self._delete(runner.pod, 0))
        except Exception as error:
            logger.exception("the pod of %s could not be made", spec.name)
            self._over(spec.name, f"was refused: {type(error).__name__}: {error}")

    # Events of the watch

    def seen(self, pod: Pod) -> None:
        """Handle a pod that is new, or has changed."""
        name = runner_of(pod)
        if not name:
            return
        if self.finding and name not in self.runners:
            pool = str(pod["metadata"]["labels"].get("dask-flame/pool", ""))
            self._requested(name, pod["metadata"]["name"], pool, None)
        runner = self.runners.get(name)
        if runner is None or runner.pod != pod["metadata"]["name"]:
            if self._left():
                return
            if "deletionTimestamp" not in pod["metadata"]:  # given up before it was created
                self._background.start(self._delete(pod["metadata"]["name"], 0))
            return
        for step in ("scheduled", "started"):
            reached = pod_status.step(pod)
            if reached and step not in runner.steps and (step == "scheduled" or reached == step):
                runner.steps.add(step)
                self._events.progress(name, step)
        if "deletionTimestamp" in pod["metadata"] and runner.wanted:
            # Perhaps it was deleted together with its owner, the Job.
            self._owner_job.owned_object_lost()
            evicted = pod_status.evicted(pod)
            runner.why = pod_status.ended(pod, gone=True) if evicted else self._deleted
            if "started" in runner.steps:
                within = pod["metadata"].get("deletionGracePeriodSeconds", 0) + _OVERDUE
                heard = self.output.follow(name, runner.pod, within)
                runner.following = self._background.start(heard)
        if why := pod_status.ended(pod) or pod_status.hopeless(pod):
            if not runner.why:
                runner.why, runner.final = why, pod_status.final(pod)
                self._background.start(self._bury(name, runner))
        elif (held := pod_status.held_up(pod)) != runner.held:
            runner.held = held
            no_node = bool(pod_status.unschedulable(pod))
            self._events.trouble(name, with_advice(held, _NO_CAPACITY) if no_node else held)
        runner.capacity.seen(pod, wanted=runner.wanted)

    @property
    def _deleted(self) -> str:
        """Why a pod is deleted that was not to end."""
        unguarded = self._owner_job.unguarded
        return f"was given up with its cluster: {unguarded}" if unguarded else _DELETED

    def _lacks_capacity(self, name: str, why: str, version: str) -> None:
        self._background.start(self._give_up(name, self.runners[name], why, version))

    async def _give_up(self, name: str, runner: Runner, why: str, version: str) -> None:
        """Delete an unschedulable pod, unless it has changed: then the watch reports it again."""
        if runner.wanted:
            runner.why, runner.no_capacity = with_advice(why, _NO_CAPACITY), True
            if not await self._delete(runner.pod, 0, of=name, version=version):
                runner.why, runner.no_capacity = "", False

    def gone(self, pod: Pod) -> None:
        """Handle the end of a pod."""
        name = runner_of(pod)
        runner = self.runners.get(name)
        if runner is None or runner.pod != pod["metadata"]["name"]:
            return
        why = runner.why or pod_status.ended(pod, gone=True)
        if not why and not runner.ending:
            self._owner_job.owned_object_lost()
            why = self._deleted
        why = why or "ended by force"
        if runner.following is None:
            self._over(name, why, self.output.of(name))
        else:
            self._background.start(self._last_words(name, runner.following, why))

    async def _last_words(self, name: str, following: asyncio.Task[None], why: str) -> None:
        """Report the end of a runner whose pod has gone, once its last output has arrived."""
        await asyncio.wait([following], timeout=_HEARD_WITHIN)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        self._over(name, why, self.output.of(name))

    async def _bury(self, name: str, runner: Runner) -> None:
        """Fetch the output of a pod that has ended or cannot start, and delete it."""
        await self._fetch(name)
        await self._delete(runner.pod, 0, of=name)

    def _over(self, name: str, why: str, output: str = "", *, no_room: bool = False) -> None:
        """Report the end of a runner, unless it has been reported."""
        runner = self.runners.pop(name, None)
        if runner is not None:
            runner.gone.set()
            runner.capacity.cancel()
            why += pod_status.no_package(output)
            self._events.ended(
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

    async def end(self, names: Collection[str], grace: float) -> None:
        """End runners; see :meth:`dask_flame.backends.Backend.end`."""
        there = [(n, r) for n in names if (r := self.runners.get(n)) is not None]
        for _, runner in there:
            runner.ending = True
        # Runners that have not started first: others may be waiting for their room.
        there.sort(key=lambda item: "started" in item[1].steps)
        await asyncio.gather(*(self._end(name, runner, grace) for name, runner in there))

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
                await asyncio.wait_for(runner.gone.wait(), _FORCED_WITHIN)
            except TimeoutError:
                raise BackendError(f"pod {runner.pod} does not end") from None

    async def _delete(
        self, pod: str, grace: float, *, of: str = "", version: str | None = None
    ) -> bool:
        """Delete a pod, if a version is given only that one; return whether it is deleted."""
        if self._left():
            return False
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

    def give_up(self) -> list[asyncio.Task[None]]:
        """Let all runners end; return the creations of pods that are to be waited for."""
        for runner in self.runners.values():
            runner.ending = True
        return [r.making for r in self.runners.values() if r.making is not None]

    async def close(self, within: float, tasks: Collection[asyncio.Task[Any]]) -> None:
        """Report the ends of all runners that are left.

        Parameters
        ----------
        within : float
            Seconds that the work under way may take.
        tasks : collection of asyncio.Task
            Tasks to cancel with it.
        """
        if begun := list(self._background):
            await asyncio.wait(begun, timeout=within)
        await cancel_all([*tasks, *self._background])
        for name in list(self.runners):
            self._over(name, "the cluster was closed")

    async def logs(self, names: Collection[str]) -> dict[str, str]:
        """Return the known output of runners."""
        await asyncio.gather(*map(self._fetch, names))
        return {name: text for name in names if (text := self.output.of(name))}

    async def _fetch(self, name: str) -> None:
        """Fetch the output of a runner whose pod exists."""
        runner = self.runners.get(name)
        if runner is not None and "started" in runner.steps:
            await self.output.fetch(name, runner.pod)


def runner_of(pod: Pod) -> str:
    """Return the name of the runner in a pod's labels."""
    return str((pod["metadata"].get("labels") or {}).get("dask-flame/runner", ""))

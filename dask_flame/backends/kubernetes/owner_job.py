"""The Job that owns a cluster's objects, and the objects that runners share (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from distributed.comm import get_address_host_port

from dask_flame.backends.kubernetes.api.client import (
    JOBS,
    POLICIES,
    SECRETS,
    SERVICES,
    Api,
    KubernetesError,
    ResourceKind,
)
from dask_flame.backends.kubernetes.job_deadline import Deadline
from dask_flame.backends.kubernetes.liveness import LivenessPort
from dask_flame.backends.kubernetes.missing_pods import (
    OVER_QUOTA,
    Podless,
    podless,
    refusal_of_pod,
)
from dask_flame.backends.kubernetes.objects import manifests
from dask_flame.backends.kubernetes.objects.context import ObjectContext, object_name
from dask_flame.backends.kubernetes.objects.pod_status import watchdog_problem
from dask_flame.backends.kubernetes.options import KubernetesOptions
from dask_flame.backends.specs import RunnerSpec, SchedulerSpec

logger = logging.getLogger("dask_flame")

#: Seconds within which Kubernetes creates a Job's pod, and the interval of queries afterwards.
_SEEN_WITHIN = 10.0
_ASK_AGAIN = 2.0
#: Seconds without a pod after which a cluster is given up, even if nobody says that it is refused.
_PATIENCE = 60.0
#: Grace in seconds for the scheduler's process.
_LEAVE = 5
_WATCHDOG = "the watchdog's pod, which ends the cluster with its driver"
#: Stands for a uid that the API server has not assigned yet.
YET_TO_BE_GIVEN = "(given by the API server)"


class OwnerJob:
    """Create the Job that owns all other objects, a NetworkPolicy and Secrets.

    The Job runs :mod:`dask_flame.backends.kubernetes.watchdog`.

    Objects are created on demand. A Job that has gone is replaced, because Kubernetes would at once
    delete objects that refer to it.

    Parameters
    ----------
    api : Api
    site : ObjectContext
        Its owner, the driver's pod, becomes the Job's.
    policy : callable, optional
        Return the NetworkPolicy for a context; None: create none.
    trouble : callable, optional
        Called with the reason why the watchdog does not run, once for each reason.
    grace : float
        Seconds for which the watchdog outlives its driver, and a scheduler a driver that has not
        reached it.

    Attributes
    ----------
    site : ObjectContext
        The present context: objects are owned by the Job, once there is one.
    scheduler_job : str
        Name of the scheduler's Job; empty if there is none.
    deadline : Deadline
        The deadline of the scheduler's Job.
    unguarded : str
        Why the cluster was given up; empty if it was not.
    """

    def __init__(
        self,
        api: Api,
        site: ObjectContext,
        policy: Callable[[ObjectContext], dict[str, Any]] | None = None,
        trouble: Callable[[str], None] | None = None,
        *,
        grace: float = 10.0,
    ) -> None:
        self.api = api
        self.site = site
        self._policy = policy
        self._trouble = trouble
        self.grace = grace
        self._reported: set[str] = set()
        self._watchdog_has_pod = False  # whether the watchdog has a pod
        self._looking: asyncio.Task[None] | None = None  # waits for the watchdog's pod
        self._driver = site.owner
        self._watchdog: asyncio.Task[None] | None = None
        self._manifests: list[dict[str, Any]] = []  # the owner and its companions, as requested
        self._kept = False  # whether the Job exists, as far as is known
        self.unguarded = ""
        self._may_be_gone = False  # whether the Job may have gone
        self.scheduler_job = ""
        self._made: dict[str, asyncio.Task[None]] = {}
        self._joined = False  # whether an earlier driver has created the Job
        self._presence = LivenessPort()
        self.deadline = Deadline(api, grace)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """The creations in progress or done."""
        return [task for task in (self._watchdog, *self._made.values()) if task is not None]

    def owned_object_lost(self) -> None:
        """Note that the Job may have gone, because an object that it owns has."""
        self._may_be_gone = True

    async def owned(self, spec: RunnerSpec, options: KubernetesOptions) -> ObjectContext:
        """Return the context with an existing Job; create the watchdog's if there is none."""
        if self.scheduler_job:
            return self.site
        if self.unguarded:
            raise KubernetesError(403, "Forbidden", self.unguarded)
        watchdog = self._watchdog
        if watchdog is None or (watchdog.done() and (watchdog.exception() or self._may_be_gone)):
            self._may_be_gone = False
            self._watchdog = asyncio.create_task(self._make_watchdog(spec, options))
        assert self._watchdog is not None
        await asyncio.shield(self._watchdog)
        return self.site

    async def create_scheduler_job(self, spec: SchedulerSpec, options: KubernetesOptions) -> None:
        """Create the scheduler's Job, which replaces the watchdog's, and its Secret."""
        self._watchdog = asyncio.create_task(self._create_scheduler_job(spec, options))
        await asyncio.shield(self._watchdog)

    async def _create_scheduler_job(self, spec: SchedulerSpec, options: KubernetesOptions) -> None:
        secret = manifests.secret(self.site, spec.launch_config, {})
        name = secret["metadata"]["name"]
        job = manifests.scheduler(self.site, spec, options, name, deadline=self.deadline.first)
        self.scheduler_job = job["metadata"]["name"]
        owner = _owner(await self.api.create(JOBS, job))
        self.site = replace(self.site, owner=owner)
        secret = manifests.secret(self.site, spec.launch_config, {})
        self._manifests = [job, secret]
        await self.deadline.keep(self.scheduler_job)
        making = [self._make_once(SECRETS, secret)]
        if spec.connection is not None:
            secret = manifests.connection(self.site, spec.connection)
            self._manifests.append(secret)
            making.append(self._make_entrance(secret))
        await asyncio.gather(*making)
        if spec.service:
            service = manifests.service(self.site, spec.service, spec.port)
            self._manifests.append(service)
            await self._make_once(SERVICES, service)
            if self._policy is not None:
                policy = manifests.open_port(self.site, spec.port)
                self._manifests.append(policy)
                await self._make_once(POLICIES, policy)

    async def _make_entrance(self, secret: Mapping[str, Any]) -> None:
        """Create the Secret that other processes need to connect; the cluster works without it."""
        try:
            await self._make_once(SECRETS, secret)
        except KubernetesError as error:
            logger.warning("no other process can connect to this cluster: %s", error)

    async def join_scheduler_job(self) -> None:
        """Use the scheduler's Job that an earlier driver has created.

        Raises
        ------
        KubernetesError
            With the code 404 if there is none, or it is being deleted.
        """
        name = object_name(self.site.cluster, "scheduler")
        job = await self.api.get(JOBS, name)
        if "deletionTimestamp" in job["metadata"]:
            raise KubernetesError(404, "NotFound", f"job {name} is being deleted")
        self.scheduler_job, self._joined = name, True
        self.site = replace(self.site, owner=_owner(job))
        self._manifests = [{key: job[key] for key in ("apiVersion", "kind", "metadata", "spec")}]
        # Its driver may have died after it was connected, and before it had removed the deadline.
        await self.deadline.remove(name)

    async def create_secret(self, site: ObjectContext, secret: Mapping[str, Any]) -> None:
        """Create the objects that a runner needs, each once, concurrently."""
        items = [(SECRETS, secret)]
        if self._policy is not None:
            items.append((POLICIES, self._policy(site)))
        await asyncio.gather(*(self._make_once(kind, item) for kind, item in items))

    async def _make_once(self, kind: ResourceKind, item: Mapping[str, Any]) -> None:
        name = f"{kind.plural}/{item['metadata']['name']}"
        making = self._made.get(name)
        if making is None or (making.done() and making.exception()):
            making = self._made[name] = asyncio.create_task(self._create(kind, item))
        await asyncio.shield(making)

    async def _create(self, kind: ResourceKind, item: Mapping[str, Any]) -> None:
        try:
            await self.api.create(kind, item)
        except KubernetesError as error:
            # An earlier driver has created it, with the same contents.
            if not (self._joined and error.reason == "AlreadyExists"):
                raise

    def watchdog_changed(self, pod: Mapping[str, Any]) -> None:
        """Handle a new or changed pod of the watchdog."""
        self._watchdog_has_pod = True
        self._report(watchdog_problem(pod))

    async def _look(self, job: Mapping[str, Any]) -> None:
        """Report a watchdog without a pod, and give the cluster up if there will be none.

        Otherwise all that it has made would stay when its driver is killed. If a quota has no room,
        there is some once a runner has ended, and Kubernetes tries again.
        """
        begun = asyncio.get_running_loop().time()
        await asyncio.sleep(_SEEN_WITHIN)
        while not self._watchdog_has_pod:
            # If the server cannot be asked now, ask again.
            with contextlib.suppress(KubernetesError):
                if (found := await podless(self.api, job)) is None or OVER_QUOTA in found.why:
                    self._report(found.why if found is not None else "")
                    return
                self._report(found.why)
                waited = asyncio.get_running_loop().time() - begun
                if found.refused or waited > _PATIENCE:
                    self.unguarded = f"{_WATCHDOG}: {found.why}"
                    await self.api.delete(JOBS, job["metadata"]["name"], grace=0)
                    return
            await asyncio.sleep(_ASK_AGAIN)

    async def podless(self) -> Podless | None:
        """Return why the scheduler's Job has no pod; None if it has one, or does not exist yet.

        Raises
        ------
        KubernetesError
            If the reason cannot be found out now.
        """
        if not (self.scheduler_job and self._manifests):
            return None
        return await podless(self.api, self._manifests[0])

    def _report(self, why: str) -> None:
        if why and why not in self._reported and self._trouble is not None:
            self._reported.add(why)
            self._trouble(
                f"the watchdog, which ends objects with this process, does not run: {why}"
            )

    async def delete(self) -> None:
        """Delete all Jobs; Kubernetes deletes the objects they own."""
        await self.leave()
        if self.scheduler_job:
            await self.api.delete(JOBS, self.scheduler_job, grace=_LEAVE)
        for number in range(self.site.watchdog):
            await self.api.delete(JOBS, self._name(number + 1), grace=0)

    async def leave(self) -> None:
        """Stop looking at the Jobs, and leave them to another driver."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        self._trouble = None
        await self.deadline.close()

    async def close(self) -> None:
        """Close the liveness port; a remaining watchdog then ends by itself."""
        await self._presence.close()

    async def _make_watchdog(self, spec: RunnerSpec, options: KubernetesOptions) -> None:
        if self._kept and await self._is_there():
            return
        self._kept = False
        site, watchdog = self._next(spec, options)
        # Without a pod, the Job would stay when the driver is killed, and all that it owns with it.
        if (error := await refusal_of_pod(self.api, watchdog)) is not None:
            raise KubernetesError(error.code, error.reason, f"{_WATCHDOG}: {error.message}")
        self.site = site
        await self._presence.listen()
        # Its pod may be seen before the response to this request.
        self._watchdog_has_pod = False
        job = await self.api.create(JOBS, watchdog)
        self.site, self._manifests = replace(self.site, owner=_owner(job)), [watchdog]
        self._kept = True
        if self._looking is not None:
            self._looking.cancel()
        self._looking = asyncio.create_task(self._look({**watchdog, "metadata": job["metadata"]}))

    def planned(
        self, spec: RunnerSpec, options: KubernetesOptions
    ) -> tuple[ObjectContext, list[dict[str, Any]]]:
        """Return the context for the next runner, and the objects that precede it.

        The uid of a Job is unknown until it exists.
        """
        site, sent = self.site, self._manifests
        if not self._kept and not self.scheduler_job:
            site, watchdog = self._next(spec, options)
            known = {"metadata": {"uid": YET_TO_BE_GIVEN, **watchdog["metadata"]}}
            site, sent = replace(site, owner=_owner(known)), [watchdog]
        return site, [*sent, *([self._policy(site)] if self._policy is not None else [])]

    def _next(
        self, spec: RunnerSpec, options: KubernetesOptions
    ) -> tuple[ObjectContext, dict[str, Any]]:
        """Return the context for the next Job of the watchdog, and that Job."""
        site = replace(self.site, owner=self._driver, watchdog=self.site.watchdog + 1)
        host, _ = get_address_host_port(spec.scheduler)
        port = self._presence.at(host)
        return site, manifests.watchdog(site, options, host, port, self.grace)

    async def _is_there(self) -> bool:
        try:
            job = await self.api.get(JOBS, self._name(self.site.watchdog))
        except KubernetesError as error:
            if error.code == 404:
                return False
            raise
        return "deletionTimestamp" not in job["metadata"]

    def _name(self, number: int) -> str:
        return object_name(self.site.cluster, "watchdog", str(number))


def _owner(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the owner reference for objects to be deleted with this Job."""
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    return {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}

"""Clusters of a namespace, seen and ended by their labels (command line)."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from dask_flame.backends.inspector import ClusterListing, Inspector, Orphan
from dask_flame.backends.kubernetes.api.client import (
    JOBS,
    PODS,
    SECRETS,
    SERVICES,
    Api,
    KubernetesError,
    ResourceKind,
)
from dask_flame.backends.kubernetes.objects.context import MANAGED, STOP
from dask_flame.backends.kubernetes.objects.listing import CLUSTER, COMPONENT, label, seen
from dask_flame.backends.kubernetes.objects.orphans import (
    UNKNOWN,
    Object,
    deadline,
    finished,
    why_orphan,
)
from dask_flame.backends.kubernetes.objects.resources import CONTAINER
from dask_flame.errors import BackendError

POLICIES = ResourceKind("networking.k8s.io/v1", "networkpolicies")
#: What a cluster may have, owners first; of the last ones only the metadata is looked at.
_KINDS = (JOBS, PODS, SECRETS, SERVICES, POLICIES)
_BARE = (SECRETS, SERVICES, POLICIES)
#: The kinds that own others of ours, as an owner reference says it.
_OWNERS = {("batch/v1", "Job"): JOBS, ("v1", "Pod"): PODS}
_OURS = ",".join(f"{key}={value}" for key, value in MANAGED.items())

#: What a command line does beyond what a driver does: kinds and verbs.
NEEDED: tuple[tuple[ResourceKind, str, tuple[str, ...]], ...] = (
    (PODS, "", ("delete", "get", "list", "patch")),
    (PODS, "log", ("get",)),
    (JOBS, "", ("delete", "get", "list")),
    (SECRETS, "", ("delete", "list")),
    (SERVICES, "", ("delete", "list")),
    (POLICIES, "", ("delete", "list")),
)

#: Seconds for which a server that cannot be reached is tried again.
_PATIENCE = 10.0
_PAUSE = 0.5
#: Seconds that a pod which is ended may take, and that a stray may to be gone by itself.
_GRACE, _BY_ITSELF = 1.0, 5.0
_END_WITHIN = 60.0
#: Seconds that a node may take beyond a pod's grace.
_MOMENT = 10.0

Found = dict[ResourceKind, list[dict[str, Any]]]


class KubernetesInspector(Inspector):
    """The clusters of one namespace, whoever's they are there.

    Parameters
    ----------
    namespace, context : str, optional
    """

    def __init__(self, *, namespace: str | None = None, context: str | None = None) -> None:
        super().__init__()
        self._namespace = namespace
        self._context = context
        self._api: Api
        self._refused: set[str] = set()

    async def __aenter__(self) -> KubernetesInspector:
        try:
            self._api = await Api.connect(
                namespace=self._namespace, context=self._context, patience=_PATIENCE
            )
        except KubernetesError as error:
            raise _unusable(error) from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._api.close()
        if isinstance(error, KubernetesError):
            raise _unusable(error) from error

    async def clusters(self) -> list[ClusterListing]:
        found = await self._find(_OURS, PODS, JOBS)
        ids = {label(obj, CLUSTER) for items in found.values() for obj in items} - {""}
        there = [seen(id, found[JOBS], found[PODS]) for id in ids]
        return sorted(there, key=lambda c: (c.started or 0, c.id))

    async def logs(self, cluster: ClusterListing, *, lines: int) -> Mapping[str, str]:
        pods = (await self._find(_of(cluster.id), PODS))[PODS]
        names = {label(pod, "dask-flame/runner"): pod["metadata"]["name"] for pod in pods}

        async def read(runner: str) -> str:
            try:
                return await self._api.read_log(names[runner], CONTAINER, lines=lines)
            except (KeyError, KubernetesError) as error:
                self.notes.append(f"{runner} shows nothing: {error}")
                return ""

        runners = [runner.name for runner in cluster.runners]
        return dict(zip(runners, await asyncio.gather(*map(read, runners)), strict=True))

    async def stop(self, cluster: ClusterListing, *, within: float) -> str:
        found = await self._find(_of(cluster.id), *_KINDS)
        told = await self._tell(found[PODS])
        begun, done = time.monotonic(), set[str]()
        while left := [(kind, obj) for kind in _KINDS for obj in found[kind]]:
            # Those that a node was told to end before take as long as they were given then.
            given = [_given(pod) for pod in found[PODS] if pod["metadata"]["uid"] not in done]
            within = max(within, *given, 0.0)
            if time.monotonic() > begun + within:
                names = ", ".join(_called(kind, obj) for kind, obj in left)
                raise BackendError(f"not all of {cluster.id} is gone after {within:g} s: {names}")
            await self._delete_in_order(left, done)
            await asyncio.sleep(_PAUSE)
            found = await self._find(_of(cluster.id), *_KINDS)
        if cluster.state == "orphaned":
            return "ended; its driver was gone"
        was = "and was told" if told else "and could not be told: it may begin again"
        return f"stopped; its driver, {cluster.driver}, may live on, {was}"

    async def strays(self) -> list[Orphan]:
        deadline = time.monotonic() + _BY_ITSELF
        found = {stray.key: stray async for stray in self._strays()}
        while found and time.monotonic() < deadline:
            # Kubernetes is given a moment to collect what it knows to be garbage.
            await asyncio.sleep(_PAUSE)
            there = {stray.key async for stray in self._strays()}
            found = {key: stray for key, stray in found.items() if key in there}
        return list(found.values())

    async def end(self, strays: Sequence[Orphan]) -> list[Orphan]:
        wanted = {stray.key for stray in strays}
        # It may have taken a while to decide.
        now = [stray async for stray in self._strays() if stray.key in wanted]
        objects = []
        for kind, name, _, uid in (stray.key for stray in now):
            assert isinstance(kind, ResourceKind)
            objects.append((kind, {"metadata": {"name": name, "uid": uid}}))
        await self._delete_in_order(objects, set())
        deadline = time.monotonic() + _END_WITHIN
        while time.monotonic() < deadline:
            there = await self._find(_OURS, *_KINDS)
            uids = {obj["metadata"]["uid"] for items in there.values() for obj in items}
            now = [stray for stray in now if stray.key[-1] in uids]
            if not now or all(str(stray.key[-1]) in self._refused for stray in now):
                break
            await asyncio.sleep(_PAUSE)
        return now

    # What there is

    async def _find(self, selector: str, *kinds: ResourceKind) -> Found:
        """The objects of these kinds, as far as they may be seen."""

        async def find(kind: ResourceKind) -> list[dict[str, Any]]:
            try:
                return (await self._api.list(kind, selector, bare=kind in _BARE))[0]
            except KubernetesError as error:
                if error.code not in (403, 404):
                    raise
                self._note(f"{kind.plural} cannot be seen: {error.message}")
                return []

        return dict(zip(kinds, await asyncio.gather(*map(find, kinds)), strict=True))

    async def _strays(self) -> AsyncIterator[Orphan]:
        found = await self._find(_OURS, *_KINDS)
        owners: dict[str, Object | None] = {}
        for kind in _KINDS:
            for obj in found[kind]:
                if not label(obj, CLUSTER):
                    continue  # it has a name of ours, and may be another's
                for reference in obj["metadata"].get("ownerReferences") or ():
                    if reference["uid"] not in owners:
                        owners[reference["uid"]] = await self._owner(reference, found)
                owns, now = kind is JOBS, time.time()
                if why := why_orphan(obj, owns=owns, owner=owners.get, now=now):
                    meta = obj["metadata"]
                    yield Orphan(
                        what=_called(kind, obj),
                        cluster=label(obj, CLUSTER),
                        why=why,
                        # A driver that moves its deadline lives, whatever clocks say.
                        key=(kind, meta["name"], deadline(obj) if owns else None, meta["uid"]),
                    )

    async def _owner(self, reference: Object, found: Found) -> Object | None:
        """What an owner reference is to: None where that is gone, UNKNOWN where nobody tells."""
        kind = _OWNERS.get((reference["apiVersion"], reference["kind"]))
        if kind is None:
            return UNKNOWN
        for obj in found[kind]:
            if obj["metadata"]["uid"] == reference["uid"]:
                return obj
        try:
            owner = await self._api.get(kind, reference["name"])
        except KubernetesError as error:
            if error.code == 404:
                return None
            if error.code == 403:
                self._note(f"owners cannot be looked up: {error.message}")
                return UNKNOWN
            raise
        return owner if owner["metadata"]["uid"] == reference["uid"] else None

    # What is done

    async def _tell(self, pods: Sequence[Object]) -> bool:
        """Tell a cluster's driver, which watches its pods; whether that could be done."""
        living = [p for p in pods if "deletionTimestamp" not in p["metadata"] and not finished(p)]
        # Through one that is there from beginning to end, if there is.
        living.sort(key=lambda pod: label(pod, COMPONENT) == "worker")
        change = {"metadata": {"annotations": {STOP: "dask flame stop"}}}
        for pod in living:
            try:
                await self._api.patch(PODS, pod["metadata"]["name"], change)
            except KubernetesError as error:
                if error.code == 404:
                    continue
                if error.code != 403:
                    raise
                self._note(f"the driver cannot be told: {error.message}")
                return False
            return True
        return False

    async def _delete_in_order(
        self, left: Sequence[tuple[ResourceKind, Object]], done: set[str]
    ) -> None:
        """Delete what is not in `done` yet and does not go with a Job, pods before their owners.

        What the garbage collector deletes first has the grace of its own, which a shorter one does
        not shorten any more: a node waits for as long as it was told first.
        """
        for kinds in ((PODS,), (JOBS,), _BARE):
            now = [
                (kind, obj)
                for kind, obj in left
                if kind in kinds
                and obj["metadata"]["uid"] not in done
                and not (kind in _BARE and obj["metadata"].get("ownerReferences"))
                and not (kind is PODS and "deletionTimestamp" in obj["metadata"])
            ]
            done.update(obj["metadata"]["uid"] for _, obj in now)
            await asyncio.gather(*(self._delete(kind, obj) for kind, obj in now))

    async def _delete(self, kind: ResourceKind, obj: Object) -> None:
        """Delete this very object, and what it owns, if that is allowed."""
        meta = obj["metadata"]
        try:
            grace = _GRACE if kind is PODS else None
            await self._api.delete(kind, meta["name"], grace=grace, uid=meta["uid"])
        except KubernetesError as error:
            if error.code != 403:
                raise
            self._refused.add(meta["uid"])
            self._note(f"{_called(kind, obj)} cannot be deleted: {error.message}")

    def _note(self, what: str) -> None:
        if what not in self.notes:
            self.notes.append(what)


def _unusable(error: KubernetesError) -> BackendError:
    return BackendError(f"the Kubernetes API cannot be used: {error}")


def _of(cluster: str) -> str:
    return f"{_OURS},{CLUSTER}={cluster}"


def _given(pod: Object) -> float:
    """Seconds within which a pod is to be gone that somebody else has deleted; else 0."""
    if "deletionTimestamp" not in pod["metadata"]:
        return 0.0
    first = pod["spec"].get("terminationGracePeriodSeconds") or 0
    return float(max(first, pod["metadata"].get("deletionGracePeriodSeconds") or 0)) + _MOMENT


def _called(kind: ResourceKind, obj: Object) -> str:
    singular = re.sub("ies$", "y", kind.plural).removesuffix("s")
    return f"{singular} {obj['metadata']['name']}"

"""Inspect and end the clusters of a namespace, by their labels (command line)."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from dask_flame.backends.inspector import (
    ClusterListing,
    Entrance,
    Inspector,
    Orphan,
    lasting_orphans,
    stop_outcome,
)
from dask_flame.backends.kubernetes.api.client import (
    JOBS,
    PODS,
    SECRETS,
    SERVICES,
    Api,
    KubernetesError,
    ResourceKind,
)
from dask_flame.backends.kubernetes.api.permissions import rules
from dask_flame.backends.kubernetes.api.port_forward import PortForward
from dask_flame.backends.kubernetes.objects.context import MANAGED, STOP, object_name
from dask_flame.backends.kubernetes.objects.listing import CLUSTER, COMPONENT, label, seen
from dask_flame.backends.kubernetes.objects.manifests import CONNECTION, connection_name
from dask_flame.backends.kubernetes.objects.orphans import (
    UNKNOWN,
    Object,
    deadline,
    finished,
    why_orphan,
)
from dask_flame.backends.kubernetes.objects.resources import CONTAINER
from dask_flame.backends.kubernetes.scheduler_pod import service_address
from dask_flame.core.connection import ConnectionInfo
from dask_flame.core.redaction import hide
from dask_flame.errors import BackendError

POLICIES = ResourceKind("networking.k8s.io/v1", "networkpolicies")
#: The kinds of a cluster's objects, owners first; of `_BARE` only the metadata is read.
_KINDS = (JOBS, PODS, SECRETS, SERVICES, POLICIES)
_BARE = (SECRETS, SERVICES, POLICIES)
#: The kinds that own other objects, by the fields of an owner reference.
_OWNERS = {("batch/v1", "Job"): JOBS, ("v1", "Pod"): PODS}
_OURS = ",".join(f"{key}={value}" for key, value in MANAGED.items())

#: The permissions of the command line: kinds, subresources and verbs.
NEEDED: tuple[tuple[ResourceKind, str, tuple[str, ...]], ...] = (
    (PODS, "", ("delete", "get", "list", "patch")),
    (PODS, "log", ("get",)),
    (JOBS, "", ("delete", "get", "list")),
    (SECRETS, "", ("delete", "list")),
    (SERVICES, "", ("delete", "list")),
    (POLICIES, "", ("delete", "list")),
)

#: Seconds of retries while the server cannot be reached.
_PATIENCE = 10.0
_PAUSE = 0.5
#: Grace of an ended pod, and time for orphans to disappear by themselves, in seconds.
_GRACE, _BY_ITSELF = 1.0, 5.0
_END_WITHIN = 60.0
#: Seconds that a node may need beyond a pod's grace.
_MOMENT = 10.0

Found = dict[ResourceKind, list[dict[str, Any]]]


class KubernetesInspector(Inspector):
    """The clusters of one namespace, of all its users.

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
        # The API lists nothing in a namespace that does not exist.
        if not ids and self._namespace and not await self._api.has_namespace():
            raise BackendError(
                f"there is no namespace {self._namespace!r} in this cluster; "
                "`kubectl get namespaces` lists those that there are"
            )
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
            # A pod that was deleted before keeps the grace that it was given then.
            given = [_given(pod) for pod in found[PODS] if pod["metadata"]["uid"] not in done]
            within = max(within, *given, 0.0)
            if time.monotonic() > begun + within:
                names = ", ".join(_called(kind, obj) for kind, obj in left)
                raise BackendError(f"not all of {cluster.id} is gone after {within:g} s: {names}")
            await self._delete_in_order(left, done)
            await asyncio.sleep(_PAUSE)
            found = await self._find(_of(cluster.id), *_KINDS)
        return stop_outcome(cluster, told=told)

    async def enter(self, cluster: ClusterListing) -> Entrance:
        try:
            secret = await self._api.get(SECRETS, connection_name(cluster.id))
        except KubernetesError as error:
            raise BackendError(_no_entrance(cluster, error)) from error
        text = base64.b64decode(secret["data"][CONNECTION]).decode()
        connection = ConnectionInfo.loads(text)
        hide(connection.secrets)
        of = f"{_of(cluster.id)},{COMPONENT}=scheduler"
        pods = [
            pod
            for pod in (await self._find(of, PODS))[PODS]
            if "deletionTimestamp" not in pod["metadata"] and not finished(pod)
        ]
        if not pods:
            raise BackendError(f"{cluster.id} has no scheduler any more: it is about to end")
        if connection.service:
            name = object_name(cluster.id, "scheduler")
            service = await self._api.get(SERVICES, name)
            node = (pods[-1].get("status") or {}).get("hostIP") or ""
            return Entrance(
                address=f"tls://{service_address(service, node)}",
                connection=connection,
                close=_nothing,
            )
        forward = PortForward(self._api, pods[-1]["metadata"]["name"], connection.port)
        port = await forward.start()
        return Entrance(
            address=f"tls://127.0.0.1:{port}", connection=connection, close=forward.close
        )

    async def orphans(self) -> list[Orphan]:
        # Kubernetes collects known garbage by itself, after a moment.
        return await lasting_orphans(self._orphans, within=_BY_ITSELF, pause=_PAUSE)

    async def end(self, orphans: Sequence[Orphan]) -> list[Orphan]:
        wanted = {orphan.key for orphan in orphans}
        # The caller may have taken a while to decide: look again.
        now = [orphan for orphan in await self._orphans() if orphan.key in wanted]
        objects = []
        for kind, name, _, uid in (orphan.key for orphan in now):
            assert isinstance(kind, ResourceKind)
            objects.append((kind, {"metadata": {"name": name, "uid": uid}}))
        await self._delete_in_order(objects, set())
        deadline = time.monotonic() + _END_WITHIN
        while time.monotonic() < deadline:
            there = await self._find(_OURS, *_KINDS)
            uids = {obj["metadata"]["uid"] for items in there.values() for obj in items}
            now = [orphan for orphan in now if orphan.key[-1] in uids]
            if not now or all(str(orphan.key[-1]) in self._refused for orphan in now):
                break
            await asyncio.sleep(_PAUSE)
        return now

    # Queries

    async def _find(self, selector: str, *kinds: ResourceKind) -> Found:
        """Return the visible objects of these kinds."""

        async def find(kind: ResourceKind) -> list[dict[str, Any]]:
            try:
                return (await self._api.list(kind, selector, bare=kind in _BARE))[0]
            except KubernetesError as error:
                if error.code not in (403, 404):
                    raise
                self._note(f"{kind.plural} cannot be seen: {error.message}")
                if error.code == 403 and kind.plural not in self.unseen:
                    self.unseen.append(kind.plural)
                return []

        return dict(zip(kinds, await asyncio.gather(*map(find, kinds)), strict=True))

    async def _orphans(self) -> list[Orphan]:
        orphans = []
        found = await self._find(_OURS, *_KINDS)
        owners: dict[str, Object | None] = {}
        for kind in _KINDS:
            for obj in found[kind]:
                if not label(obj, CLUSTER):
                    continue  # another cluster's object may have the same kind of name
                for reference in obj["metadata"].get("ownerReferences") or ():
                    if reference["uid"] not in owners:
                        owners[reference["uid"]] = await self._owner(reference, found)
                owns, now = kind is JOBS, time.time()
                if why := why_orphan(obj, owns=owns, owner=owners.get, now=now):
                    meta = obj["metadata"]
                    orphan = Orphan(
                        what=_called(kind, obj),
                        cluster=label(obj, CLUSTER),
                        why=why,
                        # The deadline is part of the key: a driver that moves it is alive.
                        key=(kind, meta["name"], deadline(obj) if owns else None, meta["uid"]),
                    )
                    orphans.append(orphan)
        return orphans

    async def _owner(self, reference: Object, found: Found) -> Object | None:
        """Return a referenced owner: None if it is gone, UNKNOWN if that cannot be determined."""
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

    # Actions

    async def _tell(self, pods: Sequence[Object]) -> bool:
        """Notify a cluster's driver by an annotation on a pod; return whether it worked."""
        living = [p for p in pods if "deletionTimestamp" not in p["metadata"] and not finished(p)]
        # Prefer a pod that lives as long as the cluster.
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
        """Delete objects that are not in `done` and are not deleted with a Job, pods first.

        A pod deleted by the garbage collector gets its own grace, which a shorter one cannot reduce
        afterwards: the node keeps to the first.
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
        """Delete exactly this object, and the objects it owns, if permitted."""
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


def _no_entrance(cluster: ClusterListing, error: KubernetesError) -> str:
    name = connection_name(cluster.id)
    if error.code == 404:
        return (
            f"nobody can connect to {cluster.id}: its scheduler is in its driver, "
            f'{cluster.driver}, or it is about to end; write FlameCluster(scheduler="pod") for a '
            "cluster that other processes can connect to"
        )
    rights = rules([(SECRETS, "", "get"), (PODS, "", "patch")])
    return (
        f"the Secret {name}, which one needs to connect to {cluster.id}, cannot be read: {error}; "
        f"ask for a Role with these rules:\n{rights}"
    )


async def _nothing() -> None:
    """Close nothing."""


def _of(cluster: str) -> str:
    return f"{_OURS},{CLUSTER}={cluster}"


def _given(pod: Object) -> float:
    """Return the seconds left for a pod that someone else has deleted; else 0."""
    if "deletionTimestamp" not in pod["metadata"]:
        return 0.0
    first = pod["spec"].get("terminationGracePeriodSeconds") or 0
    return float(max(first, pod["metadata"].get("deletionGracePeriodSeconds") or 0)) + _MOMENT


def _called(kind: ResourceKind, obj: Object) -> str:
    singular = re.sub("ies$", "y", kind.plural).removesuffix("s")
    return f"{singular} {obj['metadata']['name']}"

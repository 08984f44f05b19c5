"""A client of the Kubernetes API: objects, logs, ports, permissions and a watch (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

import kr8s
import kr8s.asyncio

from dask_flame.backends.kubernetes.api.errors import KubernetesError as KubernetesError
from dask_flame.backends.kubernetes.api.errors import error_text, status_error
from dask_flame.backends.kubernetes.api.kubeconfig import (
    advice,
    contexts,
    find_namespace,
    is_elsewhere,
    no_cluster,
    no_context,
)
from dask_flame.backends.kubernetes.api.sessions import to_its_end
from dask_flame.backends.kubernetes.api.streams import PROTOCOL, PortStream
from dask_flame.backends.kubernetes.api.transport import TIMEOUT, Transport

#: Seconds of retries after temporary errors.
_PATIENCE = 60.0
#: Seconds between two queries for a permission that the server may not know yet.
_ASK_AGAIN = 1.0
#: Lists with metadata only. https://kubernetes.io/docs/reference/using-api/api-concepts
_BARE = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
#: Duration of a watch in seconds; a connection that lasts `_MOMENT` longer is dead.
_WATCH = 60
_MOMENT = 10


@dataclass(frozen=True)
class ResourceKind:
    """A kind of object: its version and its plural in the API."""

    version: str
    plural: str


PODS = ResourceKind("v1", "pods")
SECRETS = ResourceKind("v1", "secrets")
JOBS = ResourceKind("batch/v1", "jobs")
SERVICES = ResourceKind("v1", "services")
POLICIES = ResourceKind("networking.k8s.io/v1", "networkpolicies")
REVIEWS = ResourceKind("authorization.k8s.io/v1", "selfsubjectaccessreviews")


class Api:
    """Requests to one namespace.

    Created by :meth:`connect`, which finds the server as kr8s does: by a kubeconfig, or by the
    service account of this pod.

    Parameters
    ----------
    api : kr8s.asyncio.Api
    namespace : str
    patience : float
        Seconds of retries after temporary errors.

    Attributes
    ----------
    elsewhere : bool
        Whether the namespace or the cluster differs from the default.
    """

    def __init__(self, api: Any, namespace: str, *, patience: float = _PATIENCE) -> None:
        self.elsewhere = False
        self.namespace = namespace
        self._transport = Transport(api, namespace, patience=patience)

    @classmethod
    async def connect(
        cls,
        *,
        namespace: str | None = None,
        context: str | None = None,
        patience: float = _PATIENCE,
    ) -> Api:
        """Find the server, and the namespace: from the kubeconfig's context, or the pod.

        Parameters
        ----------
        namespace, context : str, optional
            To be used instead of the default.
        patience : float
            Seconds of retries after temporary errors.
        """
        try:
            async with asyncio.timeout(TIMEOUT):
                # Not the instance shared within this process, because its session is closed here.
                given = {"context": context} if context else {}
                api = kr8s.asyncio.Api(bypass_factory=True, **given)
                await to_its_end(api.auth)
                made = cls(api, find_namespace(api.auth, namespace, context), patience=patience)
                made.elsewhere = is_elsewhere(api.auth, namespace, context)
                await made._transport.open()
        except (LookupError, ValueError, OSError, kr8s.ConnectionClosedError) as error:
            if context and context not in (known := contexts()):
                raise KubernetesError(0, "NoContext", no_context(context, known)) from error
            raise KubernetesError(0, "NoCluster", no_cluster(error_text(error))) from error
        return made

    async def create(
        self, kind: ResourceKind, item: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Create an object; as a `dry_run`, only check whether it would be accepted.

        If a retry finds the object present, an earlier attempt has created it.

        Parameters
        ----------
        kind : ResourceKind
        item : mapping
            The manifest.
        dry_run : bool, default False
            Create nothing.
        """
        tried = False
        # Otherwise the server drops fields that it does not know, such as misspelt ones.
        params = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}

        async def once() -> dict[str, Any]:
            nonlocal tried
            again, tried = tried, True
            try:
                return await self._once("POST", kind, body=item, params=params)
            except KubernetesError as error:
                if again and error.reason == "AlreadyExists":
                    if kind in (SECRETS, POLICIES):
                        return dict(item)  # its contents are part of its name: no need to read it
                    return await self._once("GET", kind, item["metadata"]["name"])
                error.unsure = again or not error.code
                raise

        return await self._transport.retried(once)

    async def get(self, kind: ResourceKind, name: str) -> dict[str, Any]:
        return await self._transport.retried(lambda: self._once("GET", kind, name))

    async def patch(
        self,
        kind: ResourceKind,
        name: str,
        changes: Mapping[str, Any],
        *,
        patience: float | None = None,
    ) -> dict[str, Any]:
        """Apply a merge patch to an object.

        Parameters
        ----------
        kind : ResourceKind
        name : str
        changes : mapping
            None as a value removes the key.
        patience : float, optional
            Seconds of retries, if not the client's own.
        """
        headers = {"Content-Type": "application/merge-patch+json"}
        return await self._transport.retried(
            lambda: self._once("PATCH", kind, name, body=changes, headers=headers), patience
        )

    async def list(
        self, kind: ResourceKind, selector: str, *, bare: bool = False
    ) -> tuple[list[dict[str, Any]], str]:
        """Return all objects with these labels, and the resource version of the list.

        With `bare`, only their metadata is requested.

        Parameters
        ----------
        kind : ResourceKind
        selector : str
            Label selector.
        bare : bool, default False
        """
        headers = {"Accept": f"{_BARE},application/json"} if bare else {}
        items: list[dict[str, Any]] = []
        more: dict[str, str] = {}
        while True:
            params = {"labelSelector": selector, "limit": "500", **more}
            page = await self._transport.retried(
                lambda: self._once("GET", kind, params=params, headers=headers)  # noqa: B023
            )
            items += page.get("items") or []
            if not (more_key := page["metadata"].get("continue")):
                return items, page["metadata"]["resourceVersion"]
            more = {"continue": more_key}

    async def delete(
        self,
        kind: ResourceKind,
        name: str,
        *,
        grace: float | None = None,
        uid: str | None = None,
        version: str | None = None,
    ) -> bool:
        """Delete an object, with all that it owns; return whether it existed.

        With a uid, only this very object, and no other that has the same name. With a version, only
        if the object has not changed since; otherwise this raises an error with the code 409.

        Parameters
        ----------
        kind : ResourceKind
        name : str
        grace : float, optional
            Grace period in seconds, if not the object's own.
        uid, version : str, optional
        """
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1"}
        options["propagationPolicy"] = "Background"
        if grace is not None:
            options["gracePeriodSeconds"] = max(0, round(grace))
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        elif version is not None:
            options["preconditions"] = {"resourceVersion": version}

        async def once() -> dict[str, Any]:
            try:
                return await self._once("DELETE", kind, name, body=options)
            except KubernetesError as error:
                if uid is not None and error.code == 409:
                    error = KubernetesError(404, "NotFound", error.message)
                raise error from None

        try:
            await self._transport.retried(once)
        except KubernetesError as error:
            if error.code == 404:
                return False
            raise
        return True

    async def log(self, name: str, container: str, *, lines: int) -> str:
        """Return the last lines of a container's log; empty on any error.

        Parameters
        ----------
        name, container : str
        lines : int
            Maximum number of lines.
        """
        with contextlib.suppress(KubernetesError):
            return await self.read_log(name, container, lines=lines)
        return ""

    async def read_log(self, name: str, container: str, *, lines: int) -> str:
        """Return the last lines of a container's log; raise an error if there is none.

        Parameters
        ----------
        name, container : str
        lines : int
            Maximum number of lines.
        """
        params = {"container": container, "tailLines": str(lines)}
        return await self._transport.text(f"pods/{name}/log", params)

    async def follow(self, name: str, container: str, *, lines: int) -> AsyncGenerator[str]:
        """Yield the last lines of a container's log, and new ones until the container ends.

        Lines have no newline. A pause in the output is no error.

        Parameters
        ----------
        name, container : str
        lines : int
            Maximum number of present lines; all new ones follow.
        """
        params = {"container": container, "tailLines": str(lines), "follow": "true"}
        async with self._transport.stream("v1", f"pods/{name}/log", params, read=None) as response:
            async for line in response.aiter_lines():
                yield line

    async def allowed(self, verb: str, kind: ResourceKind, subresource: str = "") -> bool:
        """Return whether this user may perform an action in the namespace.

        Parameters
        ----------
        verb : str
        kind : ResourceKind
        subresource : str, default ""
        """
        group = kind.version.rpartition("/")[0]
        attributes = {
            "namespace": self.namespace,
            "verb": verb,
            "group": group,
            "resource": kind.plural,
            "subresource": subresource,
        }
        review = {
            "apiVersion": REVIEWS.version,
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        while True:
            answer = await self._transport.retried(
                lambda: self._once("POST", REVIEWS, body=review, namespaced=False)
            )
            if (allowed := bool(answer["status"].get("allowed"))) or not self._transport.just_back:
                return allowed
            await asyncio.sleep(_ASK_AGAIN)

    async def has_namespace(self) -> bool:
        """Return whether the namespace exists; only certain if this user may create pods in it."""
        container = {"name": "none", "image": "none"}
        pod = {
            "apiVersion": PODS.version,
            "kind": "Pod",
            "metadata": {"name": "dask-flame-none"},
            "spec": {"containers": [container]},
        }
        try:
            # Nothing is created. The namespace is checked before the pod.
            await self._transport.retried(
                lambda: self._once("POST", PODS, body=pod, params={"dryRun": "All"})
            )
        except KubernetesError as error:
            return error.code != 404
        return True

    async def watch(
        self, kind: ResourceKind, selector: str, version: str
    ) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        """Yield events after a version: ``ADDED``, ``MODIFIED``, ``DELETED``, ``BOOKMARK``.

        Returns when the server ends the watch, which is no error.

        Parameters
        ----------
        kind : ResourceKind
        selector : str
            Label selector.
        version : str
            The resource version of a list.

        Raises
        ------
        KubernetesError
            With code 410 if the version is too old: list again.
        """
        params = {
            "watch": "true",
            "labelSelector": selector,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH),
        }
        read = _WATCH + _MOMENT
        async with self._transport.stream(kind.version, kind.plural, params, read=read) as response:
            async for line in response.aiter_lines():
                try:
                    event = json.loads(line)
                except json.JSONDecodeError as error:
                    raise KubernetesError(0, "Unreachable", "a watch was cut off") from error
                if event["type"] == "ERROR":
                    raise status_error(event["object"])
                yield event["type"], event["object"]

    @contextlib.asynccontextmanager
    async def forward(self, pod: str, port: int) -> AsyncGenerator[PortStream]:
        """Open a connection to a port of a pod.

        Raises
        ------
        KubernetesError
            If it cannot be opened, or breaks.
        """
        url, params = f"pods/{pod}/portforward", {"ports": str(port)}
        async with self._transport.websocket(url, params, PROTOCOL) as socket:
            yield PortStream(socket)

    async def renew(self) -> None:
        """Read the credentials again, because tokens expire.

        Raises
        ------
        KubernetesError
            If they cannot be read, for example because an external program fails.
        """
        await self._transport.renew()

    def advice(self, error: KubernetesError) -> str:
        """Return what to type to find the cause of an error; empty if nothing is known to help."""
        return advice(error, self._transport.context)

    async def close(self) -> None:
        """Cancel all requests and close all connections; later requests raise an error."""
        await self._transport.close()

    async def _once(
        self,
        method: str,
        kind: ResourceKind,
        name: str = "",
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        namespaced: bool = True,
    ) -> dict[str, Any]:
        response = await self._transport.request(
            method,
            kind.version,
            f"{kind.plural}/{name}" if name else kind.plural,
            namespaced=namespaced,
            params=params,
            headers=headers,
            content=None if body is None else json.dumps(body),
        )
        answer: dict[str, Any] = response.json()
        return answer

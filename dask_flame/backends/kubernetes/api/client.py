"""A client of the Kubernetes API: requests with retries, streams and a watch (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import ssl
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import httpx_ws
import kr8s
import kr8s.asyncio
import yaml

from dask_flame.backends.kubernetes.api.errors import KubernetesError as KubernetesError
from dask_flame.backends.kubernetes.api.errors import said, stated, worded
from dask_flame.backends.kubernetes.api.sessions import Sessions
from dask_flame.backends.kubernetes.api.streams import PROTOCOL, PortStream
from dask_flame.core.backoff import Backoff

logger = logging.getLogger("dask_flame")

#: Files in a pod with a service account.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: Seconds: timeout of a request, total time of its retries, and time for the response to a ping on
#: a WebSocket.
_TIMEOUT = 15.0
_PATIENCE = 60.0
_PONG = 60.0
#: First and longest delay of retries, in seconds.
_FIRST, _LONGEST = 0.2, 5.0
#: Seconds after an outage within which the server may refuse permitted requests.
_READY_WITHIN = 15.0
#: Maximum number of concurrent requests.
_AT_ONCE = 32
#: Lists with metadata only. https://kubernetes.io/docs/reference/using-api/api-concepts
_BARE = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
#: Duration of a watch in seconds; a connection that lasts `_MOMENT` longer is dead.
_WATCH = 60
_MOMENT = 10


#: The reason of errors after the client was closed.
CLOSED = "Closed"


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
        self.patience = patience
        self._api = api
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._sessions = Sessions(api)
        self._closed = False
        self._away = -math.inf  # when the server was last unreachable
        self._under_way: set[asyncio.Task[httpx.Response]] = set()

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
            async with asyncio.timeout(_TIMEOUT):
                # Not the instance shared within this process, because its session is closed here.
                given = {"context": context} if context else {}
                api = kr8s.asyncio.Api(bypass_factory=True, **given)
                await api.auth
                made = cls(api, _namespace(api.auth, namespace, context), patience=patience)
                made.elsewhere = _is_elsewhere(api.auth, namespace, context)
                await made._sessions.open()
        except (LookupError, ValueError, OSError, kr8s.ConnectionClosedError) as error:
            if context and context not in (known := contexts()):
                raise KubernetesError(0, "NoContext", _no_context(context, known)) from error
            raise KubernetesError(0, "NoCluster", worded(error)) from error
        return made

    async def close(self) -> None:
        """Cancel all requests and close all connections; later requests raise an error."""
        self._closed = True
        # A connection being opened when its session closes would stay open.
        for request in list(self._under_way):
            request.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._sessions.close()

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
        params = {"dryRun": "All"} if dry_run else None

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

        return await self._retried(once)

    async def get(self, kind: ResourceKind, name: str) -> dict[str, Any]:
        return await self._retried(lambda: self._once("GET", kind, name))

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
        return await self._retried(
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
            page = await self._retried(
                lambda: self._once("GET", kind, params=params, headers=headers)  # noqa: B023
            )
            items += page.get("items") or []
            if not (more_key := page["metadata"].get("continue")):
                return items, page["metadata"]["resourceVersion"]
            more = {"continue": more_key}

    async def delete(
        self, kind: ResourceKind, name: str, *, grace: float | None = None, uid: str | None = None
    ) -> bool:
        """Delete an object, with all that it owns; return whether it existed.

        With a uid, only this very object, and no other that has the same name.

        Parameters
        ----------
        kind : ResourceKind
        name : str
        grace : float, optional
            Grace period in seconds, if not the object's own.
        uid : str, optional
        """
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1"}
        options["propagationPolicy"] = "Background"
        if grace is not None:
            options["gracePeriodSeconds"] = max(0, round(grace))
        if uid is not None:
            options["preconditions"] = {"uid": uid}

        async def once() -> dict[str, Any]:
            try:
                return await self._once("DELETE", kind, name, body=options)
            except KubernetesError as error:
                if uid is not None and error.code == 409:
                    error = KubernetesError(404, "NotFound", error.message)
                raise error from None

        try:
            await self._retried(once)
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
        return await self._text(f"pods/{name}/log", params)

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
        async with self._stream("v1", f"pods/{name}/log", params, read=None) as response:
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
            answer = await self._retried(
                lambda: self._once("POST", REVIEWS, body=review, namespaced=False)
            )
            if (allowed := bool(answer["status"].get("allowed"))) or not self._just_back:
                return allowed
            await asyncio.sleep(_LONGEST / 5)

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
            await self._retried(
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
        async with self._stream(kind.version, kind.plural, params, read=read) as response:
            async for line in response.aiter_lines():
                try:
                    event = json.loads(line)
                except json.JSONDecodeError as error:
                    raise KubernetesError(0, "Unreachable", "a watch was cut off") from error
                if event["type"] == "ERROR":
                    raise stated(event["object"])
                yield event["type"], event["object"]

    @contextlib.asynccontextmanager
    async def _stream(
        self, version: str, url: str, params: Mapping[str, str], *, read: float | None
    ) -> AsyncGenerator[httpx.Response]:
        """Open a streaming response, with a timeout of `read` seconds between chunks."""
        self._check_open()
        try:
            async with (
                self._sessions.used(),
                self._api.call_api(
                    "GET",
                    version=version,
                    namespace=self.namespace,
                    url=url,
                    params=params,
                    stream=True,
                    raise_for_status=False,
                    timeout=httpx.Timeout(_TIMEOUT, read=read),
                ) as response,
            ):
                if response.status_code >= 400:
                    await response.aread()
                    raise said(response)
                yield response
        except (httpx.HTTPError, httpx.StreamError, kr8s.APITimeoutError, OSError) as error:
            self._away = time.monotonic()
            raise KubernetesError(0, "Unreachable", worded(error)) from error

    @contextlib.asynccontextmanager
    async def forward(self, pod: str, port: int) -> AsyncGenerator[PortStream]:
        """Open a connection to a port of a pod.

        Raises
        ------
        KubernetesError
            If it cannot be opened, or breaks.
        """
        self._check_open()
        try:
            async with (
                self._sessions.used(),
                self._api.open_websocket(
                    version="v1",
                    namespace=self.namespace,
                    url=f"pods/{pod}/portforward",
                    params={"ports": str(port)},
                    subprotocols=[PROTOCOL],
                    # For the upgrade: a server may accept the connection and then not respond.
                    timeout=_TIMEOUT,
                    # The response to a ping waits behind other data.
                    keepalive_ping_timeout_seconds=_PONG,
                ) as socket,
            ):
                yield PortStream(socket)
        except httpx_ws.WebSocketUpgradeError as error:
            if error.response.status_code == 401 and self._sessions.age > _LONGEST:
                await self.renew()  # for the next attempt
            raise said(error.response) from error
        except (httpx_ws.HTTPXWSException, httpx.HTTPError, RuntimeError, OSError) as error:
            raise KubernetesError(0, "Unreachable", worded(error)) from error
        except ExceptionGroup as group:
            # httpx_ws wraps errors that occur while the socket is open.
            raise KubernetesError(0, "Unreachable", worded(group.exceptions[0])) from group

    @property
    def _just_back(self) -> bool:
        """Whether the server was unreachable a moment ago."""
        return time.monotonic() < self._away + _READY_WITHIN

    def _check_open(self) -> None:
        if self._closed:
            raise KubernetesError(0, CLOSED, "the cluster is closed")

    async def _retried(self, once: Any, patience: float | None = None) -> dict[str, Any]:
        """Call a function, and retry after temporary errors."""
        loop = asyncio.get_running_loop()
        until = loop.time() + (self.patience if patience is None else patience)
        backoff = Backoff(_FIRST, _LONGEST)
        renewed = False
        while True:
            try:
                async with self._slots:
                    result: dict[str, Any] = await once()
                    return result
            except KubernetesError as error:
                if error.code == 401 and not renewed:
                    renewed = True
                    await self.renew()
                    continue
                if not error.code or error.code >= 500:
                    self._away = time.monotonic()
                not_ready = self._just_back and not error.decided
                if self._closed or (error.code and not error.passes and not not_ready):
                    raise
                wait = max(error.wait, backoff.next_with_jitter())
                if loop.time() + wait > until:
                    raise
                logger.debug("asked again in %.1f s: %s", wait, error)
                await asyncio.sleep(wait)

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
        response = await self._call(
            method,
            kind.version,
            f"{kind.plural}/{name}" if name else kind.plural,
            namespaced,
            params=params,
            headers=headers,
            content=None if body is None else json.dumps(body),
        )
        answer: dict[str, Any] = response.json()
        return answer

    async def _text(self, url: str, params: Mapping[str, str]) -> str:
        async with self._slots:
            return str((await self._call("GET", "v1", url, True, params=params)).text)

    async def _call(
        self, method: str, version: str, url: str, namespaced: bool, **more: Any
    ) -> httpx.Response:
        self._check_open()
        request = asyncio.ensure_future(self._request(method, version, url, namespaced, **more))
        self._under_way.add(request)
        try:
            return await request
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._check_open()
            raise
        finally:
            self._under_way.discard(request)

    async def _request(
        self, method: str, version: str, url: str, namespaced: bool, **more: Any
    ) -> httpx.Response:
        # Without `raise_for_status`: kr8s takes every 403 for an expired token, and opens a new
        # session, which breaks all requests on the old one.
        try:
            async with (
                self._sessions.used(),
                self._api.call_api(
                    method,
                    version=version,
                    namespace=self.namespace if namespaced else None,
                    url=url,
                    raise_for_status=False,
                    timeout=_TIMEOUT,
                    **more,
                ) as response,
            ):
                if response.status_code >= 400:
                    raise said(response)
                answer: httpx.Response = response
                return answer
        except (httpx.HTTPError, kr8s.APITimeoutError, ssl.SSLError, OSError) as error:
            raise KubernetesError(0, "Unreachable", worded(error)) from error
        except RuntimeError as error:
            # The session was closed in the meantime.
            raise KubernetesError(0, "Unreachable", "the connection was closed") from error

    async def renew(self) -> None:
        """Read the credentials again, because tokens expire.

        Raises
        ------
        KubernetesError
            If they cannot be read, for example because an external program fails.
        """
        try:
            await self._sessions.renew()
        except Exception as error:
            said = f"credentials could not be read again: {worded(error)}"
            raise KubernetesError(401, "Unauthorized", said) from error


def _namespace(auth: Any, given: str | None, context: str | None) -> str:
    if context and auth.active_context != context:
        raise LookupError(context)
    if given:
        return given
    if context:
        # kr8s uses the namespace of the current context.
        return str(auth.kubeconfig.get_context(context).get("namespace") or "default")
    if not auth.active_context and (ACCOUNT / "namespace").is_file():
        # kr8s uses "default" instead: https://github.com/kr8s-org/kr8s/issues/532
        return (ACCOUNT / "namespace").read_text().strip()
    return str(auth.namespace)


def _is_elsewhere(auth: Any, given: str | None, context: str | None) -> bool:
    """Return whether a given namespace or context differs from the default."""
    if context and context != auth.kubeconfig.current_context:
        return True
    return bool(given) and given != _namespace(auth, None, context)


def contexts() -> list[str]:
    """Return the names of the kubeconfig's contexts, as far as they can be read."""
    names: list[str] = []
    for path in os.environ.get("KUBECONFIG", "~/.kube/config").split(os.pathsep):
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError, TypeError, LookupError):
            text = Path(path).expanduser().read_text()
            names += [item["name"] for item in yaml.safe_load(text)["contexts"]]
    return names


def _no_context(context: str, known: list[str]) -> str:
    there = f"there are {', '.join(map(repr, known))}" if known else "there is none"
    return f"the kubeconfig has no context {context!r}: {there}"

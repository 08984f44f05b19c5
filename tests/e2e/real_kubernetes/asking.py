"""Kubernetes' API, asked from tests: kr8s in a thread of its own (test process)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, Self, TypeVar

import httpx
import kr8s
import kr8s.asyncio

T = TypeVar("T")
Object = dict[str, Any]

#: Where objects of each kind are: group and version, plural.
KINDS = {
    "Namespace": ("v1", "namespaces"),
    "Node": ("v1", "nodes"),
    "Pod": ("v1", "pods"),
    "Secret": ("v1", "secrets"),
    "ConfigMap": ("v1", "configmaps"),
    "Service": ("v1", "services"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "ResourceQuota": ("v1", "resourcequotas"),
    "Job": ("batch/v1", "jobs"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "Role": ("rbac.authorization.k8s.io/v1", "roles"),
    "Deployment": ("apps/v1", "deployments"),
    "DaskCluster": ("kubernetes.dask.org/v1", "daskclusters"),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings"),
}
#: Those that are in no namespace.
_WIDE = ("Namespace", "Node")
_WITHIN = 60.0
#: Answers after which the same is asked again, and seconds until it is not.
_AGAIN = (408, 429, 500, 502, 503, 504)
_PATIENCE = 30.0


class Refused(Exception):
    """The server's refusal: its code, and its words."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Asking:
    """The API server of the kubeconfig, or of the pod that this runs in.

    Attributes
    ----------
    namespace : str
        Where things are: that of the kubeconfig's context, unless told.
    """

    def __init__(self, namespace: str = "") -> None:
        self.namespace = namespace

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="kubernetes-asking", daemon=True
        )
        self._thread.start()
        try:
            self._run(self._connect())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        async def end() -> None:
            session = getattr(getattr(self, "_api", None), "_session", None)
            if session is not None:
                with contextlib.suppress(RuntimeError):
                    await session.aclose()

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _connect(self) -> None:
        self._api = kr8s.asyncio.Api(bypass_factory=True)
        await self._api.auth
        await self._api._create_session()
        self.namespace = self.namespace or self._api.auth.namespace

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(2 * _WITHIN)

    def create(self, obj: Mapping[str, Any], **params: str) -> Object:
        return self._ask("POST", obj["kind"], body=obj, params=params)

    def get(self, kind: str, name: str) -> Object | None:
        """An object; None where there is none."""
        try:
            return self._ask("GET", kind, name)
        except Refused as refused:
            if refused.code == 404:
                return None
            raise

    def list(self, kind: str, **params: str) -> list[Object]:
        found: list[Object] = self._ask("GET", kind, params=params)["items"]
        # The items of a list do not say what they are.
        return [{"apiVersion": KINDS[kind][0], "kind": kind, **item} for item in found]

    def delete(self, kind: str, name: str, grace: int | None = None) -> bool:
        """Delete an object and what it owns; whether it was there."""
        options: Object = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": "Background",
        }
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            self._ask("DELETE", kind, name, body=options)
        except Refused as refused:
            if refused.code == 404:
                return False
            raise
        return True

    def allowed(self, verb: str, kind: str) -> bool:
        """Whether this user may do that to objects of a kind."""
        version, plural = KINDS[kind]
        attributes = {"verb": verb, "group": version.rpartition("/")[0], "resource": plural}
        if kind not in _WIDE:
            attributes["namespace"] = self.namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = self._run(
            self._once(
                "POST", "authorization.k8s.io/v1", None, "selfsubjectaccessreviews", review, {}
            )
        )
        return bool(answer["status"].get("allowed"))

    def has(self, kind: str) -> bool:
        """Whether the server knows this kind at all."""
        version = KINDS[kind][0]
        try:
            self._run(self._once("GET", version, None, "", None, {}))
        except Refused as refused:
            if refused.code == 404:
                return False
            raise
        return True

    def log(self, pod: str, *, after: int = 0) -> Iterator[str]:
        """Lines that a pod prints, from one on, as they are printed, until its end."""
        # A connection on which nothing is said for long may be cut on the way.
        while True:
            lines: list[str] = []
            over = False
            asking = asyncio.run_coroutine_threadsafe(self._follow(pod, lines), self._loop)
            seen = 0
            try:
                while not over:
                    over = asking.done()
                    while seen < len(lines):
                        if seen >= after:
                            after += 1
                            yield lines[seen]
                        seen += 1
                    time.sleep(0.05)
            finally:
                asking.cancel()
            there = self.get("Pod", pod)
            if there is None or there["status"]["phase"] in ("Succeeded", "Failed"):
                # What came between the cut and the end.
                yield from self.printed(pod)[after:]
                return
            time.sleep(0.5)

    def printed(self, pod: str) -> list[str]:
        """What a pod has printed so far, in lines."""
        return self._run(self._log(pod))

    async def _follow(self, pod: str, lines: list[str]) -> None:
        with contextlib.suppress(httpx.HTTPError, kr8s.APITimeoutError, OSError):
            async with self._api.call_api(
                "GET",
                namespace=self.namespace,
                url=f"pods/{pod}/log",
                params={"follow": "true"},
                stream=True,
                raise_for_status=False,
                timeout=httpx.Timeout(_WITHIN, read=600),
            ) as response:
                if response.status_code == 200:
                    rest = ""
                    async for text in response.aiter_text():
                        *whole, rest = (rest + text).split("\n")
                        lines += whole

    async def _log(self, pod: str) -> list[str]:
        async with self._api.call_api(
            "GET",
            namespace=self.namespace,
            url=f"pods/{pod}/log",
            raise_for_status=False,
            timeout=_WITHIN,
        ) as response:
            return response.text.split("\n") if response.status_code == 200 else []

    def _ask(
        self,
        method: str,
        kind: str,
        name: str = "",
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Object:
        version, plural = KINDS[kind]
        namespace = None if kind in _WIDE else self.namespace
        url = f"{plural}/{name}" if name else plural
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._run(self._once(method, version, namespace, url, body, params or {}))
            except Refused as refused:
                if refused.code not in _AGAIN or time.monotonic() > until:
                    raise
            time.sleep(0.5)

    async def _once(
        self,
        method: str,
        version: str,
        namespace: str | None,
        url: str,
        body: Mapping[str, Any] | None,
        params: Mapping[str, str],
    ) -> Object:
        async with self._api.call_api(
            method,
            version=version,
            namespace=namespace,
            url=url,
            params=params,
            content=None if body is None else json.dumps(body),
            raise_for_status=False,
            timeout=_WITHIN,
        ) as response:
            answer: Object = response.json()
            if response.status_code >= 400:
                raise Refused(response.status_code, answer.get("message", response.text))
            return answer

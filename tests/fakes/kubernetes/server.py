"""HTTP of the fake API server: paths, verbs, users, faults (test process)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from aiohttp import web

from tests.fakes.http_server import HttpServer
from tests.fakes.kubernetes import kinds
from tests.fakes.kubernetes.access import Access
from tests.fakes.kubernetes.api import Api
from tests.fakes.kubernetes.errors import (
    Refused,
    bad_request,
    no_such_resource,
    not_supported,
)
from tests.fakes.kubernetes.forward import forward
from tests.fakes.kubernetes.kinds import PODS, REVIEWS, Kind
from tests.fakes.kubernetes.requests import Request, Requests
from tests.fakes.kubernetes.watches import Watches

#: A version that clients of now support.
VERSION = {
    "major": "1",
    "minor": "34",
    "gitVersion": "v1.34.1",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2025-09-09T19:44:50Z",
    "goVersion": "go1.24.6",
    "compiler": "gc",
    "platform": "linux/amd64",
}

_COLLECTION = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}
_OBJECT = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "POST": "create"}


class Logs(Protocol):
    """Where logs of pods come from, and who takes a pod off its node."""

    def read(self, pod: dict[str, Any], params: Mapping[str, str]) -> bytes: ...

    def open(self, pod: dict[str, Any], params: Mapping[str, str]) -> BinaryIO: ...

    def running(self, pod: dict[str, Any]) -> bool: ...


@dataclass(frozen=True)
class _Target:
    """What a path names."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def _target(path: str) -> _Target | None:
    """What a path names; None where it is not below a group's version."""
    parts = path.strip("/").split("/")
    if parts[:2] == ["api", "v1"]:
        group, rest = "", parts[2:]
    elif parts[0] == "apis" and len(parts) > 2 and parts[2] == "v1":
        group, rest = parts[1], parts[3:]
    else:
        return None
    if not rest:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and kinds.by_plural(group, rest[2]):
        namespace, rest = rest[1], rest[2:]
    kind = kinds.by_plural(group, rest[0])
    if kind is None or len(rest) > 3 or (namespace and not kind.namespaced):
        raise no_such_resource()
    name, subresource = [*rest[1:], "", ""][:2]
    if subresource and subresource not in kind.subresources:
        raise no_such_resource()
    return _Target(kind, namespace, name, subresource)


class Server(HttpServer[Request]):
    """Listens, and answers from the store.

    Parameters
    ----------
    api : Api
    access : Access
    watches : Watches
    logs : Logs
    """

    def __init__(self, api: Api, access: Access, watches: Watches, logs: Logs) -> None:
        super().__init__(max_body=2**23)
        self.requests = Requests()
        self._api = api
        self._access = access
        self._watches = watches
        self._logs = logs

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        said = Request(
            request.method, request.path, dict(request.query), request.method.lower(),
            time=time.monotonic(),
        )  # fmt: skip
        self.requests.append(said)
        warnings: list[str] = []
        try:
            said.user = self._access.user(request.headers.get("Authorization"))
            target = _target(request.path)
            self._name(said, target)
            if self.delay:
                await asyncio.sleep(self.delay)
            fault = self._fault(said)
            if fault is not None and not fault.after:
                await self._fail(request, fault)
            if target is None:
                response: web.StreamResponse = self._plain(said)
            else:
                response = await self._do(request, said, target, warnings)
            if fault is not None:
                await self._fail(request, fault)
        except Refused as refused:
            response = _refusal(refused)
        except ConnectionResetError:
            raise asyncio.CancelledError from None
        for warning in warnings:
            if not response.prepared:
                text = warning.replace('"', '\\"')
                response.headers.add("Warning", f'299 - "{text}"')
        said.status = response.status
        return response

    def _name(self, said: Request, target: _Target | None) -> None:
        """Write into the log what the request is in Kubernetes' words."""
        if target is None:
            return
        said.resource = target.kind.plural + (target.subresource and f"/{target.subresource}")
        verb = (_OBJECT if target.name else _COLLECTION).get(said.method)
        if verb is None or (verb == "create" and target.name and not target.subresource):
            raise not_supported(target.kind, said.method)
        if verb == "list" and said.query.get("watch") in ("true", "1"):
            verb = "watch"
        said.verb = verb
        if verb not in target.kind.verbs:
            raise not_supported(target.kind, verb)

    def _plain(self, said: Request) -> web.Response:
        """Version, discovery and health."""
        self._access.check_path(said.user, said.verb, said.path)
        path = said.path.rstrip("/")
        group = path.removeprefix("/apis/").removesuffix("/v1")
        answers: dict[str, Any] = {
            "/version": VERSION,
            "/api": kinds.versions(),
            "/apis": kinds.groups(),
            "/api/v1": kinds.resources(""),
        }
        if path in answers:
            return web.json_response(answers[path])
        if path in ("/healthz", "/livez", "/readyz"):
            return web.Response(text="ok")
        if group in kinds.GROUPS and path == f"/apis/{group}/v1":
            return web.json_response(kinds.resources(group))
        if group in kinds.GROUPS and path == f"/apis/{group}":
            return web.json_response({"kind": "APIGroup", "apiVersion": "v1", **kinds.group(group)})
        raise no_such_resource()

    async def _do(
        self, request: web.Request, said: Request, target: _Target, warnings: list[str]
    ) -> web.StreamResponse:
        kind, namespace, name, sub = (
            target.kind, target.namespace, target.name, target.subresource
        )  # fmt: skip
        where = name if kind is kinds.NAMESPACES else namespace
        self._access.check(said.user, said.verb, kind, where, name, sub)
        if kind in REVIEWS:
            answer = self._access.review(said.user, kind, await _body(request))
            return web.json_response(answer, status=201)
        if said.verb == "watch":
            said.status = 200
            return await self._watches.serve(request, kind, namespace, said.query)
        if said.verb == "list":
            return web.json_response(self._api.listed(kind, namespace, said.query))
        if said.verb == "get":
            obj = self._api.store.need(kind, namespace, name)
            if sub == "log":
                return await self._log(request, said, obj)
            if sub == "portforward":
                said.status = 101
                return await forward(request, obj)
            return web.json_response(obj)
        body = await _body(request)
        if said.verb == "create" and sub == "eviction":
            self._api.delete(PODS, namespace, name, body.get("deleteOptions"))
            return web.json_response(
                {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                 "code": 201}, status=201,
            )  # fmt: skip
        if said.verb == "create":
            if kind.namespaced and not namespace:
                raise not_supported(kind, "create")
            made = self._api.create(kind, namespace, body, said.query, warnings)
            return web.json_response(made, status=201)
        if said.verb == "update":
            put = self._api.update(
                kind, namespace, name, body, said.query, warnings, subresource=sub
            )
            return web.json_response(put)
        if said.verb == "patch":
            patched = self._api.patch(
                kind, namespace, name, body, request.content_type, said.query, warnings,
                subresource=sub,
            )  # fmt: skip
            return web.json_response(patched)
        options = _options(said.query, body)
        if said.verb == "deletecollection":
            return web.json_response(self._api.delete_all(kind, namespace, said.query, options))
        if kind is kinds.JOBS and not options.get("propagationPolicy"):
            warnings.append(
                "child pods are preserved by default when jobs are deleted; set "
                "propagationPolicy=Background to remove them or set propagationPolicy=Orphan to "
                "suppress this warning"
            )
        return web.json_response(self._api.delete(kind, namespace, name, options))

    async def _log(
        self, request: web.Request, said: Request, pod: dict[str, Any]
    ) -> web.StreamResponse:
        if said.query.get("follow") not in ("true", "1"):
            whole = self._logs.read(pod, said.query)
            return web.Response(body=_cut(whole, said.query), content_type="text/plain")
        # Kept open, so that it is read to its end though the pod goes meanwhile.
        with self._logs.open(pod, said.query) as log:
            response = web.StreamResponse(headers={"Content-Type": "text/plain"})
            said.status = 200
            await response.prepare(request)
            await response.write(_cut(log.read(), said.query))
            running = True
            while running:
                running = self._logs.running(pod)
                if more := log.read():
                    await response.write(more)
                await asyncio.sleep(0.05)
            await response.write_eof()
            return response


def _cut(log: bytes, query: Mapping[str, str]) -> bytes:
    """The last lines of a log, and no more than so many bytes of them."""
    if query.get("tailLines") is not None:
        count = int(query["tailLines"])
        log = b"".join(log.splitlines(keepends=True)[-count:]) if count else b""
    return log[: int(query["limitBytes"])] if query.get("limitBytes") else log


async def _body(request: web.Request) -> Any:
    text = await request.read()
    try:
        return json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise bad_request(
            f"the object provided is unrecognized (must be of type JSON): {error}"
        ) from None


def _options(query: Mapping[str, str], body: Any) -> dict[str, Any]:
    """How to delete: what the query says, over what the body says."""
    options: dict[str, Any] = dict(body) if isinstance(body, dict) else {}
    for name in ("gracePeriodSeconds", "propagationPolicy"):
        if name in query:
            options[name] = query[name]
    policies = ("Foreground", "Background", "Orphan")
    if options.get("propagationPolicy") not in (None, *policies):
        names = ", ".join(f'"{policy}"' for policy in policies)
        raise Refused(
            422,
            f'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: '
            f'"{options["propagationPolicy"]}": supported values: {names}',
        )
    return options


def _refusal(refused: Refused) -> web.Response:
    response = web.json_response(refused.status, status=refused.code)
    if (seconds := refused.details.get("retryAfterSeconds")) is not None:
        response.headers["Retry-After"] = f"{seconds:g}"
    return response

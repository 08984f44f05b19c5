"""HTTP of the fake Fly API: paths, token, limits, faults, the specification (test process)."""

from __future__ import annotations

import asyncio
import email.utils
import json
import re
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.fakes.fly.api import Api
from tests.fakes.fly.errors import Refused, invalid, rate_limited, unauthenticated
from tests.fakes.fly.rates import Buckets
from tests.fakes.fly.requests import Request, Requests
from tests.fakes.fly.specification import Specification, Violation
from tests.fakes.http_server import HttpServer

_APP = "/v1/apps/(?P<app>[^/]+)"
_MACHINE = f"{_APP}/machines/(?P<machine>[^/]+)"

#: Method, path, action; the method of `Api` is ``do_`` and the action, with ``_`` for ``-``.
_ROUTES = [
    (method, re.compile(path), action)
    for method, path, action in (
        ("GET", "/v1/apps", "apps-list"),
        ("POST", "/v1/apps", "apps-create"),
        ("GET", _APP, "apps-get"),
        ("DELETE", _APP, "apps-delete"),
        ("GET", f"{_APP}/machines", "list"),
        ("POST", f"{_APP}/machines", "create"),
        ("GET", _MACHINE, "get"),
        ("POST", _MACHINE, "update"),
        ("DELETE", _MACHINE, "delete"),
        *(
            ("POST", f"{_MACHINE}/{name}", name)
            for name in (
                "start", "stop", "suspend", "restart", "signal", "exec", "cordon", "uncordon",
            )
        ),
        *(("GET", f"{_MACHINE}/{name}", name) for name in ("wait", "events", "versions", "ps")),
        ("GET", f"{_MACHINE}/metadata", "metadata"),
        ("POST", f"{_MACHINE}/metadata/[^/]+", "metadata-set"),
        ("DELETE", f"{_MACHINE}/metadata/[^/]+", "metadata-delete"),
        ("GET", f"{_MACHINE}/lease", "lease"),
        ("POST", f"{_MACHINE}/lease", "lease-create"),
        ("DELETE", f"{_MACHINE}/lease", "lease-delete"),
        ("GET", f"{_APP}/volumes", "volumes"),
        ("POST", f"{_APP}/volumes", "volumes-create"),
        ("GET", f"{_APP}/volumes/[^/]+", "volumes-get"),
        ("DELETE", f"{_APP}/volumes/[^/]+", "volumes-delete"),
        # Of https://api.fly.io, which `fly logs` reads: not a part of the Machines API.
        ("GET", f"/api{_APP}/logs", "logs"),
    )
]  # fmt: skip


class Server(HttpServer[Request]):
    """Listens on a port of this computer, and answers from the API.

    Parameters
    ----------
    api : Api
    buckets : Buckets
    tokens : set of str
        The tokens that are accepted; it may change.
    clock : callable
        Returns the seconds that the fake's clock shows, for the header ``Date``.
    specification : Specification, optional
        Requests and answers are checked against it.
    """

    def __init__(
        self,
        api: Api,
        buckets: Buckets,
        tokens: set[str],
        clock: Callable[[], float],
        specification: Specification | None,
    ) -> None:
        super().__init__(max_body=2**24)
        self.requests = Requests()
        self.storm_until = 0.0
        #: Requests that break the specification, as lines to read.
        self.violations: list[str] = []
        #: Answers that do: errors of this fake.
        self.errors: list[Exception] = []
        self._api = api
        self._buckets = buckets
        self._tokens = tokens
        self._clock = clock
        self._specification = specification

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        said = Request(request.method, request.path, dict(request.query), time=time.monotonic())
        self.requests.append(said)
        try:
            status, body = await self._pass(request, said)
            response = self._response(status, body)
        except Refused as refused:
            response = self._response(refused.status, refused.body())
            response.headers.update(refused.headers)
            said.error = refused.error
        except ConnectionResetError:
            raise asyncio.CancelledError from None
        said.status = response.status
        return response

    def _response(self, status: int, body: Any) -> web.Response:
        date = {"Date": email.utils.formatdate(self._clock(), usegmt=True)}
        if body is None:
            return web.Response(status=status, headers=date)
        return web.json_response(body, status=status, headers=date)

    async def _pass(self, request: web.Request, said: Request) -> tuple[int, Any]:
        self._name(said)
        self._authenticate(request)
        if self.delay:
            await asyncio.sleep(self.delay)
        if not said.action:
            raise Refused(404, "404 page not found")
        self._pace(said)
        fault = self._fault(said)
        if fault is not None and not fault.after:
            await self._fail(request, fault)
        said.body = await _body(request)
        self._check(said)
        work = getattr(self._api, "do_" + said.action.replace("-", "_"))
        status, body = await work(said, request.headers.get("fly-machine-lease-nonce"))
        if self._specification is not None:
            try:
                self._specification.check_answer(said.method, said.path, status, body)
            except Violation as violation:
                self.errors.append(violation)
                raise Refused(500, f"internal: {violation}") from None
        if fault is not None:
            await self._fail(request, fault)
        return status, body

    def _name(self, said: Request) -> None:
        """Write into the log which action the request is."""
        for method, pattern, action in _ROUTES:
            match = pattern.fullmatch(said.path)
            if match and method == said.method:
                said.action = action
                said.app = match.groupdict().get("app") or ""
                said.machine = match.groupdict().get("machine") or ""

    def _authenticate(self, request: web.Request) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme == "FlyV1":
            scheme, token = "Bearer", f"FlyV1 {token}"
        if scheme != "Bearer" or token.strip() not in self._tokens:
            raise unauthenticated()

    def _pace(self, said: Request) -> None:
        if time.monotonic() < self.storm_until:
            raise rate_limited()
        if self._buckets.take(said.action, said.machine or said.app) > 0.0:
            raise rate_limited()

    def _check(self, said: Request) -> None:
        if self._specification is None:
            return
        try:
            self._specification.check_request(said.method, said.path, said.query, said.body)
        except Violation as violation:
            self.violations.append(str(violation))
            raise invalid(f"not as the specification says: {violation}") from None


async def _body(request: web.Request) -> Any:
    text = await request.read()
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise invalid(f"the body is no JSON: {error.__class__.__name__}") from None
    if not isinstance(found, dict):
        raise invalid("the body is no JSON object")
    return found

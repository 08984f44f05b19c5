"""HTTP requests to a Kubernetes API server: retries, credentials, streams, WebSockets (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import httpx
import httpx_ws
import kr8s

from dask_flame.backends.kubernetes.api.errors import KubernetesError, error_text, response_error
from dask_flame.backends.kubernetes.api.sessions import Sessions
from dask_flame.core.backoff import Backoff

logger = logging.getLogger("dask_flame")

#: Seconds: timeout of a request, and time for the response to a ping on a WebSocket.
TIMEOUT = 15.0
_PONG = 60.0
#: First and longest delay of retries, in seconds.
_FIRST, _LONGEST = 0.2, 5.0
#: Seconds after an outage within which the server may refuse permitted requests.
_READY_WITHIN = 15.0
#: Maximum number of concurrent requests.
_AT_ONCE = 32

#: Seconds without a first answer after which the server is named in a warning.
_SILENT = 5.0

#: The reason of errors after the client was closed.
CLOSED = "Closed"


class Transport:
    """Requests to the API server, in one namespace or outside of all.

    Parameters
    ----------
    api : kr8s.asyncio.Api
    namespace : str
    patience : float
        Seconds of retries after temporary errors.
    """

    def __init__(self, api: Any, namespace: str, *, patience: float) -> None:
        self.namespace = namespace
        self.patience = patience
        self._api = api
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._sessions = Sessions(api)
        self._closed = False
        self._away = -math.inf  # when the server was last unreachable
        self._under_way: set[asyncio.Task[httpx.Response]] = set()
        self._waited = False  # for a first answer, or the server has been named

    @property
    def context(self) -> str:
        """The context of the kubeconfig that is used; empty in a pod with a service account."""
        return str(self._api.auth.active_context or "")

    @property
    def server(self) -> str:
        """The address of the server, and the context that it is from."""
        where = f" (context {self.context!r})" if self.context else ""
        return f"{self._api.auth.server}{where}"

    async def open(self) -> None:
        """Open the first session."""
        await self._sessions.open()

    async def close(self) -> None:
        """Cancel all requests and close all connections; later requests raise an error."""
        self._closed = True
        # A connection being opened when its session closes would stay open.
        for request in list(self._under_way):
            request.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._sessions.close()

    @property
    def just_back(self) -> bool:
        """Whether the server was unreachable a moment ago."""
        return time.monotonic() < self._away + _READY_WITHIN

    def _check_open(self) -> None:
        if self._closed:
            raise KubernetesError(0, CLOSED, "the cluster is closed")

    async def retried(
        self, once: Callable[[], Awaitable[dict[str, Any]]], patience: float | None = None
    ) -> dict[str, Any]:
        """Call a function, and retry after temporary errors.

        Parameters
        ----------
        once : callable
            Makes one request.
        patience : float, optional
            Seconds of retries, if not the transport's own.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + (self.patience if patience is None else patience)
        if self._waited:
            return await self._retried(once, until)
        said = loop.call_later(_SILENT, self._say_that_it_waits)
        try:
            return await self._retried(once, until)
        finally:
            said.cancel()

    def _say_that_it_waits(self) -> None:
        if not self._waited:
            self._waited = True
            logger.warning("waiting for an answer of %s", self.server)

    async def _retried(
        self, once: Callable[[], Awaitable[dict[str, Any]]], until: float
    ) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        backoff = Backoff(_FIRST, _LONGEST)
        renewed = False
        while True:
            try:
                async with self._slots:
                    return await once()
            except KubernetesError as error:
                if error.code == 401 and not renewed:
                    renewed = True
                    await self.renew()
                    continue
                if not error.code or error.code >= 500:
                    self._away = time.monotonic()
                not_ready = self.just_back and not error.decided
                if self._closed or (error.code and not error.passes and not not_ready):
                    raise
                wait = max(error.wait, backoff.next_with_jitter())
                if loop.time() + wait > until:
                    raise
                logger.debug("asked again in %.1f s: %s", wait, error)
                await asyncio.sleep(wait)

    async def text(self, url: str, params: Mapping[str, str]) -> str:
        """Return the text of a response, without retries."""
        async with self._slots:
            return str((await self.request("GET", "v1", url, params=params)).text)

    async def request(
        self, method: str, version: str, url: str, *, namespaced: bool = True, **more: Any
    ) -> httpx.Response:
        """Make one request.

        Parameters
        ----------
        method, version, url : str
        namespaced : bool, default True
            Whether it is about objects of the namespace.
        more
            Further arguments of httpx: ``params``, ``headers``, ``content``.

        Raises
        ------
        KubernetesError
            If the server refuses it, or cannot be reached.
        """
        self._check_open()
        request = asyncio.ensure_future(self._send(method, version, url, namespaced, **more))
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

    async def _send(
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
                    timeout=TIMEOUT,
                    **more,
                ) as response,
            ):
                self._waited = True
                if response.status_code >= 400:
                    raise response_error(response)
                answer: httpx.Response = response
                return answer
        except (httpx.HTTPError, kr8s.APITimeoutError, ssl.SSLError, OSError) as error:
            said = f"{self.server} cannot be reached: {error_text(error)}"
            raise KubernetesError(0, "Unreachable", said) from error
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
            text = f"credentials could not be read again: {error_text(error)}"
            raise KubernetesError(401, "Unauthorized", text) from error

    @contextlib.asynccontextmanager
    async def stream(
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
                    timeout=httpx.Timeout(TIMEOUT, read=read),
                ) as response,
            ):
                if response.status_code >= 400:
                    await response.aread()
                    raise response_error(response)
                yield response
        except (httpx.HTTPError, httpx.StreamError, kr8s.APITimeoutError, OSError) as error:
            self._away = time.monotonic()
            raise KubernetesError(0, "Unreachable", error_text(error)) from error

    @contextlib.asynccontextmanager
    async def websocket(
        self, url: str, params: Mapping[str, str], protocol: str
    ) -> AsyncGenerator[httpx_ws.AsyncWebSocketSession]:
        """Open a WebSocket.

        Parameters
        ----------
        url : str
        params : mapping
        protocol : str
            The subprotocol.

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
                    url=url,
                    params=params,
                    subprotocols=[protocol],
                    # For the upgrade: a server may accept the connection and then not respond.
                    timeout=TIMEOUT,
                    # The response to a ping waits behind other data.
                    keepalive_ping_timeout_seconds=_PONG,
                ) as socket,
            ):
                yield socket
        except httpx_ws.WebSocketUpgradeError as error:
            if error.response.status_code == 401 and self._sessions.age > _LONGEST:
                await self.renew()  # for the next attempt
            raise response_error(error.response) from error
        except (httpx_ws.HTTPXWSException, httpx.HTTPError, RuntimeError, OSError) as error:
            raise KubernetesError(0, "Unreachable", error_text(error)) from error
        except ExceptionGroup as group:
            # httpx_ws wraps errors that occur while the socket is open.
            raise KubernetesError(0, "Unreachable", error_text(group.exceptions[0])) from group

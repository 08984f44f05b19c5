"""HTTP requests to Fly: their pace, retries and errors; the token stays inside (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from dask_flame._version import __version__
from dask_flame.backends.fly.api.credentials import Token
from dask_flame.backends.fly.api.errors import FlyError, answer_error
from dask_flame.backends.fly.api.pace import Pace
from dask_flame.core.backoff import Backoff

logger = logging.getLogger("dask_flame")

#: Seconds within which the API answers, and to connect to it.
TIMEOUT = 20.0
CONNECT_WITHIN = 10.0
#: Seconds of retries after errors that may pass. A limit of the pace has no end of its own.
PATIENCE = 60.0
#: First and longest delay of retries, in seconds.
_FIRST, _LONGEST = 0.25, 8.0
#: Connections at a time, so that many machines can be started in parallel.
_AT_ONCE = 64

CLOSED = "the cluster is closed"


class Transport:
    """Requests to one of Fly's APIs.

    Parameters
    ----------
    token : Token
    base : str
        The API's address. Without TLS, no proxy is used.
    pace : Pace
    patience : float
        Seconds of retries after errors that may pass.
    """

    def __init__(self, token: Token, base: str, pace: Pace, *, patience: float = PATIENCE) -> None:
        self.pace = pace
        self.patience = patience
        self._token = token
        self._base = base
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(TIMEOUT, connect=CONNECT_WITHIN),
            limits=httpx.Limits(max_connections=_AT_ONCE, max_keepalive_connections=_AT_ONCE),
            trust_env=base.startswith("https:"),
        )
        #: Seconds by which the server's clock is ahead of this computer's.
        self.ahead = 0.0
        self._closed = False
        self._under_way: set[asyncio.Task[Any]] = set()

    def is_closed(self) -> bool:
        """Return whether :meth:`close` was called, perhaps a moment ago."""
        return self._closed

    async def close(self) -> None:
        """Cancel all requests and close all connections; later requests raise an error."""
        self._closed = True
        for request in list(self._under_way):
            _cancel(request)
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._client.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        action: str,
        identifier: str,
        patience: float | None = None,
        **more: Any,
    ) -> Any:
        """Make a request that may be repeated, until it succeeds or is refused.

        Parameters
        ----------
        method, path : str
        action, identifier : str
            What the pace is limited by.
        patience : float, optional
            Seconds of retries, if not the transport's own.
        **more
            See :meth:`once`.

        Returns
        -------
        object
            The decoded answer; None if it is empty.

        Raises
        ------
        FlyError
        """
        retries = Retries(self.patience if patience is None else patience)
        while True:
            await self.pace.turn(action, identifier)
            try:
                return await self.once(method, path, **more)
            except FlyError as error:
                await self.before_retry(error, retries, action, identifier)

    async def before_retry(
        self, error: FlyError, retries: Retries, action: str, identifier: str
    ) -> None:
        """Wait before the next attempt, or raise the error if there is to be none."""
        if self._closed or not error.passes:
            raise error
        if error.status == 429:
            self.pace.refused(action, identifier, error.retry_after)
        wait = retries.wait(error)
        if wait is None:
            raise error
        logger.debug("Fly is asked again in %.2f s: %s", wait, error)
        await asyncio.sleep(wait)

    async def once(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Make one attempt of a request.

        Parameters
        ----------
        method, path : str
        body : mapping, optional
            Sent as JSON.
        params : mapping of str to str, optional
            The query.
        timeout : float, optional
            Seconds within which the server answers, if not the usual ones.

        Raises
        ------
        FlyError
        """
        if self._closed:
            raise FlyError(0, CLOSED)
        headers = {
            "Authorization": self._token.header,
            "User-Agent": f"dask-flame/{__version__}",
        }
        more: dict[str, Any] = {}
        if timeout is not None:
            more["timeout"] = httpx.Timeout(timeout, connect=CONNECT_WITHIN)
        sending = asyncio.ensure_future(
            self._client.request(
                method,
                f"{self._base}{path}",
                headers=headers,
                json=body,
                params=params,
                **more,
            )
        )
        self._under_way.add(sending)
        sending.add_done_callback(self._under_way.discard)
        try:
            response = await asyncio.shield(sending)
        except asyncio.CancelledError:
            _cancel(sending)
            task = asyncio.current_task()
            if not self.is_closed() or (task is not None and task.cancelling()):
                raise
            failure = CLOSED
        except (httpx.HTTPError, httpx.InvalidURL, OSError, RuntimeError) as error:
            failure = self._token.clean(_text(error))
        else:
            return self._read(response)
        # Outside of the handler: an error of httpx refers to its request, which has the token.
        raise FlyError(0, f"no answer from {self._base}: {failure}", unsure=True)

    def _read(self, response: httpx.Response) -> Any:
        """Return the decoded answer, or raise the error in it."""
        with contextlib.suppress(KeyError, ValueError):
            said = parsedate_to_datetime(response.headers["Date"]).timestamp()
            self.ahead = said - time.time()
        text = self._token.clean(response.text)
        if response.status_code >= 300:
            raise answer_error(response.status_code, text, response.headers)
        if not text.strip():
            return None
        try:
            return json.loads(text)
        except ValueError:
            pass
        raise FlyError(0, f"the answer of {self._base} is not JSON", unsure=True)


class Retries:
    """The delays between the attempts of one request.

    Parameters
    ----------
    patience : float
        Seconds after which an error is final. A limit of the pace does not count.
    """

    def __init__(self, patience: float) -> None:
        self._left = patience
        self._backoff = Backoff(_FIRST, _LONGEST)

    def wait(self, error: FlyError) -> float | None:
        """Return the seconds until the next attempt; None if there is to be none."""
        wait = max(error.retry_after, self._backoff.next_with_jitter())
        if error.status != 429:
            self._left -= wait
        return wait if self._left >= 0 else None


def _cancel(request: asyncio.Task[Any]) -> None:
    """Cancel a request, once: a second time would interrupt the closing of its connection."""
    if not request.cancelling():
        request.cancel()


def _text(error: BaseException) -> str:
    """Return the text of an error, which httpx may leave empty."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")

"""Sessions with the API server, across renewals of the credentials (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable
from typing import Any

import httpx

#: Seconds that a cancelled reading of credentials has to end; a program that it runs may hang.
_READ = 2.0


async def to_its_end(reading: Awaitable[Any], *, within: float = _READ) -> None:
    """Wait for kr8s to read credentials; if cancelled, wait for its end before.

    kr8s opens the kubeconfig in a thread. If it is cancelled at that moment, the file stays open.

    Parameters
    ----------
    reading : awaitable
    within : float
        Seconds after a cancellation until `reading` is cancelled, too.
    """
    task = asyncio.ensure_future(reading)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=within)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


class Sessions:
    """The HTTP sessions of kr8s, with renewal of expired credentials.

    At a renewal kr8s closes the old session with everything on it, including forwarded ports, which
    the server would keep for hours. Here an old session is closed when it is no longer in use.

    Parameters
    ----------
    api : kr8s.asyncio.Api
        Only this class uses its private names.
    """

    def __init__(self, api: Any) -> None:
        self._api = api
        self._users: Counter[httpx.AsyncClient] = Counter()
        self._renewing = asyncio.Lock()
        self._renewed = 0
        self._since = 0.0
        self._closed = False

    @property
    def age(self) -> float:
        """Seconds since the credentials were read."""
        return time.monotonic() - self._since

    async def open(self) -> None:
        """Open the first session, or a new one with kr8s's present credentials."""
        # On a copy: concurrent requests would each open a session, or find it closed.
        other = copy.copy(self._api)
        other._session = None
        await other._create_session()
        session: httpx.AsyncClient = other._session
        session.event_hooks["response"].append(_read_refusal)
        old, self._api._session = self._api._session, session
        self._since = time.monotonic()
        if old is not None and not self._users[old]:
            await _end(old)
        if self._closed:
            await self.close()

    async def renew(self) -> None:
        """Read the credentials again, once for all concurrent callers."""
        before = self._renewed
        async with self._renewing:
            if self._renewed == before:
                await to_its_end(self._api.auth.reauthenticate())
                await self.open()
                self._renewed += 1

    @contextlib.asynccontextmanager
    async def used(self) -> AsyncGenerator[None]:
        """Mark the present session as in use while the body runs."""
        session = self._api._session
        self._users[session] += 1
        try:
            yield
        finally:
            self._users[session] -= 1
            if not self._users[session]:
                del self._users[session]
                if session is not None and session is not self._api._session:
                    await _end(session)

    async def close(self) -> None:
        """Close all sessions, with the requests on them."""
        self._closed = True
        # kr8s leaves closing its session to the garbage collector.
        last, self._api._session = self._api._session, None
        for session in {last, *self._users} - {None}:
            await _end(session)


async def _end(session: httpx.AsyncClient) -> None:
    with contextlib.suppress(RuntimeError):
        await session.aclose()


async def _read_refusal(response: httpx.Response) -> None:
    # The response to a failed WebSocket upgrade is closed before anyone can read it.
    if response.status_code >= 400:
        await response.aread()

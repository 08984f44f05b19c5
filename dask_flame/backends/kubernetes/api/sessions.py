"""Sessions with the API server: that with the credentials of now, and older ones (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

import httpx


class Sessions:
    """What kr8s sends requests through, and how credentials that have run out are replaced.

    kr8s itself ends the old session then, and with it all that is under way on it: forwarded ports
    among them, which the server would let live for hours. Here an old one ends when nobody uses it
    any more.

    Parameters
    ----------
    api : kr8s.asyncio.Api
        Its private parts are touched here alone.
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
        """Open the first, or another one with the credentials that kr8s has now."""
        # On a copy: requests that come meanwhile would each open one, or find it closed.
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
        """Read the credentials again, once for all who ask for it meanwhile."""
        before = self._renewed
        async with self._renewing:
            if self._renewed == before:
                await self._api.auth.reauthenticate()
                await self.open()
                self._renewed += 1

    @contextlib.asynccontextmanager
    async def used(self) -> AsyncGenerator[None]:
        """For as long as something is under way on the session of now."""
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
        """End all, and what is under way."""
        self._closed = True
        # kr8s ends its session by the garbage collector only.
        last, self._api._session = self._api._session, None
        for session in {last, *self._users} - {None}:
            await _end(session)


async def _end(session: httpx.AsyncClient) -> None:
    with contextlib.suppress(RuntimeError):
        await session.aclose()


async def _read_refusal(response: httpx.Response) -> None:
    # Where there was to be a WebSocket, it is closed before anybody could read it.
    if response.status_code >= 400:
        await response.aread()

"""Pages that are made when somebody looks at them (scheduler, runner).

What a server of Dask's shows by HTTP takes longer to import than the server to start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from distributed.core import Status
from tornado.web import Application, HTTPError, RequestHandler


def build_later(server: Any, build: Callable[[], Awaitable[None]]) -> None:
    """Have a server's further pages built when one of them is asked for.

    Parameters
    ----------
    server : distributed.core.Server
        With an HTTP server, and no handler yet for what is to come.
    build : callable
        Adds the handlers; awaited once.
    """
    building: list[asyncio.Task[None]] = []
    # What the server asks when none of its own routes fits, as a scheduler does its dashboard.
    later = Application()

    async def once() -> None:
        await build()
        server.http_application.applications.remove(later)

    class Later(RequestHandler):
        """Has the pages built, and sends the browser there again."""

        async def get(self) -> None:
            if not building:
                building.append(asyncio.ensure_future(once()))
            await asyncio.shield(building[0])
            uri = self.request.uri
            if server.status is not Status.running or uri is None:
                raise HTTPError(503)
            self.redirect("/" + uri.lstrip("/"))  # here, whatever the path begins with

    later.add_handlers(r".*", [(r".*", Later)])
    server.http_application.add_application(later)

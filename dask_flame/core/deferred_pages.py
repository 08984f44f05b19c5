"""Build HTTP pages at the first request for one of them (scheduler, runner).

Importing the pages of a Dask server takes longer than starting the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any

from distributed.core import Status
from tornado.web import Application, HTTPError, RequestHandler

#: A part of the query that was removed from the address of the current request.
removed_query: ContextVar[str] = ContextVar("removed_query", default="")


def build_later(
    server: Any, build: Callable[[], Awaitable[None]], *, before: Sequence[str] = ()
) -> None:
    """Build a server's further pages when one of them is requested.

    Parameters
    ----------
    server : distributed.core.Server
        A server with an HTTP server, and without handlers for the later pages.
    build : callable
        Adds the handlers; awaited once.
    before : sequence of str
        Paths, as regular expressions, whose present handlers must be overridden until the pages
        are built.
    """
    application = server.http_application
    rules = application.default_router.rules
    building: list[asyncio.Task[None]] = []
    # The server asks this application when none of its routes match, as a scheduler's dashboard.
    later = Application()

    async def once() -> None:
        await build()
        application.applications.remove(later)
        for rule in first:
            rules.remove(rule)

    class Later(RequestHandler):
        """Build the pages, and redirect the browser to the same address."""

        async def get(self) -> None:
            if not building:
                building.append(asyncio.ensure_future(once()))
            await asyncio.shield(building[0])
            if server.status is not Status.running:
                raise HTTPError(503)
            # Relative, because a proxy may add a prefix to the path.
            query = "&".join(filter(None, (self.request.query, removed_query.get())))
            here = self.request.path.rpartition("/")[2] + (f"?{query}" if query else "")
            self.redirect(f"./{here}")

    later.add_handlers(r".*", [(r".*", Later)])
    application.add_application(later)
    there = list(rules)
    if before:
        # New handlers take precedence over those that the server was created with.
        application.add_handlers(r".*", [(path, Later) for path in before])
    first = [rule for rule in rules if rule not in there]

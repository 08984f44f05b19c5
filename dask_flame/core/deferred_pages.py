"""Pages that are made when somebody looks at them (scheduler, runner).

What a server of Dask's shows by HTTP takes longer to import than the server to start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from distributed.core import Status
from tornado.web import Application, HTTPError, RequestHandler


def build_later(
    server: Any, build: Callable[[], Awaitable[None]], *, before: Sequence[str] = ()
) -> None:
    """Have a server's further pages built when one of them is asked for.

    Parameters
    ----------
    server : distributed.core.Server
        With an HTTP server, and no handler yet for what is to come.
    build : callable
        Adds the handlers; awaited once.
    before : sequence of str
        Paths, as regular expressions, of which the server has handlers that say something else
        while the pages are not there.
    """
    application = server.http_application
    rules = application.default_router.rules
    building: list[asyncio.Task[None]] = []
    # What the server asks when none of its own routes fits, as a scheduler does its dashboard.
    later = Application()

    async def once() -> None:
        await build()
        application.applications.remove(later)
        for rule in first:
            rules.remove(rule)

    class Later(RequestHandler):
        """Has the pages built, and sends the browser there again."""

        async def get(self) -> None:
            if not building:
                building.append(asyncio.ensure_future(once()))
            await asyncio.shield(building[0])
            if server.status is not Status.running:
                raise HTTPError(503)
            # Relative, as a proxy in between may have a path of its own in front of it.
            query = self.request.query
            here = self.request.path.rpartition("/")[2] + (f"?{query}" if query else "")
            self.redirect(f"./{here}")

    later.add_handlers(r".*", [(r".*", Later)])
    application.add_application(later)
    there = list(rules)
    if before:
        # What is added comes before what a server was made with.
        application.add_handlers(r".*", [(path, Later) for path in before])
    first = [rule for rule in rules if rule not in there]

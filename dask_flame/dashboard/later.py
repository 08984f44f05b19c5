"""A dashboard that is built when somebody looks at it (scheduler).

Most of the time that a cluster takes to start would go into importing bokeh.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from distributed.core import Status
from tornado.web import Application, HTTPError, RequestHandler

from dask_flame.background import in_thread
from dask_flame.dashboard import install


def install_later(scheduler: Any) -> None:
    """Build distributed's dashboard, and the page ``/flame``, when the first page is asked for.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        Made with ``dashboard=False``.
    """
    building: list[asyncio.Task[None]] = []
    # What the scheduler asks when none of its own routes fits, as it does its dashboard.
    later = Application()

    async def build() -> None:
        dashboard = await in_thread(import_module, "distributed.dashboard.scheduler")
        if scheduler.status is not Status.running:
            return  # nobody would stop what is begun now
        scheduler.http_application.applications.remove(later)
        dashboard.connect(scheduler.http_application, scheduler.http_server, scheduler, prefix="/")
        install(scheduler)

    class Later(RequestHandler):
        """Builds the dashboard, once, and sends the browser there again."""

        async def get(self) -> None:
            if not building:
                building.append(asyncio.ensure_future(build()))
            await asyncio.shield(building[0])
            uri = self.request.uri
            if later in scheduler.http_application.applications or uri is None:
                raise HTTPError(503)
            self.redirect(uri)

    later.add_handlers(r".*", [(r".*", Later)])
    scheduler.http_application.add_application(later)

"""Build the dashboard on the first request (scheduler).

Importing bokeh would take most of the time that a cluster needs to start.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from distributed.core import Status

from dask_flame.core.deferred_pages import build_later
from dask_flame.core.threads import in_thread
from dask_flame.dashboard import install


def install_later(scheduler: Any) -> None:
    """Build distributed's dashboard and our pages when the first page is requested.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        A scheduler that was created with ``dashboard=False``.
    """

    async def build() -> None:
        dashboard = await in_thread(import_module, "distributed.dashboard.scheduler")
        if scheduler.status is Status.running:  # otherwise it would never be stopped
            http, server = scheduler.http_application, scheduler.http_server
            dashboard.connect(http, server, scheduler, prefix="/")
            install(scheduler)

    # JupyterLab's extension requests this first. Without a dashboard, distributed returns no plots.
    build_later(scheduler, build, before=[r"/individual-plots\.json"])

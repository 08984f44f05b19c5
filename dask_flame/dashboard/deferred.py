"""A dashboard that is built when somebody looks at it (scheduler).

Most of the time that a cluster takes to start would go into importing bokeh.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from distributed.core import Status

from dask_flame.core.deferred_pages import build_later
from dask_flame.core.threads import in_thread
from dask_flame.dashboard import install


def install_later(scheduler: Any) -> None:
    """Build distributed's dashboard, and the page ``/flame``, when the first page is asked for.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        Made with ``dashboard=False``.
    """

    async def build() -> None:
        dashboard = await in_thread(import_module, "distributed.dashboard.scheduler")
        if scheduler.status is Status.running:  # or else nobody would stop what is begun
            http, server = scheduler.http_application, scheduler.http_server
            dashboard.connect(http, server, scheduler, prefix="/")
            install(scheduler)

    # What JupyterLab's extension asks for first; without a dashboard, distributed's list is empty.
    build_later(scheduler, build, before=[r"/individual-plots\.json"])

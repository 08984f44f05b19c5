"""Add pages to an existing dashboard (scheduler)."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers.document_lifecycle import DocumentLifecycleHandler
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.server.contexts import ApplicationContext
from bokeh.server.tornado import BokehTornado
from bokeh.server.urls import per_app_patterns
from distributed.dashboard.scheduler import template_variables

#: Function that fills a page: called with the scheduler, the template's variables and a new
#: document, like those of distributed.
Page = Callable[[Any, dict[str, Any], Document], None]


def mount(scheduler: Any, pages: Mapping[str, Page], linked: Container[str] = ()) -> bool:
    """Serve more pages from a scheduler's dashboard, and link to them.

    Pages whose path begins with ``/individual-`` are listed with the dashboard's plots.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    pages : mapping of str to callable
        Functions that fill the pages, by path.
    linked : container of str
        Paths of the pages that the navigation bar links to. Each entry makes the bar of Dask's own
        pages wider.

    Returns
    -------
    bool
        False if the scheduler has no dashboard.
    """
    server = next(
        (a for a in scheduler.http_application.applications if isinstance(a, BokehTornado)), None
    )
    if server is None:
        return False
    variables = template_variables(scheduler)
    for path, page in pages.items():
        if path in server.app_paths:
            continue
        extra = {"prefix": f"{server.prefix}/", **variables}
        _serve(server, path, partial(page, scheduler, extra), {"scheduler": scheduler.id})
        name = path.strip("/")
        if name.startswith("individual-"):
            title = name.removeprefix("individual-").replace("-", " ").title()
            variables["plots"].append({"url": name, "name": title})
            variables["plots"].sort(key=lambda plot: plot["name"])
        elif path in linked:
            # Second in the bar, because users of reports open this page most.
            variables["pages"].insert(1, name)
    return True


def _serve(
    server: BokehTornado,
    path: str,
    page: Callable[[Document], None],
    metadata: dict[str, Any],
) -> None:
    """Add a page to a running Bokeh server, as ``BokehTornado.__init__`` does.

    The scheduler starts its Bokeh server before its plugins, and Bokeh has no method to add an
    application later. This relies on three undocumented details: ``applications`` is the server's
    own dict, the shape of ``per_app_patterns``, and the two arguments of their handlers.
    """
    application = Application(FunctionHandler(page), DocumentLifecycleHandler(), metadata=metadata)
    context = ApplicationContext(application, io_loop=server.io_loop, url=path)
    server.applications[path] = context
    base = f"{server.prefix}{path}"
    arguments = {"application_context": context, "bokeh_websocket_path": f"{base}/ws"}
    server.add_handlers(".*", [(base + p[0], p[1], arguments) for p in per_app_patterns])
    context.run_load_hook()

"""The page ``/flame`` in Dask's dashboard (scheduler)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any


def install(scheduler: Any) -> bool:
    """Add the page to a scheduler's dashboard, before or after the scheduler has started.

    Adds ``/flame`` and its link in the navigation bar, and the plot ``/individual-flame-curves``,
    which JupyterLab's Dask extension then lists. They live and end with the scheduler's own pages,
    and show what the :class:`~dask_flame.Reports` plugin of that scheduler holds. Adding it again
    does nothing.

    Parameters
    ----------
    scheduler : distributed.Scheduler

    Returns
    -------
    bool
        False where the scheduler has no dashboard.
    """
    # Without a dashboard bokeh is not needed, and its import not paid for.
    if not scheduler.http_application.applications or find_spec("bokeh") is None:
        return False
    from dask_flame.dashboard.flame import pages
    from dask_flame.dashboard.mount import mount

    return mount(scheduler, pages(scheduler))

"""Pages ``/flame``, ``/pools`` and ``/inspect`` of Dask's dashboard (scheduler)."""

from __future__ import annotations

import sys
from typing import Any


def install(scheduler: Any) -> bool:
    """Add the pages to a scheduler's dashboard, before or after the scheduler has started.

    It adds ``/flame``, ``/pools`` and ``/inspect`` with one link in the navigation bar, and single
    plots whose paths begin with ``/individual-flame-``, which JupyterLab's Dask extension lists.
    The pages show the data of the scheduler's :class:`~dask_flame.Reports` plugin. Adding them
    again has no effect.

    Parameters
    ----------
    scheduler : distributed.Scheduler

    Returns
    -------
    bool
        False if the scheduler has no dashboard.
    """
    # If bokeh is not imported there is no dashboard, and the slow import is avoided.
    if "bokeh" not in sys.modules:
        return False
    from dask_flame.dashboard.flame import page as flame_page
    from dask_flame.dashboard.inspect import page as inspect_page
    from dask_flame.dashboard.mount import mount
    from dask_flame.dashboard.pools import page as pools_page
    from dask_flame.dashboard.pools.rows import WorkersAsPool

    workers = WorkersAsPool(scheduler)
    pages = flame_page.pages(scheduler, workers) | pools_page.pages(scheduler, workers)
    return mount(scheduler, pages | inspect_page.pages(), linked={"/flame"})

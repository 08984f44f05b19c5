"""The pages ``/flame`` and ``/pools`` in Dask's dashboard (scheduler)."""

from __future__ import annotations

import sys
from typing import Any


def install(scheduler: Any) -> bool:
    """Add the pages to a scheduler's dashboard, before or after the scheduler has started.

    Adds ``/flame`` and ``/pools`` with their links in the navigation bar, and plots of theirs
    whose paths begin with ``/individual-flame-``, which JupyterLab's Dask extension then lists.
    They live and end with the scheduler's own pages, and show what the
    :class:`~dask_flame.Reports` plugin of that scheduler holds. Adding them again does nothing.

    Parameters
    ----------
    scheduler : distributed.Scheduler

    Returns
    -------
    bool
        False where the scheduler has no dashboard.
    """
    # Where nothing has imported bokeh there is no dashboard, and its import is not paid for.
    if "bokeh" not in sys.modules:
        return False
    from dask_flame.dashboard.flame import page as flame_page
    from dask_flame.dashboard.mount import mount
    from dask_flame.dashboard.pools import page as pools_page
    from dask_flame.dashboard.pools.rows import WorkersAsPool

    workers = WorkersAsPool(scheduler)
    # The navigation bar has the page that is mounted last first.
    pages = pools_page.pages(scheduler, workers) | flame_page.pages(scheduler, workers)
    return mount(scheduler, pages)

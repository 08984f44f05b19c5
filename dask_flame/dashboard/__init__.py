"""The page ``/flame`` in Dask's dashboard (scheduler)."""

from __future__ import annotations

import sys
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
    # Where nothing has imported bokeh there is no dashboard, and its import is not paid for.
    if "bokeh" not in sys.modules:
        return False
    from dask_flame.dashboard import flame
    from dask_flame.dashboard.mount import mount
    from dask_flame.dashboard.pools import WorkersAsPool

    workers = WorkersAsPool(scheduler)
    return mount(scheduler, flame.pages(scheduler, workers))

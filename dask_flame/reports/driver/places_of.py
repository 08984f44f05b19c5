"""The places of calls, which give their colors, as on the page ``/flame`` (driver)."""

from __future__ import annotations

from dask.typing import Key
from distributed import Client, Scheduler

from dask_flame.reports.runs import places
from dask_flame.reports.scheduler.lookup import plugin_of
from dask_flame.reports.scheduler.store import ReportStore
from dask_flame.reports.series import CallReports
from dask_flame.submission.clients import submissions_of


def places_of(client: Client | None, store: ReportStore | None) -> dict[Key, int]:
    """Return the place of each call among all calls of a cluster.

    Parameters
    ----------
    client : distributed.Client or None
        The client that has submitted them.
    store : ReportStore or None
        The reports of its cluster. If the scheduler is in another process, the places are those
        among the calls of this client.
    """
    if client is None:
        return {}
    scheduler = getattr(client.cluster, "scheduler", None)
    plugin = plugin_of(scheduler) if isinstance(scheduler, Scheduler) else None
    if plugin is None:
        submissions = submissions_of(client)
        keys = [] if submissions is None else list(submissions.calls)
        found = [None if store is None else store.get(key) for key in keys]
        return places(
            call or CallReports(key, "", "waiting", 1, 0.0, None, {})
            for key, call in zip(keys, found, strict=True)
        )
    while True:
        try:
            return places(plugin.calls().values())
        except RuntimeError:  # they have changed meanwhile, in the scheduler's thread
            continue

"""The names of the calls behind futures (driver)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from dask.typing import Key
from distributed import Client

from dask_flame.reports.names import names
from dask_flame.reports.scheduler.store import ReportStore
from dask_flame.reports.series import CallReports
from dask_flame.submission.clients import submissions_of


def names_of(
    client: Client | None, keys: Collection[Key], store: ReportStore | None
) -> dict[Key, str]:
    """Return the names of calls, as on the page ``/flame``.

    Parameters
    ----------
    client : distributed.Client or None
        The client that has submitted them.
    keys : collection of Key
        Keys of all calls that are shown together; they are compared, whatever their runs are.
    store : ReportStore or None
        The reports of its cluster.
    """
    submissions = None if client is None else submissions_of(client)
    described = {} if submissions is None else submissions.calls
    calls = []
    for key in keys:
        call = None if store is None else store.get(key)
        call = call or CallReports(key, "", "waiting", 1, 0.0, None, {})
        if not call.arguments and key in described:
            function, arguments, parameters = described[key]
            call = replace(call, function=function, arguments=arguments, parameters=parameters)
        calls.append(replace(call, run=""))
    return names(calls)

"""Metrics reported by running calls, sent from the runner to a store in the scheduler.

:func:`report` runs on a runner. :class:`Reports`, a scheduler plugin, collects the reports in a
:class:`ReportStore` and shows them on the page ``/flame`` of the Dask dashboard. Both work on any
Dask cluster::

    client.register_plugin(dask_flame.Reports())
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_flame._lazy import attach

if TYPE_CHECKING:
    from dask_flame.reports.changes import Change as Change
    from dask_flame.reports.driver.pending import Report as Report
    from dask_flame.reports.driver.replica import reports_of as reports_of
    from dask_flame.reports.driver.stream import Stream as Stream
    from dask_flame.reports.driver.stream import stream as stream
    from dask_flame.reports.runner.bound import BoundReport as BoundReport
    from dask_flame.reports.runner.report import label as label
    from dask_flame.reports.runner.report import report as report
    from dask_flame.reports.runs import Run as Run
    from dask_flame.reports.scheduler.plugin import Reports as Reports
    from dask_flame.reports.scheduler.store import ReportStore as ReportStore
    from dask_flame.reports.series import CallReports as CallReports
    from dask_flame.reports.series import Series as Series

__all__ = [
    "BoundReport",
    "CallReports",
    "Change",
    "Report",
    "ReportStore",
    "Reports",
    "Run",
    "Series",
    "Stream",
    "label",
    "report",
    "reports_of",
    "stream",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "BoundReport": "dask_flame.reports.runner.bound",
        "CallReports": "dask_flame.reports.series",
        "Change": "dask_flame.reports.changes",
        "Report": "dask_flame.reports.driver.pending",
        "ReportStore": "dask_flame.reports.scheduler.store",
        "Reports": "dask_flame.reports.scheduler.plugin",
        "Run": "dask_flame.reports.runs",
        "Series": "dask_flame.reports.series",
        "Stream": "dask_flame.reports.driver.stream",
        "label": "dask_flame.reports.runner.report",
        "report": "dask_flame.reports.runner.report",
        "reports_of": "dask_flame.reports.driver.replica",
        "stream": "dask_flame.reports.driver.stream",
    },
)

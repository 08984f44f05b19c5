"""The plugin that gathers reports, as those see it that show them (scheduler)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from distributed import Scheduler

from dask_flame.history.state import Snapshot
from dask_flame.reports.scheduler.store import ReportStore
from dask_flame.reports.wire import NAME


class Gatherer(Protocol):
    """What a :class:`~dask_flame.Reports` plugin holds."""

    store: ReportStore
    pools: Callable[[], Snapshot] | None


def plugin_of(scheduler: Scheduler) -> Gatherer | None:
    """Return the plugin of a scheduler that gathers reports; None where there is none."""
    plugin: Gatherer | None = scheduler.plugins.get(NAME)
    return plugin

"""Find the Reports plugin of a scheduler, without importing it (scheduler)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from dask.typing import Key
from distributed import Scheduler

from dask_flame.history.state import Snapshot
from dask_flame.reports.runs import Run
from dask_flame.reports.scheduler.store import ReportStore
from dask_flame.reports.series import CallReports
from dask_flame.reports.wire import NAME


class Gatherer(Protocol):
    """Attributes of the :class:`~dask_flame.Reports` plugin that the pages use."""

    store: ReportStore
    pools: Callable[[], Snapshot] | None
    lines: Callable[[str, str], Sequence[str]] | None

    @property
    def version(self) -> int:
        """Number that differs after each change of the calls or the runs."""

    def calls(self) -> dict[Key, CallReports]:
        """Return all calls of runs and all calls that have reported, ordered by submission."""

    def name_of(self, key: Key) -> str | None:
        """Return the name of a call of a run, among those that were submitted with it."""

    def stop(self, key: Key) -> None:
        """Stop a call at its next report."""

    def traceback(self, key: Key) -> str:
        """Return the end of the traceback of a failed call; empty if there is none."""

    def runs(self) -> list[Run]:
        """Return the runs, oldest first."""


def plugin_of(scheduler: Scheduler) -> Gatherer | None:
    """Return the Reports plugin of a scheduler, or None."""
    plugin: Gatherer | None = scheduler.plugins.get(NAME)
    return plugin

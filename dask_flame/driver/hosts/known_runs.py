"""The runs of a scheduler in another process, as its driver knows them (driver)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dask.typing import Key

from dask_flame.core.settings import configured
from dask_flame.reports.runs import Run
from dask_flame.reports.scheduler.call_record import dumped, loaded
from dask_flame.reports.series import CallReports

if TYPE_CHECKING:
    from dask_flame.reports.scheduler.plugin import Reports


class KnownRuns:
    """The runs and their calls as of the last answer; read from any thread.

    Attributes
    ----------
    runs : list of Run
        Oldest first.
    calls : dict of Key to CallReports
        All calls of runs, without their series. Empty if runs are not kept in a file.
    """

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.calls: dict[Key, CallReports] = {}
        self._version = -1

    def names(self) -> Mapping[str, str]:
        """Return the names of the runs by their ids."""
        return {run.id: run.name for run in self.runs}

    async def renew(self, ask: Callable[..., Awaitable[Any]]) -> None:
        """Request what has changed.

        Raises
        ------
        ConnectionError
        """
        kept = configured("reports.keep") is not None
        answer = await ask("runs", version=self._version, calls=kept)
        if answer is not None:
            self._version = answer["version"]
            self.calls = {call.key: call for call in map(loaded, answer["calls"])}
            self.runs = [Run(**run) for run in answer["runs"]]


def answer(reports: Reports, version: int, *, calls: bool) -> dict[str, Any] | None:
    """Return the answer to :meth:`KnownRuns.renew`; None if nothing has changed since a version."""
    if reports.runs_version == version:
        return None
    return {
        "version": reports.runs_version,
        "runs": [asdict(run) for run in reports.runs()],
        "calls": list(map(dumped, reports.calls_of_runs().values())) if calls else [],
    }

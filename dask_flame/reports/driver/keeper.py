"""Write the runs of a cluster to a file while they run (driver)."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dask.typing import Key

from dask_flame.core.settings import configured
from dask_flame.core.terminal_text import tame
from dask_flame.errors import FlameError
from dask_flame.reports.driver.archive import Archive, Limits
from dask_flame.reports.runs import Run
from dask_flame.reports.series import CallReports

#: Seconds between two writes.
_INTERVAL = 5.0
#: Seconds between two removals of old runs.
_PRUNING = 600.0
#: Seconds to wait for the last write.
_PATIENCE = 10.0

logger = logging.getLogger("dask_flame")


def kept_in() -> Path | None:
    """Return the file of ``flame.reports.keep``; None if runs are not kept."""
    path = configured("reports.keep")
    return None if path is None else Path(path).expanduser()


def limits() -> Limits:
    """Return the limits of the file as configured."""
    return Limits(
        configured("reports.keep-runs"),
        configured("reports.keep-age"),
        configured("reports.keep-size"),
    )


class RunKeeper:
    """Writes the changes of runs and calls to an :class:`Archive`, in a thread of its own.

    If a write fails, it warns once, and tries again with the next one.

    Parameters
    ----------
    path : Path
        The file.
    runs, calls : callable
        Return the current runs and calls; they are called in the thread.

    Notes
    -----
    The oldest runs are removed beyond ``flame.reports.keep-runs``, ``keep-age`` and ``keep-size``.
    """

    def __init__(
        self,
        path: Path,
        runs: Callable[[], Sequence[Run]],
        calls: Callable[[], Mapping[Key, CallReports]],
    ) -> None:
        self._archive = Archive(path)
        self._runs = runs
        self._calls = calls
        self._kept_runs: dict[str, Run] = {}
        self._kept: dict[tuple[str, Key], CallReports] = {}
        self._own = uuid.uuid4().hex  # the run of calls that belong to none
        self._warned = False
        self._limits = limits()
        self._pruned = float("-inf")
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="flame-keep", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what has changed since the last write, and end."""
        self._closed.set()
        self._thread.join(_PATIENCE)

    def _work(self) -> None:
        while not self._closed.wait(_INTERVAL):
            self._write()
        self._write()

    def _write(self) -> None:
        try:
            # A call that does not change is the same object.
            current, present = self._present()
            calls = {(c.run or self._own, key): c for key, c in present.items()}
            new = {which: c for which, c in calls.items() if self._kept.get(which) is not c}
            runs = {run.id: run for run in current}
            for (run, _), call in calls.items():
                # The scheduler in a pod does not tell the driver of its runs.
                runs.setdefault(run, _run_of(run, call))
            changed = [run for run in runs.values() if self._kept_runs.get(run.id) != run]
            if new or changed:
                # A call is not without its run, also if that was removed meanwhile.
                own = {run.id: run for run in changed} | {run: runs[run] for run, _ in new}
                told = [_in_run(call, run) for (run, _), call in new.items()]
                self._archive.write(own.values(), told)
                self._prune(runs)
            self._kept, self._kept_runs = calls, runs
        except (sqlite3.Error, OSError, FlameError) as error:
            if not self._warned:
                self._warned = True
                text = f"flame.reports.keep: runs cannot be kept in {self._archive.path}: {error}"
                logger.warning(tame(f"{text}; calls are not affected, and it is tried again"))

    def _prune(self, own: Collection[str]) -> None:
        now = time.monotonic()
        if now - self._pruned >= _PRUNING:
            self._pruned = now
            self._archive.prune(self._limits, own)

    def _present(self) -> tuple[Sequence[Run], Mapping[Key, CallReports]]:
        """Return the present runs and calls, which change in another thread meanwhile."""
        while True:
            with contextlib.suppress(RuntimeError):
                return self._runs(), self._calls()


def _in_run(call: CallReports, run: str) -> CallReports:
    earlier = tuple(replace(before, run=run) for before in call.earlier)
    return replace(call, run=run, earlier=earlier)


def _run_of(run: str, call: CallReports) -> Run:
    return Run(run, call.function or "calls", call.submitted or call.started, 0)

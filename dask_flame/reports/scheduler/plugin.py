"""``Reports``: collects the reports of running calls and shows them (scheduler)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from time import time
from typing import Any

from dask.typing import Key
from distributed import Scheduler, SchedulerPlugin
from distributed.protocol.pickle import dumps

from dask_flame.core.distributed_internals import forget_events
from dask_flame.core.option_checks import whole, yes_or_no
from dask_flame.core.redaction import veiled
from dask_flame.core.settings import configured
from dask_flame.history.state import Snapshot
from dask_flame.reports.changes import State
from dask_flame.reports.runner.sender import ReportSender
from dask_flame.reports.runs import Run
from dask_flame.reports.scheduler.publisher import ClientFollowers
from dask_flame.reports.scheduler.run_book import RunBook
from dask_flame.reports.scheduler.stops import CallStops
from dask_flame.reports.scheduler.store import ReportStore
from dask_flame.reports.series import CallReports, was_stopped
from dask_flame.reports.wire import NAME, TOPIC, decode
from dask_flame.serialization.failures import without_own_frames

#: Maximum length of an exception's text, in characters.
_MAX_TEXT = 300
#: States of Dask's tasks in which a call that is submitted again does not begin again.
_PRESENT: dict[str, State] = {"memory": "done", "erred": "failed", "processing": "running"}
#: States that say nothing of a call, unless it was running before.
_UNDECIDED = frozenset({"released", "waiting", "queued", "no-worker"})

logger = logging.getLogger("dask_flame")


class Reports(SchedulerPlugin):
    """Scheduler plugin for :func:`dask_flame.report`; adds the page ``/flame`` to the dashboard.

    It works on any Dask cluster whose workers can import dask_flame; a FlameCluster already has it.
    It configures workers that join later as well. Registering it again has no effect.

    Parameters
    ----------
    calls : int, default 1,000
        Maximum number of calls to keep; see :class:`ReportStore`.
    points : int, default 4,000
        Maximum number of points of one series; see :class:`ReportStore`.
    total : int, default 5,000,000
        Approximate maximum number of points of all series; see :class:`ReportStore`.
    names : int, optional
        Maximum number of different metric names in one call. Further names are dropped, with one
        warning. By default ``flame.reports.names`` of Dask's configuration.
    hide_random : bool, optional
        Whether to hide random-looking text in a call's arguments, which may be a secret. By
        default ``flame.reports.hide-random``.

    Attributes
    ----------
    store : ReportStore
        The reports. It remains readable after the cluster has closed.
    pools : callable or None
        Returns a :class:`Snapshot` of the pools for the page. Set by the owner of the runners, and
        called on the scheduler's event loop about once a second for each open page. If None, the
        page shows the scheduler's workers as one pool.
    lines : callable or None
        Returns the last printed lines of a call, by the name of its runner and its own name. Set by
        the owner of the runners.

    Examples
    --------
    >>> client.register_plugin(dask_flame.Reports())
    """

    name = NAME
    # A second plugin would start with an empty store and hide the existing reports.
    idempotent = True

    def __init__(
        self,
        *,
        calls: int = 1_000,
        points: int = 4_000,
        total: int = 5_000_000,
        names: int | None = None,
        hide_random: bool | None = None,
    ) -> None:
        self._names = configured("reports.names") if names is None else whole("names", names, 1)
        self._hide = (
            configured("reports.hide-random")
            if hide_random is None
            else yes_or_no("hide_random", hide_random)
        )
        self.store = ReportStore(calls=calls, points=points, total=total)
        limits = dict(zip(("calls", "points", "total"), self.store.limits, strict=True))
        self._book = book = RunBook(calls)
        self.store.run_names = lambda: {run.id: run.name for run in book.runs}
        self._options = {**limits, "names": self._names, "hide_random": self._hide}
        self.pools: Callable[[], Snapshot] | None = None
        self.lines: Callable[[str, str], Sequence[str]] | None = None
        self._scheduler: Scheduler | None = None
        self._followers: ClientFollowers | None = None
        self._stops: CallStops | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled as its options: the store has a lock, and the plugin has not started yet.
        return _make, (type(self), self._options)

    async def start(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._followers = ClientFollowers(scheduler, self.store)
        self._stops = CallStops(scheduler)
        await scheduler.register_worker_plugin(
            comm=None,
            plugin=dumps(ReportSender(names=self._names, hide_random=self._hide)),
            name=NAME,
            idempotent=True,
        )
        # Imported here because bokeh may be missing where no dashboard is wanted.
        from dask_flame.dashboard import install

        try:
            install(scheduler)
        except Exception:
            # Reports are useful without the page.
            logger.warning("The page /flame could not be added to the dashboard", exc_info=True)

    async def close(self) -> None:
        if self._followers is not None:
            self._followers.close()
        if self._stops is not None:
            self._stops.close()
        self._scheduler = self._followers = self._stops = None
        self.pools = self.lines = None

    def log_event(self, topic: str, msg: Any) -> None:
        if topic != TOPIC or self._scheduler is None:
            return
        # Dask would keep the last 1,000 messages of up to a thousand reports each; the store
        # already has them.
        forget_events(self._scheduler, TOPIC)
        for batch in decode(msg):
            if batch.about and (known := self._book.get(batch.key)) is not None:
                batch = replace(batch, about={**_submission(known), **batch.about})
            ts = self._scheduler.tasks.get(batch.key)
            wanted = batch.actor or (ts is not None and ts.state == "processing")
            self.store.add(batch, state="running" if wanted else "cancelled")
            if self._stops:
                self._stops.again(batch.key)

    @property
    def version(self) -> int:
        """Number that differs after each change of the calls or the runs."""
        return self.store.version + self._book.version

    @property
    def runs_version(self) -> int:
        """Number that differs after each change of the runs."""
        return self._book.version

    def calls_of_runs(self) -> dict[Key, CallReports]:
        """Return all calls of runs, ordered by submission, without their series."""
        return self._book.calls

    def runs(self) -> list[Run]:
        """Return the runs, oldest first."""
        return self._book.runs

    def calls(self) -> dict[Key, CallReports]:
        """Return all calls of runs and all calls that have reported, ordered by submission."""
        return {**self._book.calls, **self.store.calls}

    def name_of(self, key: Key) -> str | None:
        """Return the name of a call of a run, among those that were submitted with it."""
        return self._book.name_of(key)

    def stop(self, key: Key) -> None:
        """Stop a call at its next report, as :func:`dask_flame.stop` does."""
        if self._stops is not None:
            self._stops.stop([key], "raise")

    def traceback(self, key: Key) -> str:
        """Return the end of the traceback of a failed call of a run; empty if there is none."""
        return self._book.traceback(key)

    def update_graph(
        self,
        scheduler: Scheduler,
        *,
        client: str,
        keys: set[Key],
        tasks: list[Key],
        annotations: dict[str, dict[Key, Any]],
        **kwargs: Any,
    ) -> None:
        self._book.add(client, keys, tasks, annotations, self._present(keys), time())

    def _present(self, keys: Iterable[Key]) -> dict[Key, State]:
        """Return the states of calls that were submitted earlier, and do not begin again."""
        assert self._scheduler is not None
        known = ((key, self._scheduler.tasks.get(key)) for key in keys)
        return {key: _PRESENT[ts.state] for key, ts in known if ts and ts.state in _PRESENT}

    def transition(
        self,
        key: Key,
        start: str,
        finish: str,
        *args: Any,
        stimulus_id: str,
        **kwargs: Any,
    ) -> None:
        # This runs for each step of each task.
        if self._stops is not None and self._stops.wanted:
            self._stops.transition(key, finish)
        if finish in _UNDECIDED and start != "processing":
            return
        # The fast tests come first: most tasks are neither of a run nor do they report.
        reports, in_run = key in self.store, key in self._book
        if not reports and not in_run:
            return
        if finish == "processing":
            if reports:
                self.store.begin(key, time())
            if in_run:
                self._book.begin(key, self._runner_of(key), time())
            return
        state, why = self._ended(key, start, finish, stimulus_id, kwargs)
        if state is None:
            return
        if reports and start == "processing":
            self.store.end(key, state, time(), why)
        if in_run:
            trace = _trace(kwargs.get("traceback_text")) if state == "failed" else ""
            self._book.end(key, state, time(), why, trace)

    def _ended(
        self, key: Key, start: str, finish: str, stimulus_id: str, told: Mapping[str, Any]
    ) -> tuple[State | None, str]:
        """Return the state in which a transition leaves a call, if it has ended, and why."""
        if finish == "memory":
            return "done", ""
        if finish == "erred" or (start == "processing" and stimulus_id.startswith("task-erred")):
            # A task with retries left becomes "released", with the stimulus of the worker's error.
            text = told.get("exception_text")
            return "cancelled" if was_stopped(text) else "failed", _shortened(text)
        if start == "processing":
            return "lost" if self._wanted(key) else "cancelled", ""
        # A call that has not begun is given up. Its end before is not changed by its release.
        return ("cancelled" if finish == "forgotten" else None), ""

    def _runner_of(self, key: Key) -> str:
        assert self._scheduler is not None
        ts = self._scheduler.tasks.get(key)
        return "" if ts is None or ts.processing_on is None else str(ts.processing_on.name)

    def add_client(self, scheduler: Scheduler, client: str) -> None:
        if self._followers is not None:
            self._followers.reconnected(client)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        if self._followers is not None:
            self._followers.remove(client)

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any
    ) -> None:
        if len(self.store):
            self.store.keep_actors({str(ws.name) for ws in scheduler.workers.values()}, time())

    def restart(self, scheduler: Scheduler) -> None:
        # A restart drops all tasks without transitions.
        self.store.end_all("cancelled", time())
        self._book.end_all("cancelled", time())

    def _wanted(self, key: Key) -> bool:
        assert self._scheduler is not None
        ts = self._scheduler.tasks.get(key)
        return ts is not None and bool(ts.who_wants or ts.waiters)


def _submission(call: CallReports) -> dict[str, Any]:
    """Return the fields of a call that its submission has told."""
    told = {name: getattr(call, name) for name in ("arguments", "parameters", "function")}
    return {k: v for k, v in told.items() if v} | {"run": call.run, "submitted": call.submitted}


def _trace(text: Any) -> str:
    """Return the text of a traceback from the first line of the call's own code on."""
    return veiled(without_own_frames(str(text or "")))


def _shortened(text: Any) -> str:
    """Return an exception's text on one line, without secrets and of limited length."""
    line = veiled(" ".join(str(text or "").split()))
    return line if len(line) <= _MAX_TEXT else f"{line[: _MAX_TEXT - 1]}…"


def _make(cls: type[Reports], options: dict[str, Any]) -> Reports:
    return cls(**options)

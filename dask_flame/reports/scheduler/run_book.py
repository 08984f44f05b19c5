"""The runs and the states of their calls, whether or not these report (scheduler)."""

from __future__ import annotations

import contextlib
import contextvars
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dask.typing import Key

from dask_flame.core.messages import RUN
from dask_flame.reports.changes import State
from dask_flame.reports.names import names
from dask_flame.reports.runs import Run
from dask_flame.reports.series import CallReports

#: Maximum number of runs to keep.
_RUNS = 200
#: Maximum seconds between the end of a single call and the next one of the same run.
_PAUSE = 60.0
#: Number of characters of a traceback to keep.
_LONGEST = 4_000
_ENDED = ("done", "failed", "cancelled")

#: The description of the calls that are being added to the scheduler; see submission/. None if the
#: driver has described none, and not set on other schedulers.
_description: contextvars.ContextVar[Mapping[str, Any] | None] = contextvars.ContextVar(
    "dask_flame_description"
)


@contextlib.contextmanager
def submitted(description: Mapping[str, Any] | None) -> Iterator[None]:
    """Note that the graph added in the body was submitted with this description."""
    token = _description.set(description)
    try:
        yield
    finally:
        _description.reset(token)


@dataclass(slots=True)
class _RunRecord:
    """A run; `function`, `single` and `last` tell which later calls belong to it as well."""

    run: Run
    client: str
    function: str
    single: bool
    last: Key | None = None


class RunBook:
    """Runs, and the latest state of each of their calls, in bounded memory.

    A call is known from its submission. Its reports are elsewhere, in the
    :class:`~dask_flame.reports.scheduler.store.ReportStore`.

    Parameters
    ----------
    calls : int
        Maximum number of calls to keep; beyond it the oldest are dropped, ended ones first.

    Attributes
    ----------
    version : int
        Number that differs after each change.
    """

    def __init__(self, calls: int) -> None:
        self._most = calls
        self._calls: dict[Key, CallReports] = {}
        self._tracebacks: dict[Key, str] = {}
        self._names: dict[Key, str] = {}
        self._runs: dict[str, _RunRecord] = {}
        self._latest: dict[str, _RunRecord] = {}  # by client
        self._titles: Counter[str] = Counter()
        self.version = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._calls

    @property
    def calls(self) -> dict[Key, CallReports]:
        """Copy of the known calls, ordered by submission; their series are empty."""
        return dict(self._calls)

    @property
    def runs(self) -> list[Run]:
        """The runs, oldest first."""
        return [record.run for record in self._runs.values()]

    def get(self, key: Key) -> CallReports | None:
        return self._calls.get(key)

    # Changes

    def add(
        self,
        client: str,
        keys: Collection[Key],
        tasks: Collection[Key],
        annotations: Mapping[str, Mapping[Key, Any]],
        present: Mapping[Key, State],
        at: float,
    ) -> None:
        """Add the calls of a graph, if it has some.

        Parameters
        ----------
        client : str
            Id of the client.
        keys : collection of Key
            Keys that the client wants.
        tasks : collection of Key
            All keys of the graph.
        annotations : mapping
            Values of each annotation by key.
        present : mapping of Key to State
            States of the calls that were submitted before and do not begin again.
        at : float
            Unix time in seconds.
        """
        told = _description.get(_UNKNOWN)
        run = next(iter(annotations.get(RUN, {}).values()), None)
        if told is None:
            # A graph of a collection, or of a call: its calls count only in a run with a name.
            told = {} if run else None
        elif told is _UNKNOWN and not run and len(keys) < len(tasks):
            told = None  # a graph whose client wants only a part is one of a collection
        if told is None or not keys:
            return
        record = self._record(client, dict(told), run or told.get("run"), len(keys), at)
        pools, function = annotations.get("pool", {}), told.get("function", "")
        given = {key: about for key, *about in told.get("calls", ())}
        for key in given or list(keys)[: self._most]:
            arguments, parameters = given.get(key, ("", {}))
            before = self._calls.get(key) if key in present else None
            if before is not None:
                pool = pools.get(key, before.pool)
                call = replace(before, run=record.run.id, pool=pool)
            else:
                call = CallReports(
                    key,
                    "",
                    present.get(key, "waiting"),
                    1,
                    at,
                    None,
                    {},
                    pool=pools.get(key, ""),
                    arguments=arguments,
                    parameters=parameters,
                    function=function,
                    run=record.run.id,
                    submitted=at,
                )
            self._put(call)
            record.last = key
        # Once for all calls of the submission: each is told its name when it begins.
        self._names |= names(self._calls[key] for key in given)
        self._make_room()
        self.version += 1

    def begin(self, key: Key, runner: str, at: float) -> None:
        """Record that a known call runs."""
        call = self._calls[key]
        again = call.attempt + (call.state != "waiting")
        self._change(
            key, state="running", runner=runner, started=at, finished=None, why="", attempt=again
        )

    def end(self, key: Key, state: State, at: float, why: str = "", traceback: str = "") -> None:
        """Record the final state of a known call; one that is over does not change any more.

        Parameters
        ----------
        key : Key
        state : {"done", "failed", "cancelled", "lost"}
        at : float
            Unix time in seconds.
        why : str, optional
            Short text of the exception.
        traceback : str, optional
            Its traceback, of which the end is kept.
        """
        if self._calls[key].state not in _ENDED:
            if traceback:
                self._tracebacks[key] = traceback[-_LONGEST:]
            self._change(key, state=state, finished=at, why=why)

    def name_of(self, key: Key) -> str | None:
        """Return the name of a call, among those that were submitted with it; None if unknown."""
        return self._names.get(key)

    def traceback(self, key: Key) -> str:
        """Return the traceback of a failed call; empty if there is none."""
        return self._tracebacks.get(key, "")

    def end_all(self, state: State, at: float) -> None:
        """Record the same final state for each call that has not ended."""
        for key in list(self._calls):
            self.end(key, state, at)

    # Runs

    def _record(
        self, client: str, told: Mapping[str, Any], run: Any, total: int, at: float
    ) -> _RunRecord:
        if run is not None:
            number, name = run
            record = self._runs.get(number)
            if record is None:
                record = self._open(Run(number, name, at, 0, named=True), client, "", single=False)
        else:
            function, single = told.get("function", ""), total == 1
            record = self._latest.get(client)
            if record is None or not (single and self._continues(record, function, at)):
                name = function or "calls"
                self._titles[name] += 1
                count = self._titles[name]
                shown = name if count == 1 else f"{name} {count}"
                record = self._open(
                    Run(uuid.uuid4().hex, shown, at, 0), client, function, single=single
                )
            self._latest[client] = record
        record.run = replace(record.run, total=record.run.total + total)
        return record

    def _continues(self, record: _RunRecord, function: str, at: float) -> bool:
        """Return whether a single call of this function belongs to the latest run.

        It does if that run consists of single calls of this function, as in a loop, and the last of
        them has not ended, or not long ago.
        """
        if not record.single or record.function != function or record.last is None:
            return False
        last = self._calls.get(record.last)
        return last is not None and at - (last.finished or at) < _PAUSE

    def _open(self, run: Run, client: str, function: str, *, single: bool) -> _RunRecord:
        while len(self._runs) >= _RUNS:
            del self._runs[next(iter(self._runs))]
        record = self._runs[run.id] = _RunRecord(run, client, function, single)
        return record

    # Calls

    def _put(self, call: CallReports) -> None:
        # Moved to the end: a key may be submitted again.
        self._drop(call.key)
        self._calls[call.key] = call

    def _change(self, key: Key, **values: Any) -> None:
        self._calls[key] = replace(self._calls[key], **values)
        self.version += 1

    def _make_room(self) -> None:
        surplus = len(self._calls) - self._most
        if surplus > 0:
            for key in _first(surplus, (k for k, c in self._calls.items() if c.state in _ENDED)):
                self._drop(key)
            for key in _first(len(self._calls) - self._most, self._calls):
                self._drop(key)

    def _drop(self, key: Key) -> None:
        self._calls.pop(key, None)
        self._tracebacks.pop(key, None)
        self._names.pop(key, None)


def _first(number: int, keys: Iterable[Key]) -> list[Key]:
    return [key for key, _ in zip(keys, range(number), strict=False)]


_UNKNOWN: Mapping[str, Any] = {}

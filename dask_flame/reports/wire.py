"""Message format of reports, many in one event (runner, scheduler).

A message consists of plain lists, dicts, numbers and strings, so that any subscriber of
:data:`TOPIC` can read it::

    {"runner": "flame-3", "pool": "cpu", "calls": [{
        "key": "train-1f", "execution": "9c01-4", "actor": False,
        "about": {"arguments": "rate=0.1", "parameters": {"rate": 0.1}}, "progress": 0.02,
        "steps": [0, 1], "times": [1700000000.1, 1700000000.4],
        "values": {"loss": [0.9, 0.7], "accuracy": [0.5]}, "rows": {"accuracy": [1]}}]}

``steps`` and ``times`` have one entry for each report. Each list in ``values`` has, too, unless
``rows`` lists the positions of the reports that included the metric. A message is therefore as
large as its reports, regardless of the number of names. ``times`` are Unix times in seconds, by
the runner's clock. ``execution`` identifies one execution of the call: a call that runs again has
the same key and another execution. ``about`` has what the call or its arguments say of it, in the
first message of an execution and in those after a change. ``progress`` is the share that is done,
where it is known. A message without reports has empty ``steps``.

Dask passes every message to every scheduler plugin, so messages are few and use columns. Dask would
also keep the last 1,000 messages, in memory without a limit in bytes; :class:`Reports` disables
this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dask.typing import Key

from dask_flame.core.messages import REPORTS

#: Topic of Dask events that carries reports.
TOPIC = "flame-reports"
#: Name of the scheduler plugin and of the worker plugin.
NAME = REPORTS
#: Name of the scheduler's handler that subscribes a client to the store, and topic of its changes.
FOLLOW = "flame-follow-reports"


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive reports of one execution of a call.

    Attributes
    ----------
    key : Key
        Key of the call. Methods of actors have no task; their key is ``Class.method@runner``.
    execution : str
        Execution of the call that made these reports.
    runner : str
        Name of the runner.
    actor : bool
        Whether the call is a method of an actor, which has no Dask task.
    steps : sequence of int
        One entry for each report.
    times : sequence of float
        One entry for each report: Unix time in seconds, by the runner's clock.
    values : mapping of str to sequence of float
        One entry for each report, or for each position in `rows`.
    pool : str
        Name of the runner's pool; empty without pools.
    about : mapping
        Fields of :class:`~dask_flame.CallReports` that are known of the call: ``arguments``,
        ``parameters``, ``function``, ``label``, ``better``, ``run``, ``submitted``.
    progress : float or None
        Share of the call that is done, from 0 to 1.
    rows : mapping of str to sequence of int
        Positions of the reports that included a metric, for metrics that some reports did not
        include.
    """

    key: Key
    execution: str
    runner: str
    actor: bool
    steps: Sequence[int]
    times: Sequence[float]
    values: Mapping[str, Sequence[float]]
    pool: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    progress: float | None = None
    rows: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of values."""
        return sum(map(len, self.values.values()))

    def each(self) -> list[dict[str, float]]:
        """Return the values of each report."""
        each: list[dict[str, float]] = [{} for _ in self.steps]
        for name, values in self.values.items():
            for row, value in zip(self.rows.get(name, range(len(each))), values, strict=True):
                each[row][name] = value
        return each


@dataclass(slots=True, eq=False)
class RunningCall:
    """One execution of a call, on its runner.

    Attributes
    ----------
    next : int
        Default step of the next report.
    tracked : int
        Number of items counted by :func:`dask_flame.track`.
    over : bool
        Whether it has ended.
    complaints : set of str
        Subjects of the warnings that were already shown.
    names : set of str
        Names of the reported metrics.
    about : dict
        Fields of the call that were not sent yet; see :class:`Batch`.
    of : float or None
        Number of steps of the call, if it is known.
    stopped : str
        Whether :func:`dask_flame.stop` has stopped it, how its reports tell, and the reason: see
        :func:`dask_flame.reports.runner.stopping.goes_on`.
    """

    key: Key
    execution: str
    actor: bool
    next: int = 0
    tracked: int = 0
    over: bool = False
    complaints: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    about: dict[str, Any] = field(default_factory=dict)
    of: float | None = None
    stopped: str = ""


#: An unsent report: its call, step, time and values.
Record = tuple[RunningCall, int, float, dict[str, float]]


def encode(
    runner: str,
    records: Iterable[Record],
    pool: str = "",
    described: Iterable[RunningCall] = (),
) -> dict[str, Any]:
    """Return the message for these reports; reports of a call keep their order.

    Parameters
    ----------
    runner : str
        Name of the runner.
    records : iterable of Record
        Reports in order of time.
    pool : str, optional
        Name of the runner's pool.
    described : iterable of RunningCall, optional
        Calls with something new in ``about``, whether or not they have reported.

    Returns
    -------
    dict
    """
    groups = {call: _group(call) for call in described}
    for call, step, at, values in records:
        group = groups.get(call)
        if group is None:
            group = groups[call] = _group(call)
        row = len(group["steps"])
        group["steps"].append(step)
        group["times"].append(at)
        columns: dict[str, list[float]] = group["values"]
        rows: dict[str, list[int]] = group["rows"]
        for name, value in values.items():
            column = columns.get(name)
            if column is None:
                columns[name], rows[name] = [value], [row]
            else:
                column.append(value)
                rows[name].append(row)
    for call, group in groups.items():
        number = len(group["steps"])
        group["rows"] = {n: rows for n, rows in group["rows"].items() if len(rows) < number}
        if (share := _progress(call, group)) is not None:
            group["progress"] = share
    return {"runner": runner, "pool": pool, "calls": list(groups.values())}


def _group(call: RunningCall) -> dict[str, Any]:
    group: dict[str, Any] = {
        "key": call.key,
        "execution": call.execution,
        "actor": call.actor,
        "steps": [],
        "times": [],
        "values": {},
        "rows": {},
    }
    if call.about:
        group["about"], call.about = call.about, {}
    return group


def _progress(call: RunningCall, group: Mapping[str, Any]) -> float | None:
    """Return the share of a call that is done after these reports, if it is known."""
    if call.of and group["steps"]:
        return float(min(1.0, group["steps"][-1] / call.of))
    # What track() and the callbacks of trainers report, or the call itself.
    reported: list[float] | None = group["values"].get("progress")
    return reported[-1] if reported and 0 <= reported[-1] <= 1 else None


def decode(message: Mapping[str, Any]) -> Iterator[Batch]:
    """Yield the batches of a message, whether or not it passed through msgpack."""
    for call in message["calls"]:
        yield Batch(runner=message["runner"], pool=message["pool"], **call)

"""What a runner tells the scheduler about reports, one event for many of them (runner, scheduler).

A message is made of plain lists, dicts, numbers and strings, and so can be read by whoever
subscribes to :data:`TOPIC`::

    {"runner": "flame-3", "pool": "cpu", "calls": [{
        "key": "train-1f", "run": "9c01-4", "actor": False, "arguments": "rate=0.1",
        "steps": [0, 1], "times": [1700000000.1, 1700000000.4],
        "values": {"loss": [0.9, 0.7], "accuracy": [0.5]}, "rows": {"accuracy": [1]}}]}

``steps`` and ``times`` have one entry for each report, and so has every list in ``values`` whose
name is not in ``rows``. Of a name that some reports did not have, ``rows`` says which ones had it:
their positions, one for each value. So a message is as large as what was reported, however many
names there are. ``times`` are Unix times in seconds, by the runner's clock.
``run`` names one execution of the call: a call that runs again has the same key and another run.
``arguments``, what it was called with, is in the first message of a run only, if it has any.

Dask tells every plugin in the scheduler of each message: hence few, of columns. It would keep the
last 1,000 of them as well, in memory that nobody has counted: :class:`Reports` has it keep none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dask.typing import Key

from dask_flame.core.messages import REPORTS

#: The one topic of Dask's events that reports travel on.
TOPIC = "flame-reports"
#: The name of the plugins, the scheduler's and the runners'.
NAME = REPORTS
#: What a client asks a scheduler to have a copy of its store, and the topic that changes come on.
FOLLOW = "flame-follow-reports"


@dataclass(frozen=True, slots=True)
class Batch:
    """Some consecutive reports of one execution of a call.

    Attributes
    ----------
    key : Key
        The call's key. An actor's methods have no task of their own: theirs is
        ``Class.method@runner``.
    run : str
        The execution of the call that made these reports.
    runner : str
        Name of the runner.
    actor : bool
        Whether it is a method of an actor, which Dask's tasks know nothing of.
    steps, times : sequence of int, sequence of float
        One entry a report.
    values : mapping of str to sequence of float
        One entry a report, or one for each of `rows`.
    pool : str
        Name of the runner's pool; empty where there are no pools.
    arguments : str
        What it was called with, if these are its first reports.
    rows : mapping of str to sequence of int
        Of each name that some of these reports did not have: the positions of those that had it.
    """

    key: Key
    run: str
    runner: str
    actor: bool
    steps: Sequence[int]
    times: Sequence[float]
    values: Mapping[str, Sequence[float]]
    pool: str = ""
    arguments: str = ""
    rows: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many values there are."""
        return sum(map(len, self.values.values()))

    def each(self) -> list[dict[str, float]]:
        """The values of each report."""
        each: list[dict[str, float]] = [{} for _ in self.steps]
        for name, values in self.values.items():
            for row, value in zip(self.rows.get(name, range(len(each))), values, strict=True):
                each[row][name] = value
        return each


@dataclass(slots=True, eq=False)
class RunningCall:
    """One execution of a call, as its runner sees it.

    Attributes
    ----------
    next : int
        The step after the last one.
    tracked : int
        How many things :func:`dask_flame.track` has counted.
    over : bool
        Whether it has ended.
    complaints : set of str
        What was complained of already.
    names : set of str
        What it has reported values of.
    arguments : str
        What it was called with; empty when that was sent.
    """

    key: Key
    run: str
    actor: bool
    next: int = 0
    tracked: int = 0
    over: bool = False
    complaints: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    arguments: str = ""


#: A report that was not sent yet: its call, step, time and values.
Record = tuple[RunningCall, int, float, dict[str, float]]


def encode(runner: str, records: Iterable[Record], pool: str = "") -> dict[str, Any]:
    """The message for these reports, which keep their order within each call."""
    groups: dict[RunningCall, dict[str, Any]] = {}
    for call, step, at, values in records:
        group = groups.get(call)
        if group is None:
            group = groups[call] = {
                "key": call.key,
                "run": call.run,
                "actor": call.actor,
                "steps": [],
                "times": [],
                "values": {},
                "rows": {},
            }
            if call.arguments:
                group["arguments"], call.arguments = call.arguments, ""
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
    for group in groups.values():
        number = len(group["steps"])
        group["rows"] = {n: rows for n, rows in group["rows"].items() if len(rows) < number}
    return {"runner": runner, "pool": pool, "calls": list(groups.values())}


def decode(message: Mapping[str, Any]) -> Iterator[Batch]:
    """The batches of a message, as it came or after a trip through msgpack."""
    for call in message["calls"]:
        yield Batch(runner=message["runner"], pool=message["pool"], **call)

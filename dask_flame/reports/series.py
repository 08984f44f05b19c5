"""Immutable snapshots of a call's reports; without Dask (all places)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dask.typing import Key

from dask_flame.errors import CallStopped
from dask_flame.reports.changes import State

#: Value of an argument, as it is shown and sorted.
Parameter = bool | int | float | str | None
#: Whether small or large values of a metric are better.
Direction = Literal["min", "max"]


@dataclass(frozen=True, slots=True)
class Series:
    """One metric of a call, in the order in which it was reported.

    Attributes
    ----------
    steps : sequence of int
    values : sequence of float
    times : sequence of float
        Unix times in seconds, by the runner's clock.
    made : int
        Number of reported points; larger than the length if the series was downsampled.
    """

    steps: Sequence[int]
    values: Sequence[float]
    times: Sequence[float]
    made: int = 0

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        last = f", last {self.values[-1]:g} at step {self.steps[-1]}" if self.steps else ""
        return f"<Series: {len(self)} points{last}>"


@dataclass(frozen=True, slots=True)
class CallReports:
    """Reports of one attempt of a call, usually the latest.

    The name of a call depends on the other calls: ``cluster.reports.names()[call.key]``.

    Attributes
    ----------
    key : Key
        Key of the task.
    runner : str
        Name of the runner that made the latest report.
    state : {"waiting", "running", "done", "failed", "cancelled", "lost"}
        ``waiting``: it has not begun. ``failed``: the call raised. ``cancelled``: its result is not
        wanted any more. ``lost``: it left its runner unfinished, usually because the runner ended,
        and will run again.
    attempt : int
        1, plus one for each time the call has run again since it first reported.
    started : float
        Unix time in seconds at which this attempt began or made its first report.
    finished : float or None
        Unix time in seconds at which this attempt ended.
    series : mapping of str to Series
        Curves by metric name, in the order of their first reports.
    earlier : tuple of CallReports
        Reports of earlier attempts that failed or were lost, oldest first.
    pool : str
        Name of the runner's pool; empty on clusters without pools.
    arguments : str
        Short text of the arguments, 200 characters or fewer: ``"rate=0.1, layers=4"``. Large and
        unknown objects are shown as their type, and arguments whose name suggests a secret are
        hidden. Empty without arguments and for methods of actors.
    why : str
        Short text of the exception, if the call failed.
    parameters : mapping of str to (bool, int, float, str or None)
        Arguments of the call by name, with the items of dicts, dataclasses and namespaces as
        ``"model.layers"``. Values of other types are short texts. Secrets are hidden.
    label : str
        Name that the call gave itself with :func:`dask_flame.label`; empty without one.
    function : str
        Name of the function; empty if unknown.
    run : str
        Id of the run that the call belongs to; empty if it belongs to none.
    submitted : float or None
        Unix time in seconds at which the call was submitted, if known.
    progress : float or None
        Share of the call that is done, from 0 to 1, if the call reports it.
    better : mapping of str to {"min", "max"}
        Whether small or large values are better, by metric, as far as the call has declared it.
    """

    key: Key
    runner: str
    state: State
    attempt: int
    started: float
    finished: float | None
    series: Mapping[str, Series]
    earlier: tuple[CallReports, ...] = ()
    pool: str = ""
    arguments: str = ""
    why: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    label: str = ""
    function: str = ""
    run: str = ""
    submitted: float | None = None
    progress: float | None = None
    better: Mapping[str, Direction] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """State in the words for users: ``stopped`` if :class:`CallStopped` has ended the call."""
        return "stopped" if self.state == "cancelled" and was_stopped(self.why) else self.state


def was_stopped(exception_text: object) -> bool:
    """Return whether the text of a call's exception is that of :class:`CallStopped`.

    The same as in dashboard/static/calls.js.
    """
    return str(exception_text).startswith(f"{CallStopped.__name__}(")


def merged(call: CallReports, after: float = float("-inf")) -> dict[tuple[float, int], _Row]:
    """Return a call's reports after a time, as values by time and step.

    Reports that were made at the same time and step are merged.
    """
    rows: dict[tuple[float, int], _Row] = {}
    for name, series in call.series.items():
        for step, value, at in zip(series.steps, series.values, series.times, strict=True):
            if at > after:
                rows.setdefault((at, step), {})[name] = value
    return dict(sorted(rows.items(), key=lambda row: row[0]))


_Row = dict[str, float]

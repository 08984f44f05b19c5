"""What a store gives out of a call: its curves, and how it fares; no Dask in it (anywhere)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dask.typing import Key

from dask_flame.reports.changes import State


@dataclass(frozen=True, slots=True)
class Series:
    """One named curve of a call, in the order in which it was reported.

    Attributes
    ----------
    steps : sequence of int
    values : sequence of float
    times : sequence of float
        Unix times in seconds, by the runner's clock.
    made : int
        Points that were reported: more than there are here, where the series was thinned.
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
    """What one call has reported in an attempt, as a rule the latest.

    Attributes
    ----------
    key : Key
        The task's key.
    runner : str
        Name of the runner that made the latest report.
    state : {"running", "done", "failed", "cancelled", "lost"}
        ``failed``: it raised. ``cancelled``: nobody wants it any more. ``lost``: it left its
        runner unfinished, mostly because the runner ended, and will run again.
    attempt : int
        1, and one more each time the call has run again since it first reported.
    started : float
        Unix time, in seconds, at which this attempt began, or made its first report.
    finished : float or None
        Unix time, in seconds, at which this attempt ended.
    series : mapping of str to Series
        One curve a name, in the order of their first report.
    earlier : tuple of CallReports
        What attempts before this one had reported until they failed or were lost, oldest first.
    pool : str
        Name of the runner's pool; empty on other clusters than a FlameCluster.
    arguments : str
        What it was called with, in short: ``"rate=0.1, layers=4"``, 200 characters or fewer. Of
        large and unknown things it has their type, of secrets, by their name, nothing. Empty where
        it has none, and for methods of actors.
    why : str
        What its exception was, short, where it has failed.
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


def merged(call: CallReports, after: float = float("-inf")) -> dict[tuple[float, int], _Row]:
    """What a call has reported after a moment, by time and step: the values of each report.

    Of two reports that were made at once for the same step one is given, with the values of both.
    """
    rows: dict[tuple[float, int], _Row] = {}
    for name, series in call.series.items():
        for step, value, at in zip(series.steps, series.values, series.times, strict=True):
            if at > after:
                rows.setdefault((at, step), {})[name] = value
    return dict(sorted(rows.items(), key=lambda row: row[0]))


_Row = dict[str, float]

"""Mutable record of a call in the store of reports; without Dask (scheduler)."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dask.typing import Key

from dask_flame.reports.changes import State
from dask_flame.reports.scheduler.curve_record import CurveRecord
from dask_flame.reports.series import CallReports, Series

#: Fields of :class:`CallReports` that a call, its arguments or its submission tell.
ABOUT = ("arguments", "parameters", "label", "function", "run", "submitted", "better")
#: Number of earlier attempts of a call to keep.
_EARLIER = 3


@dataclass(slots=True)
class CallRecord:
    """Reports of one call.

    ``execution`` made the current reports, ``past`` holds earlier executions.
    """

    key: Key
    runner: str
    actor: bool = False
    execution: str | None = None
    past: deque[str] = field(default_factory=lambda: deque(maxlen=8))
    state: State = "running"
    attempt: int = 1
    started: float = 0.0
    finished: float | None = None
    curves: dict[str, CurveRecord] = field(default_factory=dict)
    pool: str = ""
    why: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    progress: float | None = None
    steady: bool = True  # whether its progress has never gone back
    earlier: deque[CallReports] = field(default_factory=lambda: deque(maxlen=_EARLIER))
    frozen: CallReports | None = None

    @property
    def points(self) -> int:
        """Number of points in all curves of all attempts."""
        return sum(len(c.steps) for c in self.curves.values()) + sum(map(_points, self.earlier))

    @property
    def series(self) -> int:
        """Number of curves of all attempts."""
        return len(self.curves) + sum(len(call.series) for call in self.earlier)

    def restart(self) -> None:
        """Begin another attempt."""
        if self.curves:
            if self.state == "running":
                # The end of this attempt was not observed; it must have ended, as another begins.
                self.state, self.frozen = "lost", None
            self.earlier.append(replace(self.snapshot(), earlier=()))
            self.curves = {}
        if self.execution is not None:
            self.past.append(self.execution)
        self.execution, self.why = None, ""
        self.progress, self.steady = None, True
        self.attempt += 1
        self.state, self.started, self.finished = "running", 0.0, None

    def describe(self, about: Mapping[str, Any]) -> None:
        """Take fields that are known of the call; directions of metrics are added up."""
        if about:
            better = {**self.about.get("better", {}), **about.get("better", {})}
            self.about |= {name: about[name] for name in ABOUT if name in about}
            self.about["better"] = better

    def advance(self, progress: float) -> None:
        """Take the share that is done."""
        # It goes back where a loop begins anew, so that it is not the progress of the whole call.
        if self.progress is not None and progress < self.progress:
            self.steady = False
        self.progress = progress

    def snapshot(self) -> CallReports:
        if self.frozen is None:
            series = {name: curve.snapshot() for name, curve in self.curves.items()}
            self.frozen = CallReports(
                self.key,
                self.runner,
                self.state,
                self.attempt,
                self.started,
                self.finished,
                series,
                tuple(self.earlier),
                self.pool,
                why=self.why,
                progress=self.progress if self.steady else None,
                **self.about,
            )
        return self.frozen

    def dump(self) -> dict[str, Any]:
        """Return the record as plain values for msgpack."""
        return {
            "runner": self.runner,
            "actor": self.actor,
            "execution": self.execution,
            "past": list(self.past),
            "earlier": [dumped(call) for call in self.earlier],
            "latest": dumped(self.snapshot()),
        }

    @classmethod
    def load(cls, values: Mapping[str, Any]) -> CallRecord:
        """Return the record from the values that :meth:`dump` returned."""
        latest = loaded(values["latest"])
        call = cls(latest.key, values["runner"], values["actor"], values["execution"])
        call.past.extend(values["past"])
        call.state, call.attempt = latest.state, latest.attempt
        call.started, call.finished = latest.started, latest.finished
        call.pool, call.why, call.progress = latest.pool, latest.why, latest.progress
        call.about = {name: getattr(latest, name) for name in ABOUT}
        call.earlier.extend(map(loaded, values["earlier"]))
        for name, series in latest.series.items():
            curve = call.curves[name] = CurveRecord()
            curve.made = series.made
            curve.steps.extend(series.steps)
            curve.values.extend(series.values)
            curve.times.extend(series.times)
        return call


def _points(call: CallReports) -> int:
    return sum(map(len, call.series.values()))


def dumped(call: CallReports) -> dict[str, Any]:
    """Return a call, without its earlier attempts, as plain values for msgpack."""
    series = {
        name: (
            s.made,
            array("q", s.steps).tobytes(),
            array("d", s.values).tobytes(),
            array("d", s.times).tobytes(),
        )
        for name, s in call.series.items()
    }
    times = {"started": call.started, "finished": call.finished}
    known = {"key": call.key, "runner": call.runner, "state": call.state, "attempt": call.attempt}
    more = {"pool": call.pool, "why": call.why, "progress": call.progress}
    about = {name: getattr(call, name) for name in ABOUT}
    return {**known, **times, **more, **about, "series": series}


def loaded(values: Mapping[str, Any]) -> CallReports:
    """Return the call from the values that :func:`dumped` returned."""
    series = {}
    for name, (made, steps, points, times) in values["series"].items():
        series[name] = Series(array("q", steps), array("d", points), array("d", times), made)
    return CallReports(**{**values, "series": series})

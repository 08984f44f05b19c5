"""What a store keeps of a call, while it changes; no Dask in it (scheduler)."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from dask.typing import Key

from dask_flame.reports.changes import State
from dask_flame.reports.thinning import thin
from dask_flame.reports.values import CallReports, Series
from dask_flame.reports.wire import Batch


class Curve:
    """One series, as it grows."""

    __slots__ = ("frozen", "steps", "times", "values")

    def __init__(self) -> None:
        self.steps = array("q")
        self.values = array("d")
        self.times = array("d")
        self.frozen: Series | None = None

    def extend(self, batch: Batch, values: Sequence[float | None]) -> None:
        here = [i for i, value in enumerate(values) if value is not None]
        self.steps.extend([batch.steps[i] for i in here])
        self.times.extend([batch.times[i] for i in here])
        self.values.extend([value for value in values if value is not None])
        self.frozen = None

    def thin(self, limit: int) -> None:
        kept = thin(self.values, limit)
        self.steps = array("q", [self.steps[i] for i in kept])
        self.times = array("d", [self.times[i] for i in kept])
        self.values = array("d", [self.values[i] for i in kept])

    def snapshot(self) -> Series:
        if self.frozen is None:
            self.frozen = Series(self.steps[:], self.values[:], self.times[:])
        return self.frozen


@dataclass(slots=True)
class Call:
    """One call; ``run`` is the execution whose reports these are, ``past`` earlier ones."""

    key: Key
    runner: str
    actor: bool = False
    run: str | None = None
    past: deque[str] = field(default_factory=lambda: deque(maxlen=8))
    state: State = "running"
    attempt: int = 1
    started: float = 0.0
    finished: float | None = None
    curves: dict[str, Curve] = field(default_factory=dict)
    frozen: CallReports | None = None

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
            )
        return self.frozen

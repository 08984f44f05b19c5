"""Mutable record of one series in the store of reports; without Dask (scheduler)."""

from __future__ import annotations

from array import array

from dask_flame.reports.downsample import thin_steps
from dask_flame.reports.series import Series
from dask_flame.reports.wire import Batch


class CurveRecord:
    """One series of a running call."""

    __slots__ = ("frozen", "made", "steps", "times", "values")

    def __init__(self) -> None:
        self.made = 0
        self.steps = array("q")
        self.values = array("d")
        self.times = array("d")
        self.frozen: Series | None = None

    def extend(self, batch: Batch, name: str) -> None:
        values, rows = batch.values[name], batch.rows.get(name)
        self.made += len(values)
        self.steps.extend(batch.steps if rows is None else [batch.steps[i] for i in rows])
        self.times.extend(batch.times if rows is None else [batch.times[i] for i in rows])
        self.values.extend(values)
        self.frozen = None

    def thin(self, limit: int) -> None:
        """Keep at most `limit` points; the shape of the whole curve remains."""
        # Imported here because runners import the package, and do not need it.
        import numpy as np

        kept = thin_steps(self.steps, self.values, limit)
        self.frozen = None
        self.steps = array("q", np.asarray(self.steps)[kept].tobytes())
        self.times = array("d", np.asarray(self.times)[kept].tobytes())
        self.values = array("d", np.asarray(self.values)[kept].tobytes())

    def snapshot(self) -> Series:
        if self.frozen is None:
            self.frozen = Series(self.steps[:], self.values[:], self.times[:], self.made)
        return self.frozen

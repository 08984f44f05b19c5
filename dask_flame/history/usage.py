"""The usage of a pool: boots, ends of runners, and runner-seconds (driver)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dask_flame.history.journal import (
    BootStepped,
    Entry,
    RunnerEnded,
    RunnerRegistered,
    RunnersAsked,
)
from dask_flame.scaling.runner_index import RunnerState

#: Maximum number of phases: each is a time series in Prometheus, and a backend has few steps.
_MOST_PHASES = 20


@dataclass(slots=True)
class PoolUsage:
    """Running totals of one pool since the cluster started.

    Attributes
    ----------
    boots : int
        Number of runners requested.
    registered : int
        Number of these that have registered.
    boot_seconds : float
        Seconds from request to registration, summed over the registered ones.
    ended : dict of str to int
        Number of ended runners: ``failed`` (never registered), ``lost`` (ended unexpectedly),
        ``ended`` (were asked to).
    phases : dict of str to (float, int)
        For each phase of a boot (see :mod:`dask_flame.history.boots`), the sum of its seconds and
        the number of boots. Bounded; further names are counted as ``other``.
    runner_seconds : float
        Seconds from the request for a runner to its end, without its time in a queue, summed over
        the ended ones; :meth:`paid` includes the others.
    kind_seconds : dict of str to float
        The same by the kind of the runner.
    """

    boots: int = 0
    registered: int = 0
    boot_seconds: float = 0.0
    ended: dict[str, int] = field(default_factory=lambda: {"failed": 0, "lost": 0, "ended": 0})
    phases: dict[str, tuple[float, int]] = field(default_factory=dict)
    runner_seconds: float = 0.0
    kind_seconds: dict[str, float] = field(default_factory=dict)

    def phase(self, name: str, seconds: float) -> None:
        """Count a phase of a boot."""
        if name not in self.phases and len(self.phases) >= _MOST_PHASES:
            name = "other"
        summed, number = self.phases.get(name, (0.0, 0))
        self.phases[name] = (summed + seconds, number + 1)

    def apply(self, entry: Entry) -> None:
        """Count a journal entry, which must be about this pool."""
        match entry:
            case RunnersAsked():
                self.boots += len(entry.runners)
            case BootStepped():
                self.phase(entry.step, entry.took)
            case RunnerRegistered():
                self.registered += 1
                self.boot_seconds += entry.seconds
            case RunnerEnded():
                self.ended[entry.how] += 1
                paid = entry.seconds - entry.queued
                self.runner_seconds += paid
                before = self.kind_seconds.get(entry.kind, 0.0)
                self.kind_seconds[entry.kind] = before + paid

    def paid(self, members: Iterable[RunnerState], now: float) -> float:
        """Return the runner-seconds of the ended runners and of these, which are running."""
        return self.runner_seconds + sum(m.paid(now) for m in members)

    def paid_by_kind(self, members: Iterable[RunnerState], now: float) -> dict[str, float]:
        """Return :meth:`paid` for each kind of runner."""
        paid = dict(self.kind_seconds)
        for member in members:
            paid[member.kind] = paid.get(member.kind, 0.0) + member.paid(now)
        return paid


class UsageByPool(dict[str, PoolUsage]):
    """The usage of each pool, by its name.

    Parameters
    ----------
    pools : iterable of str
        Names of the pools.
    """

    def __init__(self, pools: Iterable[str]) -> None:
        super().__init__((pool, PoolUsage()) for pool in pools)

    def apply(self, entry: Entry) -> None:
        """Count a journal entry for its pool."""
        if isinstance(entry, RunnersAsked | BootStepped | RunnerRegistered | RunnerEnded):
            self[entry.pool].apply(entry)

"""What a pool has used: boots, runners' ends, and runner-seconds (driver)."""

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

#: A backend has a handful of steps. Each is a time series in Prometheus: that is not to be flooded.
_MOST_PHASES = 20


@dataclass(slots=True)
class PoolUsage:
    """Running totals of one pool, from the cluster's start.

    Attributes
    ----------
    boots : int
        Runners asked for.
    registered : int
        Of them, those that came up.
    boot_seconds : float
        From request to registration, summed over these.
    ended : dict of str to int
        Runners gone: ``failed`` (never came up), ``lost`` (went by themselves), ``ended`` (were
        told to).
    phases : dict of str to (float, int)
        Of the boots' phases (see :mod:`dask_flame.history.boots`), by name: the seconds, summed,
        and how many boots have been through it. Bounded; names beyond are counted as ``other``.
    runner_seconds : float
        From the request for a runner to its end, summed over those that are gone; see
        :meth:`paid` for all.
    """

    boots: int = 0
    registered: int = 0
    boot_seconds: float = 0.0
    ended: dict[str, int] = field(default_factory=lambda: {"failed": 0, "lost": 0, "ended": 0})
    phases: dict[str, tuple[float, int]] = field(default_factory=dict)
    runner_seconds: float = 0.0

    def phase(self, name: str, seconds: float) -> None:
        """A boot has been through a phase."""
        if name not in self.phases and len(self.phases) >= _MOST_PHASES:
            name = "other"
        summed, number = self.phases.get(name, (0.0, 0))
        self.phases[name] = (summed + seconds, number + 1)

    def apply(self, entry: Entry) -> None:
        """Add up what an entry of the journal says; it must be of this pool."""
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
                self.runner_seconds += entry.seconds

    def paid(self, members: Iterable[RunnerState], now: float) -> float:
        """Runner-seconds of those that are gone and of these, which are there."""
        return self.runner_seconds + sum(now - m.asked for m in members)


class UsageByPool(dict[str, PoolUsage]):
    """What each pool has used, by its name.

    Parameters
    ----------
    pools : iterable of str
    """

    def __init__(self, pools: Iterable[str]) -> None:
        super().__init__((pool, PoolUsage()) for pool in pools)

    def apply(self, entry: Entry) -> None:
        """Add up what an entry of the journal says of a pool."""
        if isinstance(entry, RunnersAsked | BootStepped | RunnerRegistered | RunnerEnded):
            self[entry.pool].apply(entry)

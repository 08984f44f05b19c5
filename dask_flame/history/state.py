"""The state of the pools for dashboard pages, the notebook and ``repr``: values, and no I/O.

All times are Unix times, in seconds. The process that manages the runners creates a
:class:`Snapshot`; the scheduler's process and the driver read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dask_flame.history.boots import Boot
from dask_flame.history.events import Event
from dask_flame.history.timeline import RunnerTimeline

#: (Unix seconds, demand in slots, booting, ready, busy runners, target of runners); each is valid
#: until the next.
Sample = tuple[float, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class RunnerSummary:
    """The state of one runner.

    Attributes
    ----------
    name : str
    state : str
        ``booting``, ``ready``, ``paused``, ``draining`` or ``ending``.
    since : float
        When it entered this state.
    busy : int
        Number of calls that run on it.
    why : str
        Why it is paused or draining.
    """

    name: str
    state: str
    since: float
    busy: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class PoolSummary:
    """The state of one pool: its options, its demand and its runners.

    Attributes
    ----------
    name : str
    min : int
    max : int or None
        None for the workers of a cluster without pools.
    concurrency : int
        Concurrent calls on one runner.
    demand : int
        Slots that could be used now.
    waiting : int
        Number of pending calls.
    runners : sequence of RunnerSummary
    history : sequence of Sample
        Samples, oldest first.
    target : int
        Number of runners for the current demand.
    held : str
        The actors that hold all slots; empty if actors do not hold all of them.
    gpus : int
        GPUs of each runner.
    price : float or None
        Price of each runner per hour.
    idle_timeout : float or None
        Seconds; None if runners are not ended when idle.
    suspended : str
        Why the pool must not have runners; empty if it may.
    fixed : int or None
        Number of runners that ``adapt(...).stop()`` keeps.
    runner_seconds : float or None
        Seconds from the request for a runner to its end, summed over all runners; None if they are
        not counted.
    busy_seconds : float
        Part of `runner_seconds` in which the runner had a call.
    """

    name: str
    min: int
    max: int | None
    concurrency: int
    demand: int = 0
    waiting: int = 0
    runners: Sequence[RunnerSummary] = ()
    history: Sequence[Sample] = ()
    target: int = 0
    held: str = ""
    gpus: int = 0
    price: float | None = None
    idle_timeout: float | None = None
    suspended: str = ""
    fixed: int | None = None
    runner_seconds: float | None = None
    busy_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of all pools of a cluster at one moment.

    Attributes
    ----------
    now : float
        The time of this state.
    pools : sequence of PoolSummary
    events : sequence of Event or None
        Events, newest last; None in a cluster that makes no scaling decisions.
    lives : RunnerTimeline or None
        The states of each runner over time.
    boots : sequence of Boot or None
        Boots, newest last; None in a cluster that boots no runners.
    """

    now: float
    pools: Sequence[PoolSummary] = ()
    events: Sequence[Event] | None = None
    lives: RunnerTimeline | None = None
    boots: Sequence[Boot] | None = None

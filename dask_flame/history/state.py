"""The pools as pages, the notebook and ``repr`` are told of them; values, and no I/O.

All times are Unix times, in seconds. Whoever owns the runners makes a :class:`Snapshot`; it is read
in the scheduler's process and in the driver's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dask_flame.history.boots import Boot
from dask_flame.history.events import Event
from dask_flame.history.timeline import RunnerTimeline

#: (unix seconds, demand in slots, booting, ready, busy runners, runners that demand calls for);
#: each holds until the next.
Sample = tuple[float, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class RunnerSummary:
    """One runner.

    Attributes
    ----------
    name : str
    state : str
        ``booting``, ``ready``, ``paused``, ``draining`` or ``ending``.
    since : float
        When it came to this state.
    busy : int
        Calls that run on it.
    why : str
        Why it is paused, or draining.
    """

    name: str
    state: str
    since: float
    busy: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class PoolSummary:
    """One pool: its policy, what is asked of it, and what it has.

    Attributes
    ----------
    name : str
    min : int
    max : int or None
        None where these are the workers of a cluster without pools.
    concurrency : int
        Calls at a time on one runner.
    demand : int
        Slots that could be used now.
    waiting : int
        Calls that wait.
    runners : sequence of RunnerSummary
    history : sequence of Sample
        The oldest first.
    target : int
        Runners that demand calls for now.
    held : str
        The actors that hold all slots; empty where none do.
    gpus : int
        Of each runner.
    price : float or None
        Of each runner, for an hour.
    idle_timeout : float or None
        Seconds; None where there is no such thing.
    suspended : str
        Why there is to be no runner at all.
    fixed : int or None
        Runners that ``adapt(...).stop()`` keeps.
    runner_seconds : float or None
        From each runner's request to its end, summed; None where nobody counts them.
    busy_seconds : float
        Of `runner_seconds`, those in which a runner had a call.
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
    """All pools of a cluster, at one moment.

    Attributes
    ----------
    now : float
        That moment.
    pools : sequence of PoolSummary
    events : sequence of Event or None
        The newest last; None where nobody decides.
    lives : RunnerTimeline or None
        What each runner did, and when.
    boots : sequence of Boot or None
        The newest last; None where nothing boots.
    """

    now: float
    pools: Sequence[PoolSummary] = ()
    events: Sequence[Event] | None = None
    lives: RunnerTimeline | None = None
    boots: Sequence[Boot] | None = None

"""The state of the pools for dashboard pages, the notebook and ``repr``: values, and no I/O.

All times are Unix times, in seconds. The process that manages the runners creates a
:class:`Snapshot`; the scheduler's process and the driver read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dask_flame.core.kinds import Price
from dask_flame.history.boots import Boot
from dask_flame.history.events import Event
from dask_flame.history.timeline import RunnerTimeline
from dask_flame.scaling.budget import Spending

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
    kind : str
        Its kind among those of its pool, such as ``"A100, spot"``.
    """

    name: str
    state: str
    since: float
    busy: int = 0
    why: str = ""
    kind: str = ""


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
    price : float, mapping or None
        Price of each runner per hour, or prices by kind.
    idle_timeout : float or None
        Seconds; None if runners are not ended when idle.
    idle_why : str
        Why ``idle_timeout="auto"`` is this figure now; empty if the user has chosen it.
    suspended : str
        Why the pool must not have runners; empty if it may.
    fixed : int or None
        Number of runners that ``adapt(...).stop()`` keeps.
    runner_seconds : float or None
        Seconds from the request for a runner to its end, without its time in a queue, summed over
        all runners; None if they are not counted.
    busy_seconds : float
        Part of `runner_seconds` in which the runner had a call.
    kinds : mapping of str to float
        `runner_seconds` by the kind of the runner: the kinds of the pool in order of preference,
        then other ones that it has had.
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
    price: Price = None
    idle_timeout: float | None = None
    idle_why: str = ""
    suspended: str = ""
    fixed: int | None = None
    runner_seconds: float | None = None
    busy_seconds: float = 0.0
    kinds: Mapping[str, float] = field(default_factory=dict)

    @property
    def mixed(self) -> dict[str, int]:
        """The number of runners of each kind that it has, or has had; empty for fewer than two."""
        kinds = {kind: 0 for kind, seconds in self.kinds.items() if seconds}
        for runner in self.runners:
            kinds[runner.kind] = kinds.get(runner.kind, 0) + 1
        return kinds if len(kinds) > 1 else {}


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
    budget : Spending or None
        The state of the budget; None without one.
    """

    now: float
    pools: Sequence[PoolSummary] = ()
    events: Sequence[Event] | None = None
    lives: RunnerTimeline | None = None
    boots: Sequence[Boot] | None = None
    budget: Spending | None = None

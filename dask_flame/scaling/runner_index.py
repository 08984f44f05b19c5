"""A pool's runners, indexed in the orders that the policy needs; no I/O, no clock.

Each runner is in exactly one of these orders, and the policy only looks at their ends. A lookup or
a change therefore takes the same time with ten runners as with ten thousand.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from dask_flame.core.backoff import doubled

_AGAIN_FIRST = 2.5
_AGAIN_MOST = 300.0
#: Seconds for which a paused runner without a call may recover: Dask may need as long to write
#: results to disk, or to notice that some were released.
PAUSED_FOR = 2.0


class Phase(Enum):
    """The phase of a runner's life."""

    BOOTING = "booting"
    READY = "ready"
    PAUSED = "paused"
    DRAINING = "draining"
    ENDING = "ending"

    # That of Enum is a function of Python, and phases are looked up several times per call.
    __hash__ = object.__hash__


@dataclass(slots=True, eq=False)
class RunnerState:
    """The state of one runner.

    Attributes
    ----------
    name : str
    phase : Phase
    asked : float
        When its boot was decided.
    since : float
        When it entered its phase.
    busy : int
        Number of wanted calls on it.
    refusals : int
        How often it could not be retired since its last call.
    idle_since : float
        Time since which it is not needed: for a ready runner since its last call, for a booting
        one since the demand for it went away; infinite while it is needed.
    may_end : bool
        Whether its ``idle_check`` allowed its end since its last call.
    why : str
        Why it is draining, or paused.
    worked : bool
        Whether it has had a call.
    paused : bool
        Whether Dask has paused it, also when it is being retired for that reason.
    kind : str
        Its kind among those of its pool, such as ``"A100, spot"``: the values of the options that
        may be in order of preference. Empty if the pool has none of them.
    timed_from : float
        When its ``boot_timeout`` began: when its boot was decided, or when its turn came in the
        queue of its substrate; infinite while it is queued.
    """

    name: str
    phase: Phase
    asked: float
    since: float
    busy: int = 0
    refusals: int = 0
    idle_since: float = math.inf
    may_end: bool = False
    why: str = ""
    worked: bool = False
    paused: bool = False
    kind: str = ""
    timed_from: float = math.inf
    stamp: int = 0  # heap entries with another stamp are stale

    @property
    def queued(self) -> bool:
        """Whether it waits for its turn in the queue of its substrate."""
        return self.phase is Phase.BOOTING and self.timed_from == math.inf

    def paid(self, now: float) -> float:
        """Return the seconds that it costs so far: without its time in a queue."""
        return max(0.0, now - self.timed_from)


_Heap = list[tuple[float, int, RunnerState]]


class RunnerIndex:
    """The runners of one pool, in the orders in which the policy takes them.

    Attributes
    ----------
    members : dict of str to RunnerState
    counts : Counter of Phase
    checking : dict of str to RunnerState
        Runners whose ``idle_check`` is being asked.
    news : set of str
        Names of runners whose phase changed, or that became busy or idle, since the reader last
        cleared the set.
    """

    def __init__(self) -> None:
        # OrderedDict: in a plain dict, finding the first key scans past all deleted entries.
        self.members: dict[str, RunnerState] = {}
        self.counts: Counter[Phase] = Counter()
        self.checking: dict[str, RunnerState] = {}
        self.news: set[str] = set()
        self._working = 0
        self._worked = 0.0  # sum of the times at which runners became idle, less those at busy
        self._asked: set[str] = set()  # runners whose answer is pending
        self._stale: set[str] = set()  # of these, runners that got a call after the question
        self._needed: OrderedDict[str, RunnerState] = OrderedDict()  # booting, first asked first
        self._unneeded: OrderedDict[str, RunnerState] = (
            OrderedDict()
        )  # booting, last asked first, that is longest unneeded first
        self._called_off: OrderedDict[str, RunnerState] = (
            OrderedDict()
        )  # booting and unneeded, because their calls were released
        self._timed: _Heap = []  # booting and not queued, by the begin of their boot_timeout
        self._idle: OrderedDict[str, RunnerState] = OrderedDict()  # ready, longest idle first
        self._approved: OrderedDict[str, RunnerState] = OrderedDict()  # idle, may end
        self._refused: dict[str, RunnerState] = {}  # idle, could not be retired
        self._again: _Heap = []  # the refused, by time of the next attempt
        self._drained: OrderedDict[str, RunnerState] = OrderedDict()  # draining, without a call
        # Draining, or paused without a call, by the time at which to stop waiting for them.
        self._dues: _Heap = []
        self._stamp = 0

    def phase(self, name: str) -> Phase | None:
        """Return the phase of a runner, or None if the name is unknown."""
        member = self.members.get(name)
        return None if member is None else member.phase

    # Events

    def add(self, name: str, now: float, kind: str = "") -> None:
        """Add a runner whose boot was decided."""
        member = RunnerState(name, Phase.BOOTING, now, now, kind=kind)
        self.members[name] = self._needed[name] = member
        self.counts[Phase.BOOTING] += 1
        self.news.add(name)
        self.time_boot(name, now)

    def time_boot(self, name: str, now: float) -> None:
        """Begin the time of a booting runner's boot, anew."""
        member = self.members[name]
        member.timed_from = now
        self._push(self._timed, now, member)

    def queue(self, name: str) -> None:
        """Mark a booting runner as queued: its boot takes no time until :meth:`time_boot`."""
        member = self.members[name]
        member.timed_from, member.stamp = math.inf, 0

    def ready(self, name: str, now: float) -> None:
        """Mark a runner as ready."""
        member = self._enter(name, Phase.READY, now)
        member.idle_since = math.inf if member.busy else now
        if not member.busy:
            self._idle[name] = member

    def load(self, name: str, busy: int, now: float) -> None:
        """Set the number of wanted calls on a runner.

        Parameters
        ----------
        name : str
        busy : int
        now : float
        """
        member = self.members.get(name)
        if member is None or member.busy == busy:
            return
        was, member.busy = member.busy, busy
        if not busy or not was:
            self._works(1 if busy else -1, now)
            self.news.add(name)
        member.worked = member.worked or busy > 0
        if member.phase is Phase.READY and busy and not was:
            self._withdraw(member)
            member.idle_since, member.refusals, member.may_end = math.inf, 0, False
        elif member.phase is Phase.READY and was and not busy:
            member.idle_since = now
            self._idle[name] = member
        elif member.phase is Phase.DRAINING and busy:
            self._drained.pop(name, None)
        elif member.phase is Phase.DRAINING:
            self._drained[name] = member
        elif member.phase is Phase.PAUSED:
            self._await(member, now)

    def pause(self, name: str, now: float, why: str) -> None:
        """Mark a runner as paused.

        Parameters
        ----------
        name : str
        now : float
        why : str
        """
        member = self._enter(name, Phase.PAUSED, now)
        member.why, member.paused = why, True
        self._await(member, now)

    def resume(self, name: str, now: float) -> None:
        """Mark a paused runner as ready again."""
        member = self.members[name]
        member.why, member.paused = "", False
        self.ready(name, now)

    def drain(self, name: str, now: float, why: str, due: float) -> None:
        """Mark a runner as draining; wait for its calls until ``due``.

        Parameters
        ----------
        name : str
        now : float
        why : str
        due : float
            When to stop waiting.
        """
        member = self._enter(name, Phase.DRAINING, now)
        member.why, member.paused = why, False
        if member.busy:
            self._push(self._dues, due, member)
        else:
            self._drained[name] = member

    def end(self, name: str, now: float) -> None:
        """Mark a runner as ending."""
        self._enter(name, Phase.ENDING, now)
        self._asked.discard(name)
        self._stale.discard(name)

    def idle_anew(self, number: int, now: float) -> None:
        """Restart the idle time of so many ready runners, those that were busy last."""
        for member in list(self._idle.values())[max(0, len(self._idle) - number) :]:
            member.idle_since = now

    def keep(self, name: str, now: float, patience: float, *, longest: float = _AGAIN_MOST) -> None:
        """Put back a runner that could not be retired; retry after ``patience``, then later.

        Parameters
        ----------
        name : str
        now : float
        patience : float
            Minimum delay in seconds.
        longest : float, optional
            Maximum of the growing delays, in seconds.
        """
        member = self.members[name]
        member.refusals += 1
        again = doubled(_AGAIN_FIRST, member.refusals, longest)
        if member.why:
            self._enter(name, Phase.PAUSED if member.paused else Phase.DRAINING, now)
            self._push(self._dues, now + again, member)
            return
        self._enter(name, Phase.READY, now)
        if member.busy:
            member.idle_since, member.refusals = math.inf, 0
            return
        member.idle_since = now
        self._refused[name] = member
        self._push(self._again, now + max(patience, again), member)

    def gone(self, name: str, now: float) -> None:
        """Remove a runner."""
        member = self.members.pop(name)
        self._withdraw(member)
        self._asked.discard(name)
        self._stale.discard(name)
        self.news.discard(name)
        if member.busy:
            self._works(-1, now)
        self.counts[member.phase] -= 1

    def need(self, booting: int, now: float, *, called_off: float = 0.0) -> None:
        """Keep the first ``booting`` of the booting runners as needed, in the order of their boots.

        Of those no longer needed, ``called_off`` are marked as called off; demand for the others
        may return soon.

        Parameters
        ----------
        booting : int
        now : float
        called_off : float, default 0
        """
        while len(self._needed) > booting:
            name, member = self._needed.popitem()
            member.idle_since = now
            (self._called_off if called_off > 0 else self._unneeded)[name] = member
            called_off -= 1
        while len(self._needed) < booting and (spare := self._spare()):
            name, member = min(spare, key=lambda order: _last(order).asked).popitem()
            member.idle_since = math.inf
            self._needed[name] = member

    def _spare(self) -> list[OrderedDict[str, RunnerState]]:
        return [order for order in (self._unneeded, self._called_off) if order]

    def check(self, name: str) -> bool:
        """Mark an idle runner as being checked; return whether to ask it.

        A runner with an unanswered question from before its last call is not asked again.
        """
        member = self.members[name]
        self._withdraw(member)
        self.checking[name] = member
        ask = name not in self._asked
        self._asked.add(name)
        return ask

    def checked(self, name: str, now: float, *, may_end: bool) -> None:
        """Record a runner's answer; if it may not end, restart its idle time.

        Parameters
        ----------
        name : str
        now : float
        may_end : bool
        """
        stale = name in self._stale
        self._asked.discard(name)
        self._stale.discard(name)
        member = self.checking.pop(name, None)
        if member is None:
            return  # it got a call, or ended, in the meantime
        if stale:
            # The answer predates its last call: restore its place in the order, to ask it again.
            idle = sorted((*self._idle.values(), member), key=lambda m: m.idle_since)
            self._idle = OrderedDict((m.name, m) for m in idle)
            return
        member.may_end = may_end
        if may_end:
            self._approved[name] = member
        else:
            member.idle_since = now
            self._idle[name] = member

    # Queries

    def busy_seconds(self, now: float) -> float:
        """Return the total time for which runners had a call, in seconds."""
        return self._worked + self._working * now

    def busy_before(self, seconds: float) -> None:
        """Set the total busy time before now, as counted elsewhere; no runner may be busy here."""
        self._worked = seconds

    def longest_booting(self) -> RunnerState | None:
        """Return the runner that has been booting for the longest time, without time in a queue."""
        top = self._top(self._timed)
        return None if top is None else top[1]

    def longest_unneeded(self) -> RunnerState | None:
        """Return the booting runner that has been unneeded for the longest time."""
        return next(iter(self._unneeded.values()), None)

    def called_off(self, before: float) -> RunnerState | None:
        """Return a booting runner that was called off at or before this time."""
        member = next(iter(self._called_off.values()), None)
        return member if member is not None and member.idle_since <= before else None

    def longest_idle(self, now: float, limit: float, *, any_time: bool) -> RunnerState | None:
        """Return the idle runner to retire next; with ``any_time``, even before its time.

        Parameters
        ----------
        now : float
        limit : float
            The idle timeout, in seconds.
        any_time : bool
        """
        if self._approved:
            return next(iter(self._approved.values()))
        member = next(iter(self._idle.values()), None)
        if member is not None and (any_time or now >= member.idle_since + limit):
            return member
        top = self._top(self._again)
        return top[1] if top is not None and now >= top[0] else None

    def next_idle(self, limit: float) -> float | None:
        """Return when the next idle runner is due; runners approved to end are left out."""
        first = next(iter(self._idle.values()), None)
        top = self._top(self._again)
        times = [] if first is None else [first.idle_since + limit]
        return min(times if top is None else [*times, top[0]], default=None)

    def all_idle_since(self) -> float | None:
        """Return since when all runners have been idle; None if one is busy, or none exists."""
        idle = len(self._idle) + len(self._approved) + len(self._refused)
        if not idle or idle < len(self.members) - self.counts[Phase.ENDING]:
            return None
        last = next(reversed(self._idle.values()), None)
        others = [*self._approved.values(), *self._refused.values()]
        return max(m.idle_since for m in (others if last is None else [*others, last]))

    def idle_members(self) -> list[RunnerState]:
        """Return all idle runners, except those being checked."""
        return [*self._approved.values(), *self._idle.values(), *self._refused.values()]

    def drained(self, now: float) -> Iterator[RunnerState]:
        """Yield draining runners without a call, and those whose time to finish is over."""
        while self._drained:
            yield next(iter(self._drained.values()))
        while (top := self._top(self._dues)) is not None and now >= top[0]:
            yield top[1]

    def next_due(self) -> float | None:
        """Return when the wait for the next draining or paused runner ends."""
        top = self._top(self._dues)
        return None if top is None else top[0]

    # Implementation

    def _await(self, member: RunnerState, now: float) -> None:
        """Wait while a paused runner has a call, and then for `PAUSED_FOR` seconds."""
        member.stamp = 0
        if not member.busy:
            self._push(self._dues, now + PAUSED_FOR, member)

    def _enter(self, name: str, phase: Phase, now: float) -> RunnerState:
        member = self.members[name]
        self._withdraw(member)
        self.counts[member.phase] -= 1
        self.counts[phase] += 1
        member.phase, member.since = phase, now
        self.news.add(name)
        return member

    def _works(self, more: int, now: float) -> None:
        self._working += more
        self._worked -= more * now

    def _withdraw(self, member: RunnerState) -> None:
        """Remove a runner from the order it is in."""
        if member.name in self._asked:
            self._stale.add(member.name)
        for order in (
            self._needed,
            self._unneeded,
            self._called_off,
            self._idle,
            self._approved,
            self._refused,
            self._drained,
            self.checking,
        ):
            order.pop(member.name, None)
        member.stamp = 0

    def _push(self, heap: _Heap, when: float, member: RunnerState) -> None:
        self._stamp += 1
        member.stamp = self._stamp
        heapq.heappush(heap, (when, self._stamp, member))

    @staticmethod
    def _top(heap: _Heap) -> tuple[float, RunnerState] | None:
        while heap and heap[0][2].stamp != heap[0][1]:
            heapq.heappop(heap)
        return (heap[0][0], heap[0][2]) if heap else None


def _last(order: OrderedDict[str, RunnerState]) -> RunnerState:
    return next(reversed(order.values()))

"""A pool's runners in the order in which its policy looks at them, with no I/O and no clock.

Every runner is in exactly one of the orders kept here, and each of them has what the policy asks
for next at one of its ends. So a look, and a change, take the same time with ten runners and with
ten thousand.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

_AGAIN_FIRST = 2.5
_AGAIN_MOST = 300.0
#: Seconds that a paused runner with no call has to come back: as long as Dask may take to write
#: results to disk, or to see that some were released.
PAUSED_FOR = 2.0


class Phase(Enum):
    """Where a runner is in its life."""

    BOOTING = "booting"
    READY = "ready"
    PAUSED = "paused"
    DRAINING = "draining"
    ENDING = "ending"


@dataclass(slots=True, eq=False)
class RunnerState:
    """One runner as the fleet knows it.

    Attributes
    ----------
    name : str
    phase : Phase
    asked : float
        When its boot was decided.
    since : float
        When it came into its phase.
    busy : int
        Calls on it that somebody wants.
    refusals : int
        How often it could not be retired since its last call.
    idle_since : float
        Since when it could be done without: for a ready runner since its last call, for a booting
        one since the demand that asked for it went; infinite while it is needed.
    may_end : bool
        Its ``idle_check`` has said so, since its last call.
    why : str
        Why it is draining, or paused.
    worked : bool
        Whether it has had a call.
    paused : bool
        Whether it begins no calls for now, also where it is to go for that.
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
    stamp: int = 0  # what the heaps know of it is stale once this has changed


_Heap = list[tuple[float, int, RunnerState]]


class RunnerIndex:
    """The runners of one pool, each in the order in which its turn will come.

    Attributes
    ----------
    members : dict of str to RunnerState
    counts : Counter of Phase
    checking : dict of str to RunnerState
        Those that are being asked whether they may end.
    news : set of str
        Names of those whose phase has changed, or which got busy or idle, since the reader last
        cleared it.
    """

    def __init__(self) -> None:
        # Ordered dicts: in a plain one, the first of what is left is behind all that was taken out.
        self.members: dict[str, RunnerState] = {}
        self.counts: Counter[Phase] = Counter()
        self.checking: dict[str, RunnerState] = {}
        self.news: set[str] = set()
        self._working = 0
        self._worked = 0.0  # when busy runners were no longer so, less when they got busy, summed
        self._asked: set[str] = set()  # those whose answer is to come
        self._stale: set[str] = set()  # and has been overtaken by a call
        self._needed: OrderedDict[str, RunnerState] = OrderedDict()  # booting, first asked first
        self._unneeded: OrderedDict[str, RunnerState] = (
            OrderedDict()
        )  # booting, last asked first: longest unneeded first
        self._called_off: OrderedDict[str, RunnerState] = (
            OrderedDict()
        )  # of these, by who asked for it
        self._idle: OrderedDict[str, RunnerState] = OrderedDict()  # ready, longest idle first
        self._approved: OrderedDict[str, RunnerState] = OrderedDict()  # idle, and may end
        self._refused: dict[str, RunnerState] = {}  # idle, could not be retired
        self._again: _Heap = []  # the same, by the time of the next try
        self._drained: OrderedDict[str, RunnerState] = OrderedDict()  # draining, with no call left
        # Draining, or paused with no call, by when they are no longer waited for.
        self._dues: _Heap = []
        self._stamp = 0

    def phase(self, name: str) -> Phase | None:
        """The phase of a runner, None where there is none of this name."""
        member = self.members.get(name)
        return None if member is None else member.phase

    # What happens

    def add(self, name: str, now: float) -> None:
        """A runner's boot was decided."""
        self.members[name] = self._needed[name] = RunnerState(name, Phase.BOOTING, now, now)
        self.counts[Phase.BOOTING] += 1
        self.news.add(name)

    def ready(self, name: str, now: float) -> None:
        """A runner has come up."""
        member = self._enter(name, Phase.READY, now)
        member.idle_since = math.inf if member.busy else now
        if not member.busy:
            self._idle[name] = member

    def load(self, name: str, busy: int, now: float) -> None:
        """A runner has this many calls that somebody wants."""
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
        """A runner begins no calls for now."""
        member = self._enter(name, Phase.PAUSED, now)
        member.why, member.paused = why, True
        self._await(member, now)

    def resume(self, name: str, now: float) -> None:
        """A runner begins calls again."""
        member = self.members[name]
        member.why, member.paused = "", False
        self.ready(name, now)

    def drain(self, name: str, now: float, why: str, due: float) -> None:
        """A runner takes no further calls."""
        member = self._enter(name, Phase.DRAINING, now)
        member.why, member.paused = why, False
        if member.busy:
            self._push(self._dues, due, member)
        else:
            self._drained[name] = member

    def end(self, name: str, now: float) -> None:
        """A runner is to go."""
        self._enter(name, Phase.ENDING, now)
        self._asked.discard(name)
        self._stale.discard(name)

    def idle_anew(self, number: int, now: float) -> None:
        """Begin the idle time of so many ready runners anew: of those that were busy last."""
        for member in list(self._idle.values())[max(0, len(self._idle) - number) :]:
            member.idle_since = now

    def keep(self, name: str, now: float, patience: float) -> None:
        """A runner could not go: it is tried again after this patience, then ever more rarely."""
        member = self.members[name]
        member.refusals += 1
        again = min(_AGAIN_FIRST * 2 ** min(member.refusals, 10), _AGAIN_MOST)
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
        """A runner is there no more."""
        member = self.members.pop(name)
        self._withdraw(member)
        self._asked.discard(name)
        self._stale.discard(name)
        self.news.discard(name)
        if member.busy:
            self._works(-1, now)
        self.counts[member.phase] -= 1

    def need(self, booting: int, now: float, *, called_off: float = 0.0) -> None:
        """So many of the booting runners are needed: those that were asked for first.

        Of those that are not any more, so many were called off; for the others there is no call
        left, but there may be one soon.
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
        """An idle runner is to say whether it may end; whether it is to be asked.

        It is not where it has not answered yet what it was asked before its last call.
        """
        member = self.members[name]
        self._withdraw(member)
        self.checking[name] = member
        ask = name not in self._asked
        self._asked.add(name)
        return ask

    def checked(self, name: str, now: float, *, may_end: bool) -> None:
        """It has answered; if it may not end, its idle time begins anew."""
        stale = name in self._stale
        self._asked.discard(name)
        self._stale.discard(name)
        member = self.checking.pop(name, None)
        if member is None:
            return  # it has got a call, or gone, meanwhile
        if stale:
            # That was before its last call: its turn is still there, to be asked anew.
            idle = sorted((*self._idle.values(), member), key=lambda m: m.idle_since)
            self._idle = OrderedDict((m.name, m) for m in idle)
            return
        member.may_end = may_end
        if may_end:
            self._approved[name] = member
        else:
            member.idle_since = now
            self._idle[name] = member

    # What is asked

    def busy_seconds(self, now: float) -> float:
        """For how long runners had a call, summed over all there have been."""
        return self._worked + self._working * now

    def busy_before(self, seconds: float) -> None:
        """Runners had a call for so long, as whoever watches them says; none has one here."""
        self._worked = seconds

    def longest_booting(self) -> RunnerState | None:
        """The runner that has been booting for the longest time."""
        if self._needed:
            return next(iter(self._needed.values()))
        return min(map(_last, self._spare()), key=lambda member: member.asked, default=None)

    def longest_unneeded(self) -> RunnerState | None:
        """The booting runner that has been superfluous for the longest time."""
        return next(iter(self._unneeded.values()), None)

    def called_off(self, before: float) -> RunnerState | None:
        """A booting runner that was called off before a time, or then."""
        member = next(iter(self._called_off.values()), None)
        return member if member is not None and member.idle_since <= before else None

    def longest_idle(self, now: float, limit: float, *, any_time: bool) -> RunnerState | None:
        """The idle runner whose turn to go has come; with ``any_time``, also before its time."""
        if self._approved:
            return next(iter(self._approved.values()))
        member = next(iter(self._idle.values()), None)
        if member is not None and (any_time or now >= member.idle_since + limit):
            return member
        top = self._top(self._again)
        return top[1] if top is not None and now >= top[0] else None

    def next_idle(self, limit: float) -> float | None:
        """When the turn of the next idle runner comes; those that may end now are not meant."""
        first = next(iter(self._idle.values()), None)
        top = self._top(self._again)
        times = [] if first is None else [first.idle_since + limit]
        return min(times if top is None else [*times, top[0]], default=None)

    def all_idle_since(self) -> float | None:
        """Since when all runners have been idle; None where one is not, or there is none."""
        idle = len(self._idle) + len(self._approved) + len(self._refused)
        if not idle or idle < len(self.members) - self.counts[Phase.ENDING]:
            return None
        last = next(reversed(self._idle.values()), None)
        others = [*self._approved.values(), *self._refused.values()]
        return max(m.idle_since for m in (others if last is None else [*others, last]))

    def idle_members(self) -> list[RunnerState]:
        """All idle runners, except those that are being asked."""
        return [*self._approved.values(), *self._idle.values(), *self._refused.values()]

    def drained(self, now: float) -> Iterator[RunnerState]:
        """Runners that take no calls and have none left, or are no longer waited for."""
        while self._drained:
            yield next(iter(self._drained.values()))
        while (top := self._top(self._dues)) is not None and now >= top[0]:
            yield top[1]

    def next_due(self) -> float | None:
        """When the next draining runner is no longer waited for."""
        top = self._top(self._dues)
        return None if top is None else top[0]

    # How it is kept

    def _await(self, member: RunnerState, now: float) -> None:
        """Wait for a paused runner as long as it has a call, and then for a while."""
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
        """Take a runner out of the order it is in."""
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

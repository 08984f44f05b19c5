"""Decide which runners to boot and which to retire; no I/O, no clock.

This module is the whole policy of a pool. The caller reports events with their times to a
:class:`Fleet`, calls :meth:`~Fleet.decide`, carries the decision out, and calls it again when
something changes or when the decision's ``wake`` time is reached.

Times are seconds on one clock that never runs backwards. The cost of a decision grows with the
number of changes, not with the number of runners: see :mod:`dask_flame.scaling.runner_index`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

from dask_flame.core.backoff import doubled
from dask_flame.core.pool import AUTO, Pool
from dask_flame.scaling.decision_types import BootRequest, Decision, GiveUp, Retirement
from dask_flame.scaling.idle_timeout import BreakEven, IdleFigure
from dask_flame.scaling.kind_choice import KindChoice
from dask_flame.scaling.no_room import RoomBackoff
from dask_flame.scaling.runner_index import PAUSED_FOR, Phase, RunnerIndex, RunnerState

__all__ = ["BootRequest", "Decision", "Fleet", "GiveUp", "Phase", "Retirement", "RunnerState"]

_BACKOFF_FIRST = 0.5
_BACKOFF_MOST = 30.0
#: Shorten a retry delay by up to this fraction, so that clusters whose boots failed together do
#: not retry together.
_JITTER = 0.25
#: Default of `capacity_retry`, in seconds.
_RETRY = 300.0
#: Maximum seconds between attempts to retire a runner that costs although the budget is spent.
_RETRY_EXHAUSTED = 5.0
#: Seconds to keep a booting runner whose calls were released: others may follow at once.
CALLED_OFF = 0.2


class Fleet:
    """The runners of one pool, and the decisions about them.

    Parameters
    ----------
    pool : Pool
    prefix : str
        Runners are named ``<prefix>-1``, ``<prefix>-2``, …; a name is never reused.
    chance : callable
        Return a random number from 0 to 1, for the jitter of retries.
    capacity_retry : float
        Seconds after which a kind of runner is tried again if the substrate had none of it.

    Attributes
    ----------
    kinds : KindChoice
    turns : int
        How often a runner was queued, or its turn came: only then does it cost.

    Notes
    -----
    What holds after every decision, whatever happened before it:

    - no more than ``pool.max`` runners exist, ending ones included;
    - a runner with a wanted call is not retired, unless the fleet is suspended, the substrate is
      reclaiming the runner, or a call on it exceeded its timeout and cannot be stopped;
    - demand for n slots has been answered with ceil(n / concurrency) runners (plus ``spare``), in
      one decision, as far as ``max``, the budget, failed boots and refused kinds of runner allow;
    - with an exhausted budget no runner is booting, and none is idle but those that could not be
      retired, which is tried again every few seconds;
    - a paused runner counts only toward ``max``, and is retired if it stays paused;
    - every runner is queued, booting within its ``boot_timeout``, ready, paused, draining, or
      ending;
    - a queued runner counts as a booting one: it is not requested twice, and it is retired if the
      demand for it goes away.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        prefix: str = "runner",
        chance: Callable[[], float] = random.random,
        capacity_retry: float = _RETRY,
    ) -> None:
        self.pool = pool
        self.kinds = KindChoice([kind.text for kind in pool.kinds], capacity_retry)
        self.index = RunnerIndex()
        self.suspended = ""  # reason to have no runners at all
        self.exhausted = ""  # reason to pay for nothing but the running calls
        self.turns = 0
        self.fixed: int | None = None  # number of runners to keep, whatever the demand
        self.failures = 0
        self._prefix = prefix
        self._chance = chance
        self._count = 0
        self._resting = False  # the `min` runners were idle for `min_idle_timeout`
        self._failed_at = -math.inf
        self._retry_at = -math.inf
        self._why_failed = self._who_failed = ""
        self._too_late = self._final = False
        self._never_worked = False  # the last runner that failed had registered but ran no call
        self._stuck: dict[str, tuple[float, bool]] = {}
        self._room_backoff = RoomBackoff()
        self._taken_back = 0.0  # slots of demand released since the last decision
        self._seen = BreakEven(pool.idle_bounds)
        self.idle = self._idle_figure()  # the idle timeout of the last decision

    @property
    def members(self) -> Mapping[str, RunnerState]:
        """The runners of the pool, by name."""
        return self.index.members

    # Events

    def queued(self, name: str) -> None:
        """Record that a booting runner waits its turn, as is usual on its substrate.

        Its ``boot_timeout`` begins with :meth:`started`.
        """
        if self.index.phase(name) is Phase.BOOTING:
            self.index.queue(name)
            self.turns += 1

    def started(self, name: str, now: float) -> None:
        """Record that a queued runner's turn has come."""
        if self.index.phase(name) is Phase.BOOTING and self.members[name].queued:
            self.index.time_boot(name, now)
            self.turns += 1

    def registered(self, name: str, now: float) -> None:
        """Record that a runner registered and can take calls."""
        if self.index.phase(name) is Phase.BOOTING:
            self.started(name, now)  # a backend need not say so of one that registers
            self.index.ready(name, now)
            member = self.members[name]
            self._seen.booted(now - member.asked)
            self._room_backoff.came_up(member.asked, now)
            self.kinds.came_up(member.kind, member.asked)
            if not self._never_worked:
                self.failures = 0

    def load(
        self, name: str, busy: int, now: float, *, held: float | None = None, overran: bool = False
    ) -> None:
        """Record the load of a runner.

        Parameters
        ----------
        name : str
        busy : int
            Number of wanted calls on it.
        now : float
        held : float, optional
            Time since which a released call has kept its thread.
        overran : bool
            Whether that call was released because its own timeout expired.
        """
        if held is None:
            self._stuck.pop(name, None)
        elif name in self.members:
            self._stuck[name] = (held, overran)
        if busy and self._never_worked:
            self._never_worked, self.failures = False, 0
        member = self.members.get(name)
        if busy and member and member.phase is Phase.READY and member.worked and not member.busy:
            self._seen.bridged(now - member.idle_since)
        self.index.load(name, busy, now)

    def drain(self, name: str, now: float, why: str, *, within: float | None = None) -> None:
        """Give a runner no further calls; retire it once idle, or after ``within`` seconds.

        Parameters
        ----------
        name : str
        now : float
        why : str
        within : float, optional
            Default: wait for its calls without limit.
        """
        if self.index.phase(name) in (Phase.READY, Phase.PAUSED):
            self.index.drain(name, now, why, math.inf if within is None else now + within)

    def paused(self, name: str, now: float, why: str) -> bool:
        """Record that Dask paused a runner: retire it if it stays paused without a call.

        A paused runner is not counted as supply.

        Parameters
        ----------
        name : str
        now : float
        why : str

        Returns
        -------
        bool
            Whether this is a change.
        """
        if self.index.phase(name) is not Phase.READY:
            return False
        self.index.pause(name, now, why)
        return True

    def resumed(self, name: str, now: float) -> bool:
        """Record that a paused runner resumed; return whether this is a change."""
        if self.index.phase(name) is not Phase.PAUSED:
            return False
        self.index.resume(name, now)
        return True

    def ended(
        self,
        name: str,
        now: float,
        why: str = "",
        *,
        no_room: bool = False,
        final: bool = False,
        no_capacity: bool = False,
    ) -> Phase | None:
        """Record that the substrate lost a runner; return its phase, or None if it is unknown.

        Parameters
        ----------
        name : str
        now : float
        why : str, default ""
        no_room, final, no_capacity : bool, default False
            See :class:`dask_flame.backends.Ended`.
        """
        member = self.members.get(name)
        if member is None:
            return None
        self._stuck.pop(name, None)
        phase = member.phase
        self.index.gone(name, now)
        if no_capacity:
            self.kinds.refused(member.kind, now, why)
            if self.kinds.left(now) is not None:
                return phase  # no failure: the next decision asks for that kind
            no_room, why = True, self.kinds.reasons
        elif not no_room and phase is not Phase.BOOTING:
            self.kinds.freed(member.kind, now)
        if no_room and self.members:
            self._room_backoff.refused(now)
            return phase
        if no_room:
            self._room_backoff.clear()
        else:
            self.freed(now)
        if phase is Phase.BOOTING:
            self._failed(member, now, why, late=False, final=final)
        return phase

    def freed(self, now: float) -> None:
        """Record that a runner of any pool ended, so that the substrate may have room."""
        self._room_backoff.freed(now)

    def taken_back(self, slots: float) -> None:
        """Record that calls worth so many slots of demand were released without being run."""
        self._taken_back += slots

    def leaving(self, name: str, now: float) -> None:
        """Record that a runner is leaving by itself."""
        if name in self.members:
            self.index.end(name, now)

    def kept(self, name: str, now: float) -> None:
        """Record that a runner could not be retired: retry, with growing delays."""
        if self.index.phase(name) is Phase.ENDING:
            self._seen.stayed(name)
            if self.exhausted:
                self.index.keep(name, now, 0.0, longest=_RETRY_EXHAUSTED)
            else:
                self.index.keep(name, now, self.idle.seconds)

    def checked(self, name: str, now: float, *, may_end: bool) -> None:
        """Record the answer of a runner to its pool's ``idle_check``.

        Parameters
        ----------
        name : str
        now : float
        may_end : bool
        """
        self.index.checked(name, now, may_end=may_end)

    def resize(self, **changes: Any) -> None:
        """Change the policy; the next decision follows it.

        Raises
        ------
        PoolError
            If the changed policy is invalid; the old one then stays in force.
        """
        self.pool = self.pool.replace(**changes)
        self.kinds.change([kind.text for kind in self.pool.kinds])
        self._seen.bounds = self.pool.idle_bounds
        if not (self.pool.idle_timeout == AUTO and self.idle.why):
            self.idle = self._idle_figure()
        self.fixed = None
        self._resting = False
        self._taken_back = math.inf  # release all that the old policy asked for

    def hold(self, number: int, why: str) -> bool:
        """Bound a pool whose ``max`` the user has not named; return whether that is a change.

        Parameters
        ----------
        number : int
            The number of runners that the substrate holds.
        why : str
            Where the number comes from.
        """
        before, self.pool = self.pool, self.pool.holding(number, why)
        return (before.max, before.max_from) != (self.pool.max, self.pool.max_from)

    def fix(self) -> int:
        """Keep the present number of runners until :meth:`resize`; return it."""
        if self.fixed is None:
            self.fixed = self.count(Phase.BOOTING, Phase.READY)
        return self.fixed

    def awaited(self, number: int, now: float) -> None:
        """Restart the idle time of so many runners: a caller waited for them without calls."""
        busy = sum(m.phase is Phase.READY and m.busy > 0 for m in self.members.values())
        self.index.idle_anew(number - busy, now)
        self.taken_back(number * self.pool.concurrency)

    # State

    def count(self, *phases: Phase) -> int:
        """Return the number of runners in these phases."""
        return sum(map(self.index.counts.__getitem__, phases))

    @property
    def full(self) -> bool:
        """Whether the pool has ``max`` runners, in any phase."""
        return len(self.members) >= self.pool.max

    @property
    def crowded(self) -> bool:
        """Whether the substrate, as far as known, has no room for more runners."""
        return self._room_backoff.there

    @property
    def next_name(self) -> str:
        """Name of the next runner to boot."""
        return self._name(1)

    @property
    def next_names(self) -> list[str]:
        """Names of all runners that may still be booted beside the present ones."""
        there = self.count(Phase.BOOTING, Phase.READY, Phase.DRAINING)
        return [self._name(1 + n) for n in range(self.pool.max - there)]

    def _name(self, number: int) -> str:
        return f"{self._prefix}-{self._count + number}"

    def is_draining(self, name: str) -> bool:
        """Return whether a runner gets no further calls."""
        return self.index.phase(name) is Phase.DRAINING

    def target(self, demand: int) -> int:
        """Return the number of runners for so many slots of demand, within the bounds."""
        if self.suspended or self.exhausted:
            return 0
        if self.fixed is not None:
            return min(self.fixed, self.pool.max)
        wanted = math.ceil(demand / self.pool.concurrency)
        wanted += self.pool.spare if demand else 0
        return min(max(wanted, self._floor), self.pool.max)

    @property
    def _floor(self) -> int:
        if self.exhausted:
            return 0
        if self.fixed is not None:
            return self.fixed
        return 0 if self._resting else self.pool.min

    @property
    def bound(self) -> tuple[int, str]:
        """The present maximum of runners, and the setting behind it with the line to change it."""
        pool = self.pool
        if self.suspended:
            return 0, f"there are to be none: {self.suspended}"
        if self.fixed is not None:
            most = min(self.fixed, pool.max)
            return most, (
                f"adapt(...).stop() keeps {most}; write cluster.adapt() to follow demand again, or "
                "cluster.scale(n)"
            )
        why = f" ({pool.max_from})" if pool.max_from else ""
        return pool.max, f"max={pool.max}{why}; write cluster.resize(max=…)"

    @property
    def _alive(self) -> int:
        return self.count(Phase.BOOTING, Phase.READY)

    def _idle_figure(self) -> IdleFigure:
        if isinstance(seconds := self.pool.idle_timeout, str):
            return self._seen.figure(self.count(Phase.READY))
        return IdleFigure(seconds)

    # Decisions

    def decide(self, now: float, demand: int) -> Decision:
        """Return the runners to boot and to retire, given the slots that could be used now."""
        if demand:
            self._resting = False
        # One figure for the whole decision: the time of the next one follows from it.
        self.idle = self._idle_figure()
        retire: list[Retirement] = []
        self._end_late(now, retire)
        self._end_stuck(now)
        self._end_drained(now, retire)
        target = self.target(demand)
        check: list[str] = []
        if self.suspended:
            self._end_all(now, retire)
        elif self.exhausted:
            self._end_all_but_busy(now, retire)
        else:
            self._end_surplus(now, target, retire, check)
            self._rest(now, target, demand, retire, check)
            target = self.target(demand)  # lower, if the `min` runners have just been retired
        self._taken_back = 0.0
        there = self._alive
        numbers = {"demand": demand, "target": target, "there": there}
        numbers |= {"min": self.pool.min, "max": self.pool.max}
        boot, retry = self._missing(now, target, demand)
        give_up = None
        if boot is None and not self.exhausted:
            give_up = self._hopeless(now, demand)
        wake = self._next(now, target, retry)
        return Decision(boot, tuple(retire), tuple(check), give_up, wake, numbers)

    def _end_late(self, now: float, retire: list[Retirement]) -> None:
        limit = self.pool.boot_timeout
        while (member := self.index.longest_booting()) and now >= member.timed_from + limit:
            why = f"did not register within boot_timeout={limit:g} s"
            if member.timed_from > member.asked:
                why += " after its time in the queue"
            self._failed(member, now, why, late=True)
            retire.append(self._end(member, now, why, failed=True))

    def _end_stuck(self, now: float) -> None:
        limit = self.pool.shutdown_timeout
        for name, (held, overran) in list(self._stuck.items()):
            member = self.members[name]
            if now >= held + limit and (overran or not member.busy):
                del self._stuck[name]
                what = "overran its timeout" if overran else "was cancelled"
                why = f"a call that {what} did not stop within shutdown_timeout={limit:g} s"
                self.drain(name, now, why, within=0)

    def _end_drained(self, now: float, retire: list[Retirement]) -> None:
        for member in self.index.drained(now):
            why = member.why
            if member.phase is Phase.PAUSED:
                why += f"; it has had no call running for {PAUSED_FOR:g} s"
                if not member.worked:
                    self._never_worked = True
                    self._failed(member, now, f"was never of use: {member.why}", late=False)
            if member.busy:
                why += f"; its {member.busy} calls run again elsewhere"
            retire.append(self._end(member, now, why))

    def _end_all(self, now: float, retire: list[Retirement]) -> None:
        if self.count(Phase.ENDING) < len(self.members):
            for member in list(self.members.values()):
                if member.phase is not Phase.ENDING:
                    retire.append(self._end(member, now, self.suspended, force=True))

    def _end_all_but_busy(self, now: float, retire: list[Retirement]) -> None:
        index = self.index
        index.need(0, now, called_off=math.inf)
        while member := (
            index.called_off(math.inf)
            or index.longest_unneeded()
            or index.longest_idle(now, 0.0, any_time=False)
        ):
            retire.append(self._end(member, now, self.exhausted))

    def _end_surplus(
        self, now: float, target: int, retire: list[Retirement], check: list[str]
    ) -> None:
        index, limit = self.index, self.idle.seconds
        # The boots requested last are the first to be given up.
        called_off = self._taken_back / self.pool.concurrency
        index.need(max(0, target - self.count(Phase.READY)), now, called_off=called_off)
        least = max(target, self._floor)
        while (over := self._alive > self.pool.max) or self._alive - len(index.checking) > least:
            why = f"more than max={self.pool.max}" if over else f"no call for {self.idle.said}"
            # Booting runners first, then the longest idle.
            if member := index.called_off(math.inf if over else now - CALLED_OFF):
                why = why if over else "nobody wants the calls any more that it boots for"
                retire.append(self._end(member, now, why))
                continue
            member = index.longest_unneeded()
            if member is None or not (over or now >= member.idle_since + limit):
                member = index.longest_idle(now, limit, any_time=over)
            if member is None:
                return
            if self._must_ask(member) and not over:
                if index.check(member.name):
                    check.append(member.name)
            else:
                if member.phase is Phase.READY and not over:
                    self._seen.ended(member.name, member.idle_since, now)
                retire.append(self._end(member, now, why))

    def _rest(
        self, now: float, target: int, demand: int, retire: list[Retirement], check: list[str]
    ) -> None:
        limit = self.pool.min_idle_timeout
        if limit is None or demand or target > self.pool.min or self._resting:
            return
        if self.fixed is not None:
            return
        idle = self.index.all_idle_since()
        if idle is None or now < idle + limit:
            return
        members = self.index.idle_members()
        if ask := [m.name for m in members if self._must_ask(m)]:
            check += [name for name in ask if self.index.check(name)]
            return
        self._resting = True
        for member in members:
            retire.append(self._end(member, now, f"no call for min_idle_timeout={limit:g} s"))

    def _must_ask(self, member: RunnerState) -> bool:
        return (
            self.pool.idle_check is not None and member.phase is Phase.READY and not member.may_end
        )

    def _missing(
        self, now: float, target: int, demand: int
    ) -> tuple[BootRequest | None, float | None]:
        alive = self._alive
        number = min(target - alive, self.pool.max - len(self.members))
        if number <= 0:
            if target <= alive:
                self._room_backoff.satisfied(now)
            return None, None
        if self.failures:
            if self.count(Phase.BOOTING):
                return None, None
            if self._given_up(demand):
                return None, None
            if now < self._retry_at:
                return None, self._retry_at
            number = 1  # boot one as a trial; the rest follow once it registers
        if now < self.kinds.settled_at and self.kinds.left(now) is not None:
            return None, self.kinds.settled_at
        number, again = self._room_backoff.may_boot(number, now)
        if not number:
            return None, again
        chosen = self.kinds.choose(number, now)
        names = tuple(map(self._name, range(1, number + 1)))
        self._count += number
        for name, kind in zip(names, chosen, strict=True):
            self.index.add(name, now, kind)
            self._seen.came_back(now)
        slots = "slot" if demand == 1 else "slots"
        paused = self.count(Phase.PAUSED)
        there = f"{alive} there" + (f" besides {paused} paused" if paused else "")
        reason = (
            f"demand of {demand} {slots} calls for {target} "
            f"({there}, min={self.pool.min}, max={self.pool.max})"
        )
        if of := self.kinds.said(chosen):
            reason += f": {of}"
        return BootRequest(names, reason, dict(zip(names, chosen, strict=True))), None

    def _given_up(self, demand: int) -> bool:
        return bool(
            demand
            and self.failures >= self.pool.boot_attempts
            and self.pool.on_boot_failure == "fail"
            and not self._alive
        )

    def _hopeless(self, now: float, demand: int) -> GiveUp | None:
        return self.give_up(now) if self._given_up(demand) else None

    def give_up(self, now: float) -> GiveUp | None:
        """Return why callers should not wait, if boots keep failing; retry at once afterwards."""
        pool = self.pool
        if self.failures < pool.boot_attempts or pool.on_boot_failure != "fail":
            return None
        # A later submission gets one more attempt, without delay.
        self.failures = pool.boot_attempts - 1
        self._retry_at = now
        times = "1 boot" if pool.boot_attempts == 1 else f"{pool.boot_attempts} boots"
        how = f"{times} failed in a row (boot_attempts)"
        if self._final:
            how = "1 boot failed, as any other would"
        why = f"{how}: {self._why_failed}"
        return GiveUp(why, self._too_late, self._who_failed)

    def _next(self, now: float, target: int, retry: float | None) -> float | None:
        pool, index = self.pool, self.index
        times = [retry, index.next_due()]
        if (booting := index.longest_booting()) is not None:
            times.append(booting.timed_from + pool.boot_timeout)
        times += [
            held + pool.shutdown_timeout
            for name, (held, overran) in self._stuck.items()
            if overran or not self.members[name].busy
        ]
        if not self.suspended:
            if self._alive - len(index.checking) > max(target, self._floor):
                if (called_off := index.called_off(math.inf)) is not None:
                    times.append(called_off.idle_since + CALLED_OFF)
                if (unneeded := index.longest_unneeded()) is not None:
                    times.append(unneeded.idle_since + self.idle.seconds)
                times.append(index.next_idle(self.idle.seconds))
            elif (
                pool.min_idle_timeout is not None
                and self.fixed is None
                and target <= pool.min
                and (idle := index.all_idle_since()) is not None
            ):
                times.append(idle + pool.min_idle_timeout)
        return min((t for t in times if t is not None and now < t < math.inf), default=None)

    def _end(
        self,
        member: RunnerState,
        now: float,
        why: str,
        *,
        force: bool = False,
        failed: bool = False,
    ) -> Retirement:
        force = force or member.phase is Phase.BOOTING
        self._stuck.pop(member.name, None)
        self.index.end(member.name, now)
        return Retirement(member.name, why, force, failed)

    def _failed(
        self, member: RunnerState, now: float, why: str, *, late: bool, final: bool = False
    ) -> None:
        self._who_failed, self._why_failed = member.name, f"{member.name} {why}"
        self._too_late, self._final = late, final
        # A whole wave that fails for one reason counts as one failure; but runners whose turns come
        # one after the other fail one after the other.
        began = member.asked if member.queued else member.timed_from
        if began > self._failed_at:
            self.failures += 1
            self._failed_at = now
            wait = doubled(_BACKOFF_FIRST, self.failures, _BACKOFF_MOST)
            self._retry_at = now + wait * (1 - _JITTER * self._chance())
        if final:
            self.failures = max(self.failures, self.pool.boot_attempts)

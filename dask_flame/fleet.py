"""Which runners to boot and which to retire: decided from what is seen, with no I/O and no clock.

The whole of a pool's policy is here, and nothing else is. Whoever drives a :class:`Fleet` tells it
what happened and at what time, asks it to :meth:`~Fleet.decide`, carries the decision out, and asks
again when something changed or when the time it named has come.

Times are seconds on any clock that does not run backwards, always the same one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from dask_flame.pool import Pool

_BACKOFF_FIRST = 0.5
_BACKOFF_MOST = 30.0
_AGAIN_FIRST = 2.5
_AGAIN_MOST = 300.0


class Phase(Enum):
    """Where a runner is in its life."""

    BOOTING = "booting"
    READY = "ready"
    ENDING = "ending"


@dataclass(slots=True)
class Member:
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
    unneeded : float or None
        Since when it could be done without: for a ready runner since its last call, for a booting
        one since the demand that asked for it went. None while it is needed.
    """

    name: str
    phase: Phase
    asked: float
    since: float
    busy: int = 0
    refusals: int = 0
    unneeded: float | None = None


@dataclass(frozen=True, slots=True)
class Boots:
    """Runners to boot, all at once, and why."""

    names: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Retirement:
    """A runner to end and why; by force where it must not be waited for."""

    name: str
    reason: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now.

    Attributes
    ----------
    boot : Boots or None
    retire : tuple of Retirement
    give_up : str or None
        Why the calls that wait will not be served: fail them with it.
    wake : float or None
        When to decide again, if nothing happens before.
    """

    boot: Boots | None = None
    retire: tuple[Retirement, ...] = ()
    give_up: str | None = None
    wake: float | None = None


class Fleet:
    """The runners of one pool, and the decisions about them.

    Parameters
    ----------
    pool : Pool
    prefix : str
        Runners are named ``<prefix>-1``, ``<prefix>-2``, …; a name is never used again.

    Notes
    -----
    What holds after every decision, whatever happened before it:

    - no more than ``pool.max`` runners exist, those that are ending counted;
    - a runner with a call that somebody wants is not retired, unless the fleet is suspended;
    - demand for n slots has been answered with ceil(n / concurrency) runners (plus ``spare``), in
      one decision, as far as ``max`` and failed boots allow;
    - every runner is booting within its ``boot_timeout``, ready, or ending.
    """

    def __init__(self, pool: Pool, *, prefix: str = "runner") -> None:
        self.pool = pool
        self.members: dict[str, Member] = {}
        self.suspended = False
        self.failures = 0
        self._prefix = prefix
        self._count = 0
        self._resting = False  # the `min` runners were idle for `min_idle_timeout`
        self._failed_at = -math.inf
        self._retry_at = -math.inf
        self._why_failed = ""

    # What happened

    def registered(self, name: str, now: float) -> None:
        """A runner has joined and can take calls."""
        member = self.members.get(name)
        if member is not None and member.phase is Phase.BOOTING:
            member.phase = Phase.READY
            member.since = member.unneeded = now
            self.failures = 0

    def load(self, name: str, busy: int, now: float) -> None:
        """A runner has this many calls that somebody wants."""
        member = self.members.get(name)
        if member is None:
            return
        if busy:
            member.unneeded = None
            member.refusals = 0
        elif member.busy or member.unneeded is None:
            member.unneeded = now
        member.busy = busy

    def ended(self, name: str, now: float, why: str = "") -> Phase | None:
        """A runner is gone from the substrate; the phase it was in, None if it was not known."""
        member = self.members.pop(name, None)
        if member is None:
            return None
        if member.phase is Phase.BOOTING:
            self._failed(member, now, why)
        return member.phase

    def leaving(self, name: str, now: float) -> None:
        """A runner has left by itself, and will be gone."""
        member = self.members.get(name)
        if member is not None:
            member.phase = Phase.ENDING
            member.since = now

    def kept(self, name: str, now: float) -> None:
        """A runner could not be retired: it goes on, and is asked again ever more rarely."""
        member = self.members.get(name)
        if member is not None and member.phase is Phase.ENDING:
            member.phase = Phase.READY
            member.since = member.unneeded = now
            member.refusals += 1

    def resize(self, *, min: int | None = None, max: int | None = None) -> None:
        """Change the bounds; the next decision follows them."""
        low = self.pool.min if min is None else min
        high = self.pool.max if max is None else max
        self.pool = replace(self.pool, min=low, max=high)
        self._resting = False

    # What there is

    def count(self, *phases: Phase) -> int:
        """How many runners are in these phases."""
        return sum(m.phase in phases for m in self.members.values())

    def target(self, demand: int) -> int:
        """How many runners this many slots of demand call for, within the bounds."""
        if self.suspended:
            return 0
        wanted = math.ceil(demand / self.pool.concurrency)
        wanted += self.pool.spare if demand else 0
        least = 0 if self._resting else self.pool.min
        return min(max(wanted, least), self.pool.max)

    # What to do

    def decide(self, now: float, demand: int) -> Decision:
        """Say what to boot and what to retire, given the slots that could be used now."""
        if demand:
            self._resting = False
        retire = [*self._late(now)]
        target = self.target(demand)
        if self.suspended:
            retire += self._all(now, "the last client has gone")
        else:
            retire += self._surplus(now, target)
            target = self.target(demand)  # lower, where the `min` runners have gone to rest
        boot, retry = self._missing(now, target, demand)
        give_up = self._hopeless(now, demand) if boot is None else None
        return Decision(boot, tuple(retire), give_up, self._next(now, target, retry))

    def _late(self, now: float) -> Iterable[Retirement]:
        limit = self.pool.boot_timeout
        for member in list(self.members.values()):
            if member.phase is Phase.BOOTING and now >= member.asked + limit:
                why = f"did not register within boot_timeout={limit:g} s"
                self._failed(member, now, why)
                yield self._end(member, now, why, force=True)

    def _all(self, now: float, why: str) -> Iterable[Retirement]:
        for member in self.members.values():
            if member.phase is not Phase.ENDING:
                yield self._end(member, now, why, force=True)

    def _surplus(self, now: float, target: int) -> Iterable[Retirement]:
        ready = [m for m in self.members.values() if m.phase is Phase.READY]
        booting = [m for m in self.members.values() if m.phase is Phase.BOOTING]
        # The boots asked for last are the ones that can be done without.
        for place, member in enumerate(booting):
            if place < target - len(ready):
                member.unneeded = None
            elif member.unneeded is None:
                member.unneeded = now
        alive = len(ready) + len(booting)
        least = max(target, 0 if self._resting else self.pool.min)
        idle = sorted(
            (m for m in ready if not m.busy and m.unneeded is not None),
            key=lambda m: m.unneeded or 0.0,
        )
        for member in [*(m for m in reversed(booting) if m.unneeded is not None), *idle]:
            if alive > self.pool.max:
                why = f"more than max={self.pool.max}"
            elif alive > least and now >= self._expires(member, self.pool.idle_timeout):
                why = f"no call for idle_timeout={self.pool.idle_timeout:g} s"
            else:
                continue
            alive -= 1
            yield self._end(member, now, why)
        rest = self.pool.min_idle_timeout
        if rest is not None and not target > self.pool.min and not booting:
            idle = [m for m in idle if m.phase is Phase.READY]
            if idle and alive == len(idle) and all(now >= self._expires(m, rest) for m in idle):
                self._resting = True
                for member in idle:
                    yield self._end(member, now, f"no call for min_idle_timeout={rest:g} s")

    def _missing(self, now: float, target: int, demand: int) -> tuple[Boots | None, float | None]:
        alive = self.count(Phase.BOOTING, Phase.READY)
        number = min(target - alive, self.pool.max - len(self.members))
        if number <= 0:
            return None, None
        if self.failures:
            if self.count(Phase.BOOTING):
                return None, None
            if self.failures >= self.pool.boot_attempts and demand and not alive:
                return None, None
            if now < self._retry_at:
                return None, self._retry_at
            number = 1  # one tries; the rest follow once it is up
        names = tuple(f"{self._prefix}-{self._count + i}" for i in range(1, number + 1))
        self._count += number
        for name in names:
            self.members[name] = Member(name, Phase.BOOTING, now, now)
        slots = "slot" if demand == 1 else "slots"
        reason = (
            f"demand of {demand} {slots} calls for {target} "
            f"({alive} there, min={self.pool.min}, max={self.pool.max})"
        )
        return Boots(names, reason), None

    def _hopeless(self, now: float, demand: int) -> str | None:
        if (
            not demand
            or self.failures < self.pool.boot_attempts
            or self.count(Phase.BOOTING, Phase.READY)
        ):
            return None
        # What is submitted later deserves one more try, at once.
        self.failures = self.pool.boot_attempts - 1
        self._retry_at = now
        times = "1 boot" if self.pool.boot_attempts == 1 else f"{self.pool.boot_attempts} boots"
        return f"{times} failed in a row (boot_attempts): {self._why_failed}"

    def _next(self, now: float, target: int, retry: float | None) -> float | None:
        times = [] if retry is None else [retry]
        alive = self.count(Phase.BOOTING, Phase.READY)
        spare = alive > max(target, 0 if self._resting else self.pool.min)
        for member in self.members.values():
            if member.phase is Phase.BOOTING:
                times.append(member.asked + self.pool.boot_timeout)
            if member.phase is Phase.ENDING or member.unneeded is None or member.busy:
                continue
            if spare:
                times.append(self._expires(member, self.pool.idle_timeout))
            elif self.pool.min_idle_timeout is not None:
                times.append(self._expires(member, self.pool.min_idle_timeout))
        return min((t for t in times if t > now), default=None)

    def _expires(self, member: Member, limit: float) -> float:
        """When a runner has been idle for this long; later, if it could not be retired then."""
        if member.unneeded is None:
            return math.inf
        if member.refusals:
            limit = max(limit, min(_AGAIN_FIRST * 2 ** min(member.refusals, 10), _AGAIN_MOST))
        return member.unneeded + limit

    def _end(self, member: Member, now: float, why: str, *, force: bool = False) -> Retirement:
        force = force or member.phase is Phase.BOOTING
        member.phase = Phase.ENDING
        member.since = now
        return Retirement(member.name, why, force)

    def _failed(self, member: Member, now: float, why: str) -> None:
        self._why_failed = f"{member.name} {why}"
        # A whole wave that fails for one reason counts once.
        if member.asked > self._failed_at:
            self.failures += 1
            self._failed_at = now
            self._retry_at = now + min(_BACKOFF_FIRST * 2 ** min(self.failures, 10), _BACKOFF_MOST)

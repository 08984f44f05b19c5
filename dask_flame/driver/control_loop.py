"""Demand in, the fleets' decisions out (driver)."""

from __future__ import annotations

import asyncio
import logging
import math
import textwrap
import time
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed.deploy.adaptive import Adaptive

from dask_flame.backends.base import Ended
from dask_flame.core.pool import OnChange
from dask_flame.core.terminal_text import tame
from dask_flame.core.threads import BackgroundThread, in_thread, safely
from dask_flame.driver.executor import DecisionExecutor
from dask_flame.errors import PRINTED, BootError, BootTimeout
from dask_flame.history.boots import ACCEPTED, FIRST_CALL, REGISTERED, shown
from dask_flame.history.timeline import ENDING, RunnerTimeline
from dask_flame.scaling.boot_messages import BootMessages
from dask_flame.scaling.fleet import Decision, Fleet, GiveUp, Phase

if TYPE_CHECKING:
    from dask_flame.driver.cluster import FlameCluster

logger = logging.getLogger("dask_flame")

#: Samples of history kept for the dashboard: one a second, while something changes.
_HISTORY = 3600
#: Seconds after which there is one though nothing has.
_UNCHANGED = 60.0
#: Of what a runner printed last, in the event of its end: lines, and characters of each.
_SHOWN_LINES, _LONGEST_LINE = 25, 500
#: Seconds that a runner which has left by itself, or was dropped, may take to be gone.
_GONE_WITHIN = 5.0
#: Least seconds between two events that say of the same runner that it is paused.
_OFTEN = 10.0
#: What becomes of boots for which a substrate has no room now.
_WAITS = "; the others wait until a runner has gone, and are tried again now and then"
#: Seconds within which what changes is decided upon together, where no call waits for a boot.
_CALM = 0.02


class FlameAdaptive(Adaptive):
    """Distributed's adaptive scaling, with the fleets' decisions in place of the stock estimate.

    Stock adaptivity asks every so often how many seconds of work there are. This one counts slots,
    and is woken by the scheduler whenever their number may have changed; the periodic call of its
    base class only samples the history and is a safety net.

    Parameters
    ----------
    cluster : FlameCluster
        Must be running: its scheduler, pools and backend are used directly.
    **kwargs
        What :class:`distributed.deploy.Adaptive` takes.
    """

    def __init__(self, cluster: FlameCluster, **kwargs: Any) -> None:
        self.fleets = cluster.fleets
        self.events = cluster.events
        self.boots = cluster.boots
        self.lives = RunnerTimeline()
        self.told = BootMessages()
        self.history: dict[str, deque[tuple[float, int, int, int, int, int]]] = {
            pool: deque(maxlen=_HISTORY) for pool, _ in self.fleets
        }
        self._left: set[str] = set()  # gone from the scheduler without having been told to
        self._paused_at: dict[str, float] = {}  # when it was last said
        self._paused: set[str] = set()  # those of which it was
        self._held: dict[str, str] = {}  # by pool: what its calls wait for
        self._woken = False
        self._over = False
        self._timer: asyncio.TimerHandle | None = None
        self._later: asyncio.TimerHandle | None = None
        self._callbacks = BackgroundThread("flame-callbacks")
        self._orders = DecisionExecutor(
            cluster, ended=self.ended, accepted=self._accepted, done=self.wake
        )
        default = self.fleets.policies[self.fleets.default]
        kwargs.setdefault("minimum", default.min)
        kwargs.setdefault("maximum", default.max)
        super().__init__(cluster, **kwargs)
        cluster.scheduler.on_change = self._changed
        asks, fleets = cluster.scheduler.asks, self.fleets.fleets
        asks.bound = lambda pool: fleets[pool].bound
        asks.coming = lambda pool: fleets[pool].count(Phase.BOOTING, Phase.READY)

    # What distributed's Adaptive is made of

    async def target(self) -> int:
        return sum(f.target(self.cluster.scheduler.demand(pool)) for pool, f in self.fleets)

    async def adapt(self) -> None:
        self.decide()
        self._sample()

    def stop(self, reason: str = "unknown") -> None:
        """Follow demand no longer: keep the runners that the default pool has now.

        ``cluster.adapt()``, ``cluster.scale(n)`` and ``cluster.resize(…)`` let it go on. May be
        called from any thread, and more than once. Runners that are lost are replaced.
        """
        self.cluster.fix()

    async def finish(self) -> None:
        """Decide nothing any more, and break off what is under way: the cluster closes."""
        self._over = True
        super().stop("cluster-closed")
        for timer in (self._timer, self._later):
            if timer is not None:
                timer.cancel()
        self._timer = self._later = None
        await self._orders.cancel()
        await in_thread(self._callbacks.close)

    # Deciding

    def wake(self) -> None:
        """Decide soon: once for all that changes in this turn of the event loop."""
        if not self._woken and not self._over:
            self._woken = True
            asyncio.get_running_loop().call_soon(self.decide)

    def _changed(self) -> None:
        """Demand or a load may have changed: decide at once where boots are due or under way.

        Otherwise there is a moment's time. It keeps decisions, of which there would be two for each
        call, out of the way of calls that follow upon each other.
        """
        if self._woken or self._over:
            return
        waiting = self.cluster.scheduler.waiting
        # This is called several times for each call: a plain loop, as any() takes longer.
        for pool, fleet in self.fleets:
            # One that has just come up may be killed by its first call before that moment is over.
            if fleet.count(Phase.BOOTING) or (not fleet.full and waiting(pool)):
                self.wake()
                return
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(_CALM, self.decide)

    def decide(self) -> None:
        """Tell the fleets what has changed, and carry out what they decide."""
        self._woken = False
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._over:
            return
        now = time.monotonic()
        self._observe(now)
        wakes = []
        for pool, fleet in self.fleets:
            fleet.taken_back(self.cluster.scheduler.withdrawn(pool))
            decision = fleet.decide(now, self.cluster.scheduler.demand(pool))
            self._carry_out(pool, fleet, decision)
            self.lives.heed(fleet.roster, time.time(), self.cluster.scheduler.calls_on)
            wakes.append(decision.wake)
            if self.fleets.stopped:
                self._refuse(pool)
            self._say_if_held(pool, fleet)
        self._wake_at(min((w for w in wakes if w is not None), default=None), now)

    def ended(self, what: Ended) -> None:
        """The backend says that a runner is gone."""
        now = time.monotonic()
        pool = self.fleets.of(what.name)
        if pool is None:
            return
        fleet = self.fleets.fleets[pool]
        member = fleet.members[what.name]
        scheduler = self.cluster.scheduler
        if unfit := scheduler.unfit.pop(what.name, ""):
            what = replace(what, why=unfit, output="", final=True)
        how_far = self._how_far(what) if member.phase is Phase.BOOTING else ""
        printed = ""
        if tail := what.output.strip():
            printed = PRINTED + textwrap.indent(_last_lines(tail), "    ")
        crowded = fleet.crowded
        phase = fleet.ended(
            what.name,
            now,
            what.why + how_far + printed,
            no_room=what.no_room,
            final=what.final,
        )
        self._make_room(fleet, what)
        scheduler.unwelcome.discard(what.name)
        scheduler.spent.discard(what.name)
        scheduler.leaving.pop(what.name, None)
        scheduler.parted.discard(what.name)
        self._paused_at.pop(what.name, None)
        self._paused.discard(what.name)
        self.fleets.forget(what.name)
        kind = "ended"
        if phase is Phase.BOOTING:
            kind = "failed"
        elif not self._over and (phase is not Phase.ENDING or what.name in self._left):
            kind = "lost"
        self._left.discard(what.name)
        self.boots.ended(what.name, what.why, now, failed=kind == "failed")
        late = (boot := self.boots.of(what.name)) is not None and boot.failed
        self.lives.ended(what.name, time.time(), "failed" if late else kind, what.why)
        # What ends a runner that is paused is not that it is.
        seen_out = member.why and not (member.paused and kind == "lost")
        cause = f"{member.why} ({what.why})" if seen_out else what.why
        if kind != "failed":
            told = cause + printed if kind == "lost" else cause
            self.events.add(kind, told, runners=[what.name], pool=pool)
        elif what.no_room and fleet.crowded:
            if not crowded:
                told = f"{what.why}{how_far}{_WAITS}"
                self.events.add(kind, told, runners=[what.name], pool=pool)
        elif news := self.told.shorten(pool, what.name, what.why + printed):
            said, mark, lines = news.partition(PRINTED)
            self.events.add(kind, said + how_far + mark + lines, runners=[what.name], pool=pool)
        self.fleets.ledgers[pool].gone(member, kind, now)
        # Also where it was seen out, and its calls were not done when its time was over.
        scheduler.losses.settle(what.name, cause + printed)
        if not self._over:
            self.wake()

    def _how_far(self, what: Ended) -> str:
        """How far a boot has come that has failed, as a part of a sentence."""
        boot = self.boots.of(what.name)
        if boot is not None and boot.trouble and boot.trouble in what.why:
            self.boots.held_up(what.name, "")  # it is said already
        how_far = self.boots.how_far([what.name])
        return f" ({how_far})" if how_far else ""

    def _make_room(self, fleet: Fleet, what: Ended) -> None:
        """Let other pools know that a runner has gone: they may share what it has taken."""
        if not what.no_room:
            for _, other in self.fleets:
                if other is not fleet:
                    other.freed(time.monotonic())

    def reached(self, name: str, step: str) -> None:
        """A runner's boot has come to a step."""
        if (noted := self.boots.reached(name, step, time.monotonic())) is not None:
            boot, took = noted
            self.fleets.ledgers[boot.pool].phase(step, took)
            self.lives.stepped(name, boot.steps)

    def _accepted(self, names: Collection[str]) -> None:
        for name in names:
            self.reached(name, ACCEPTED)

    def _observe(self, now: float) -> None:
        scheduler = self.cluster.scheduler
        changed, scheduler.changed = scheduler.changed, set()
        began, scheduler.began = scheduler.began, set()
        for name in changed:
            pool = self.fleets.of(name)
            if pool is not None:
                self._see(name, pool, now, began=name in began)
        met, scheduler.asks.met = scheduler.asks.met, []
        for pool, number in met:
            self.fleets.fleets[pool].awaited(number, now)
        while scheduler.mishaps:
            self.events.add(*scheduler.mishaps.popleft())

    def _see(self, name: str, pool: str, now: float, *, began: bool) -> None:
        scheduler, fleet = self.cluster.scheduler, self.fleets.fleets[pool]
        member = fleet.members[name]
        if name in scheduler.unfit and member.phase is Phase.BOOTING:
            self._orders.end([name])  # should it not end by itself
            return
        if name not in scheduler.aliases:
            if member.phase in (Phase.READY, Phase.PAUSED, Phase.DRAINING):
                # It left by itself, or distributed dropped it: see it out.
                fleet.leaving(name, now)
                self._left.add(name)
                limit = fleet.pool.shutdown_timeout
                # One that was retired ends as Python does; one that was dropped may hang.
                grace = limit if name in scheduler.parted else min(limit, _GONE_WITHIN)
                self._orders.end([name], grace=grace)
            return
        if not scheduler.is_up(name):
            return  # its plugins are being set up
        if member.phase is Phase.BOOTING:
            fleet.registered(name, now)
            self.told.forget(pool)
            took = now - member.asked
            ledger = self.fleets.ledgers[pool]
            ledger.registered += 1
            ledger.boot_seconds += took
            self.reached(name, REGISTERED)
            boot = self.boots.of(name)
            steps = dict(boot.steps) if boot is not None else {}
            before = [f"{s} {shown(t)}" for s, t in steps.items() if s != REGISTERED]
            why = f"registered {took:.2f} s after its boot"
            why += f" ({', '.join(before)})" if before else ""
            numbers = {"seconds": took, **steps}
            self.events.add("ready", why, runners=[name], pool=pool, **numbers)
        load = scheduler.load(name)
        if began or load.busy:
            self.reached(name, FIRST_CALL)
        if began and not load.busy:
            # A call that has come and gone since the last look: it has been idle since then only.
            fleet.load(name, 1, now)
        fleet.load(name, load.busy, now, held=load.held, overran=load.overran)
        self._see_pause(name, pool, load.paused, now)
        if member.phase in (Phase.READY, Phase.PAUSED) and name in scheduler.leaving:
            why, limit = scheduler.leaving[name], fleet.pool.shutdown_timeout
            fleet.drain(name, now, why, within=limit)
            why = f"{why}: no further calls; {load.busy} may take shutdown_timeout={limit:g} s"
            self.events.add("leaving", why, runners=[name], pool=pool)
            # The substrate may not leave it the time that its calls have.
            self._orders.save(name)
        elif member.phase is Phase.READY and name in scheduler.spent:
            fleet.drain(name, now, "a call has ended on it (single_use)")

    def _see_pause(self, name: str, pool: str, why: str, now: float) -> None:
        fleet = self.fleets.fleets[pool]
        if not why:
            if fleet.resumed(name, now) and name in self._paused:
                self._paused.discard(name)
                self.events.add("ready", "begins calls again", runners=[name], pool=pool)
        elif fleet.paused(name, now, why) and now >= self._paused_at.get(name, -math.inf) + _OFTEN:
            # Where memory is full by turns, not each time.
            self._paused_at[name] = now
            self._paused.add(name)
            why = f"{why}; it gets no calls, and ends if that does not change (memory=)"
            self.events.add("paused", why, runners=[name], pool=pool)

    def _say_if_held(self, pool: str, fleet: Fleet) -> None:
        """Say it once, where calls begin to wait for what does not come by itself."""
        scheduler = self.cluster.scheduler
        kind, held = "actors", scheduler.held_by_actors(pool, fleet.pool)
        if not fleet.bound[0] and not fleet.suspended and scheduler.waiting(pool):
            kind, held = "none", self._why_none(pool, fleet)
        kind = kind if held else ""
        if kind and kind != self._held.get(pool):
            self.events.add("waiting", f"calls wait: {held}", pool=pool)
        self._held[pool] = kind

    def _why_none(self, pool: str, fleet: Fleet) -> str:
        if fleet.fixed is not None:
            return fleet.bound[1]
        name = "" if pool == self.fleets.default else f"{pool!r}, "
        return f"max=0; write cluster.resize({name}max=8)"

    def _carry_out(self, pool: str, fleet: Fleet, decision: Decision) -> None:
        if (boots := decision.boot) is not None:
            self.fleets.booted(pool, boots.names)
            self.fleets.ledgers[pool].boots += len(boots.names)
            event = self.events.add(
                "boot", boots.reason, runners=boots.names, pool=pool, **decision.numbers
            )
            self.boots.asked(boots.names, pool, fleet.members[boots.names[0]].asked, at=event.at)
            self.lives.asked(boots.names, pool, event.at, boots.reason)
            self._orders.boot(boots.names)
            self._call_back(fleet.pool.on_grow, pool, fleet)
        if decision.retire:
            for reason in dict.fromkeys(item.reason for item in decision.retire):
                names = [item.name for item in decision.retire if item.reason == reason]
                failed = {item.name for item in decision.retire if item.failed}
                late = [name for name in names if name in failed]
                why = f"{reason} ({how_far})" if (how_far := self.boots.how_far(late)) else reason
                for name in late:
                    self.boots.ended(name, reason, time.monotonic(), failed=True)
                event = self.events.add("retire", why, runners=names, pool=pool, **decision.numbers)
                for name in names:
                    self.lives.seen(name, ENDING, event.at, why)
            self._orders.retire(decision.retire)
            self._call_back(fleet.pool.on_shrink, pool, fleet)
        if decision.check and fleet.pool.idle_check is not None:
            self._orders.check(decision.check, fleet.pool.idle_check)
        if decision.give_up is not None:
            self._give_up(pool, decision.give_up)
        elif self.cluster.scheduler.asks.waiting(pool) and (
            (give_up := fleet.give_up(time.monotonic())) is not None
        ):
            # Calls have the runners that there are; who waits for more has nothing of them.
            self.cluster.scheduler.asks.fail(pool, self._boot_error(pool, give_up)[0])

    def _give_up(self, pool: str, give_up: GiveUp) -> None:
        error, why = self._boot_error(pool, give_up)
        why = self.told.shorten(pool, give_up.runner, why)
        self.told.forget(pool)  # what is submitted from now on is another story
        failed = self.cluster.scheduler.fail_waiting(error, pool)
        calls = "1 call that waited" if failed == 1 else f"{failed} calls that waited"
        # There may be none, where runners were waited for by their number.
        self.events.add("failed", f"{calls if failed else 'no runner'}: {why}", pool=pool)

    def _boot_error(self, pool: str, give_up: GiveUp) -> tuple[BootError, str]:
        """The error of what waits for boots that keep failing, and why they do."""
        why = give_up.reason
        if give_up.late and (how_far := self.boots.how_far([give_up.runner])):
            # Of one that ended by itself this was said when it did.
            why += f" ({how_far})"
        preload, limit = self.fleets.policies[pool].preload, self.fleets.policies[pool].boot_timeout
        if give_up.late and preload:
            why += (
                f"\npreload={list(preload)} is imported within boot_timeout={limit:g} s; where it "
                f'takes longer, write boot_timeout="{4 * limit:g}s"'
            )
        kind = BootTimeout if give_up.late else BootError
        of = f" of pool {pool!r}" if len(self.fleets.fleets) > 1 else ""
        error = kind(
            f"no runner{of} could start, so the calls that waited for one have failed: {why}\n"
            "What governs it: preload, env, boot_timeout, boot_attempts and on_boot_failure of the "
            "pool. See cluster.events and cluster.get_logs() for more; calls submitted from now "
            "on try again."
        )
        return error, why

    def _refuse(self, pool: str) -> None:
        error = BootError(
            f"{self.fleets.stopped}, so no runner will run this; results that the driver has can "
            "still be read. To go on, write cluster.close() and make a new FlameCluster"
        )
        if failed := self.cluster.scheduler.fail_waiting(error, pool):
            calls = "call that waited" if failed == 1 else "calls that waited"
            self.events.add("failed", f"{failed} {calls}: {self.fleets.stopped}", pool=pool)

    def _call_back(self, function: OnChange | None, pool: str, fleet: Fleet) -> None:
        if function is not None:
            count = len(fleet.members) - fleet.count(Phase.ENDING)
            self._callbacks.do(partial(safely, function, pool, count))

    def _wake_at(self, when: float | None, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0, when - now), self.wake)

    def _sample(self) -> None:
        for pool, fleet in self.fleets:
            busy = sum(m.phase is Phase.READY and m.busy > 0 for m in fleet.members.values())
            booting, ready = fleet.count(Phase.BOOTING), fleet.count(Phase.READY)
            demand = self.cluster.scheduler.demand(pool)
            sample = (time.time(), demand, booting, ready, busy, fleet.target(demand))
            history = self.history[pool]
            if (
                not history
                or sample[1:] != history[-1][1:]
                or sample[0] > history[-1][0] + _UNCHANGED
            ):
                history.append(sample)


def _last_lines(text: str) -> str:
    lines: Iterable[str] = tame(text).splitlines()
    return "\n".join(line[:_LONGEST_LINE] for line in list(lines)[-_SHOWN_LINES:])

"""The control loop: pass demand to the fleets and carry out their decisions (driver)."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import Any

from distributed.deploy.adaptive import Adaptive
from distributed.deploy.cluster import Cluster

from dask_flame.backends.specs import Ended
from dask_flame.core.pool import OnChange
from dask_flame.core.threads import BackgroundThread, in_thread, safely
from dask_flame.driver.boot_errors import boot_error, stopped_error, why_none
from dask_flame.driver.budget_watch import BudgetWatch
from dask_flame.driver.executor import DecisionExecutor
from dask_flame.driver.hosts.base import HostParts
from dask_flame.driver.journal_writer import JournalWriter, cause_in, last_words
from dask_flame.driver.scheduler_news import SchedulerNews
from dask_flame.history.boots import ACCEPTED, FIRST_CALL, SETTING_UP, SETUP
from dask_flame.scaling.fleet import Decision, Fleet, GiveUp, Phase
from dask_flame.scheduler.home.home import Home
from dask_flame.scheduler.scheduler import FlameScheduler

logger = logging.getLogger("dask_flame")

#: Number of history samples kept for the dashboard; at most one per second, on changes.
_HISTORY = 3600
#: Sample at least this often (seconds), even when nothing changed.
_UNCHANGED = 60.0
#: Maximum grace (seconds) for a runner that the scheduler has dropped.
_GONE_WITHIN = 5.0
#: Minimum interval (seconds) between two "paused" events of the same runner.
_OFTEN = 10.0
#: Added to the event of boots for which the substrate has no room.
_WAITS = "; the others wait until a runner has gone, and are tried again now and then"
#: Delay (seconds) in which changes are collected for one decision if no call waits for a boot.
_CALM = 0.02


class FlameAdaptive(Adaptive):
    """Distributed's adaptive scaling, based on the fleets' decisions.

    Distributed's ``Adaptive`` estimates the remaining work at intervals. This class counts slots,
    and the scheduler wakes it whenever their number may have changed. The periodic call of the base
    class samples the history and serves as a safety net.

    Parameters
    ----------
    cluster : distributed.deploy.cluster.Cluster
        A running cluster, for the base class.
    parts : HostParts
    scheduler : FlameScheduler
    home : Home
    **kwargs
        Options of :class:`distributed.deploy.Adaptive`.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        parts: HostParts,
        scheduler: FlameScheduler,
        home: Home,
        **kwargs: Any,
    ) -> None:
        self.fleets = parts.fleets
        self.journal = parts.history.journal
        self._writer = JournalWriter(parts.history)
        self._timeline = parts.history.timeline
        self._placement = scheduler  # `scheduler` of the base class is a connection
        self._budget = BudgetWatch(parts.fleets, parts.history, scheduler)
        self._fix = parts.fix
        self.history: dict[str, deque[tuple[float, int, int, int, int, int]]] = {
            pool: deque(maxlen=_HISTORY) for pool, _ in self.fleets
        }
        self._left: set[str] = set()  # left the scheduler without a request
        self._paused_at: dict[str, float] = {}  # time of the last "paused" event
        self._paused: set[str] = set()  # runners with a "paused" event since they last took calls
        self._held: dict[str, str] = {}  # by pool: reason for which its calls wait
        self._woken = False
        self._over = False
        self._timer: asyncio.TimerHandle | None = None
        self._later: asyncio.TimerHandle | None = None
        self._callbacks = BackgroundThread("flame-callbacks")
        self._executor = DecisionExecutor(
            backend=parts.backend,
            scheduler=scheduler,
            home=home,
            fleets=parts.fleets,
            journal=parts.history.journal,
            stays=self._budget.stays,
            specs=parts.specs,
            ended=self.ended,
            accepted=self._accepted,
            done=self.wake,
        )
        default = self.fleets.policies[self.fleets.default]
        kwargs.setdefault("minimum", default.min)
        kwargs.setdefault("maximum", default.max)
        super().__init__(cluster, **kwargs)
        self._news = SchedulerNews(on_change=self._changed)
        scheduler.report_to(self._news)
        fleets = self.fleets.fleets
        scheduler.awaited_workers.follow(
            bound=lambda pool: fleets[pool].bound,
            coming=lambda pool: fleets[pool].count(Phase.BOOTING, Phase.READY),
        )

    # Interface of distributed's Adaptive

    async def target(self) -> int:
        return sum(f.target(self._placement.demand(pool)) for pool, f in self.fleets)

    async def adapt(self) -> None:
        self.decide()
        self._sample()

    def stop(self, reason: str = "unknown") -> None:
        """Stop following demand: keep the default pool's current number of runners.

        Lost runners are replaced. ``cluster.adapt()``, ``cluster.scale(n)`` and
        ``cluster.resize(…)`` end this state. Callable from any thread, and more than once.
        """
        self._fix()

    async def finish(self) -> None:
        """Make no more decisions and cancel those in progress, as the cluster closes."""
        self._over = True
        super().stop("cluster-closed")
        for timer in (self._timer, self._later):
            if timer is not None:
                timer.cancel()
        self._timer = self._later = None
        await self._executor.cancel()
        await in_thread(self._callbacks.close)

    # Deciding

    def wake(self) -> None:
        """Schedule one decision for all changes in this iteration of the event loop."""
        if not self._woken and not self._over:
            self._woken = True
            asyncio.get_running_loop().call_soon(self.decide)

    def _changed(self) -> None:
        """React to a change of demand or load; decide immediately if boots are due or in progress.

        Otherwise decide after a short delay. Without it, there would be two decisions per call,
        which slow down consecutive calls.
        """
        if self._woken or self._over:
            return
        waiting = self._placement.waiting
        # A plain loop is faster than any(); this runs several times per call.
        for pool, fleet in self.fleets.fleets.items():
            # Do not delay while runners boot: a new runner may be killed by its first call before
            # its registration is noted.
            if fleet.index.counts[Phase.BOOTING] or (not fleet.full and waiting(pool)):
                self.wake()
                return
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(_CALM, self.decide)

    def decide(self) -> None:
        """Report all changes to the fleets, and carry out their decisions."""
        self._woken = False
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._over:
            return
        now = time.monotonic()
        self._observe(now)
        self._budget.look(now)
        wakes = []
        for pool, fleet in self.fleets:
            fleet.taken_back(self._placement.withdrawn(pool))
            decision = fleet.decide(now, self._placement.demand(pool))
            self._carry_out(pool, fleet, decision)
            for seen in self._timeline.news(fleet.index, time.time(), self._placement.calls_on):
                self.journal.append(seen)
            wakes.append(decision.wake)
            if self.fleets.stopped or fleet.exhausted:
                self._refuse(pool, fleet)
            self._say_if_held(pool, fleet)
        wakes.append(self._budget.wake(now))
        self._wake_at(min((w for w in wakes if w is not None), default=None), now)

    def ended(self, what: Ended) -> None:
        """Handle the end of a runner, as reported by the backend."""
        now = time.monotonic()
        pool = self.fleets.of(what.name)
        if pool is None:
            return
        fleet = self.fleets.fleets[pool]
        member = fleet.members[what.name]
        scheduler = self._placement
        if refused := self._news.refused.get(what.name, ""):
            what = replace(what, why=refused, output="", final=True)
        booting = member.phase is Phase.BOOTING
        how_far = self._writer.how_far_one_came(what) if booting else ""
        at_fault = cause_in(what.output) if booting else ""
        printed = last_words(what.output)
        crowded = fleet.crowded
        phase = fleet.ended(
            what.name,
            now,
            what.why + ("" if what.no_capacity else how_far + at_fault + printed),
            no_room=what.no_room,
            final=what.final,
            no_capacity=what.no_capacity,
        )
        self._make_room(fleet, what)
        self._news.forget(what.name)
        self._paused_at.pop(what.name, None)
        self._paused.discard(what.name)
        self.fleets.forget(what.name)
        self._budget.forget(what.name)
        other = fleet.kinds.left(now) if what.no_capacity else None
        kind = "ended"
        if phase is Phase.BOOTING:
            kind = "failed" if other is None else "ended"
        elif not self._over and (phase is not Phase.ENDING or what.name in self._left):
            kind = "lost"
        self._left.discard(what.name)
        # A pause is not the reason why a runner was lost.
        seen_out = member.why and not (member.paused and kind == "lost")
        cause = f"{member.why} ({what.why})" if seen_out else what.why
        if phase is Phase.BOOTING and other is not None:
            told = self._writer.none_of_kind(pool, what, member.kind, other)
        elif kind != "failed":
            told = cause + printed if kind == "lost" else cause
        elif (what.no_room or what.no_capacity) and fleet.crowded:
            told = "" if crowded else f"{what.why}{how_far}{_WAITS}"
        else:
            told = self._writer.why_it_failed(pool, what, how_far, printed)
        took = now - member.asked
        queued = took - member.paid(now)
        self._writer.ended(what, pool, kind, told, took, queued=queued, kind=member.kind)
        # Also after a drain, as its calls may not have finished in time.
        scheduler.runner_ended(what.name, cause + printed)
        if not self._over:
            self.wake()

    def _make_room(self, fleet: Fleet, what: Ended) -> None:
        """Notify the other pools that a runner ended, as they may use its capacity."""
        if not (what.no_room or what.no_capacity):
            for _, other in self.fleets:
                if other is not fleet:
                    other.freed(time.monotonic())

    def reached(self, name: str, step: str) -> None:
        """Record that a runner's boot has reached a step."""
        self._writer.stepped(name, step)

    def held_up(self, name: str, why: str) -> None:
        """Record that a boot is held up, or no longer."""
        self._writer.held_up(name, self.fleets.of(name) or "", why)

    def queued(self, name: str, *, waits: bool) -> None:
        """Record that a boot waits its turn, or that its turn has come."""
        if (fleet := self.fleets.fleet_of(name)) is None:
            return
        if waits:
            fleet.queued(name)
        else:
            fleet.started(name, time.monotonic())
        self.wake()

    def _accepted(self, names: Collection[str]) -> None:
        for name in names:
            self.reached(name, ACCEPTED)

    def _observe(self, now: float) -> None:
        news = self._news.take()
        for name, done in news.set_up:
            self.reached(name, SETUP if done else SETTING_UP)
        for name in news.changed:
            pool = self.fleets.of(name)
            if pool is not None:
                self._see(name, pool, now, began=name in news.began)
        for pool, number in news.not_awaited:
            self.fleets.fleets[pool].awaited(number, now)
        for kind, text in news.happened:
            self.journal.note(kind, text)

    def _see(self, name: str, pool: str, now: float, *, began: bool) -> None:
        scheduler, fleet = self._placement, self.fleets.fleets[pool]
        member = fleet.members[name]
        if name in self._news.refused and member.phase is Phase.BOOTING:
            self._executor.end([name])  # in case it does not end by itself
            return
        if name not in scheduler.aliases:
            if member.phase in (Phase.READY, Phase.PAUSED, Phase.DRAINING):
                # It left by itself, or distributed dropped it: end it.
                fleet.leaving(name, now)
                if name not in self._news.retired:
                    self._left.add(name)
                limit = fleet.pool.shutdown_timeout
                # A retired runner exits normally; a dropped one may hang.
                grace = limit if name in self._news.retired else min(limit, _GONE_WITHIN)
                self._executor.end([name], grace=grace)
            return
        if not scheduler.is_up(name):
            return  # its plugins are still starting
        if member.phase is Phase.BOOTING:
            fleet.registered(name, now)
            self._writer.registered(name, pool, now - member.asked)
        load = scheduler.load(name)
        if began or load.busy:
            self.reached(name, FIRST_CALL)
        if began and not load.busy:
            # A call began and ended since the last decision: restart the idle time.
            fleet.load(name, 1, now)
        fleet.load(name, load.busy, now, held=load.held, overran=load.overran)
        self._see_pause(name, pool, load.paused, now)
        if member.phase in (Phase.READY, Phase.PAUSED) and name in self._news.leaving:
            why, limit = self._news.leaving[name], fleet.pool.shutdown_timeout
            fleet.drain(name, now, why, within=limit)
            why = f"{why}: no further calls; {load.busy} may take shutdown_timeout={limit:g} s"
            self.journal.note("leaving", why, runners=[name], pool=pool)
            # The substrate may end it before its calls finish: copy its results now.
            self._executor.save(name)
        elif member.phase is Phase.READY and load.spent:
            fleet.drain(name, now, "a call has ended on it (single_use)")

    def _see_pause(self, name: str, pool: str, why: str, now: float) -> None:
        fleet = self.fleets.fleets[pool]
        if not why:
            if fleet.resumed(name, now) and name in self._paused:
                self._paused.discard(name)
                self.journal.note("ready", "begins calls again", runners=[name], pool=pool)
        elif fleet.paused(name, now, why) and now >= self._paused_at.get(name, -math.inf) + _OFTEN:
            # At most one event per interval, as memory use may oscillate.
            self._paused_at[name] = now
            self._paused.add(name)
            why = f"{why}; it gets no calls, and ends if that does not change (memory=)"
            self.journal.note("paused", why, runners=[name], pool=pool)

    def _say_if_held(self, pool: str, fleet: Fleet) -> None:
        """Record one event when calls begin to wait for something that only the user can change."""
        scheduler = self._placement
        kind, held = "actors", scheduler.held_by_actors(pool, fleet.pool)
        if not fleet.bound[0] and not fleet.suspended and scheduler.waiting(pool):
            kind, held = "none", why_none(pool, fleet, default=pool == self.fleets.default)
        kind = kind if held else ""
        if kind and kind != self._held.get(pool):
            self.journal.note("waiting", f"calls wait: {held}", pool=pool)
        self._held[pool] = kind

    def _carry_out(self, pool: str, fleet: Fleet, decision: Decision) -> None:
        if (boots := decision.boot) is not None:
            self.fleets.booted(pool, boots.names)
            asked = fleet.members[boots.names[0]].asked
            self._writer.asked(pool, boots, asked, decision.numbers)
            self._executor.boot(boots.kinds)
            self._call_back(fleet.pool.on_grow, pool, fleet)
        if decision.retire:
            news = tuple(r for r in decision.retire if self._budget.is_news(r, fleet))
            if news:
                self._writer.retired(pool, fleet, replace(decision, retire=news))
            self._executor.retire(decision.retire)
            if news:
                self._call_back(fleet.pool.on_shrink, pool, fleet)
        if decision.check and fleet.pool.idle_check is not None:
            self._executor.check(decision.check, fleet.pool.idle_check)
        if decision.give_up is not None:
            self._give_up(pool, decision.give_up)
        elif self._placement.awaited_workers.waiting(pool) and (
            (give_up := fleet.give_up(time.monotonic())) is not None
        ):
            # Calls can use the current runners, but waits for more runners must fail.
            error, _ = boot_error(pool, give_up, self.fleets, self._writer)
            self._placement.awaited_workers.fail(pool, error)

    def _give_up(self, pool: str, give_up: GiveUp) -> None:
        error, why = boot_error(pool, give_up, self.fleets, self._writer)
        why = self._writer.messages.shorten(pool, give_up.runner, why)
        self._writer.messages.forget(pool)  # report failures in full again for later calls
        failed = self._placement.fail_waiting(error, pool)
        calls = "1 call that waited" if failed == 1 else f"{failed} calls that waited"
        # There may be no calls, as wait_for_workers() also boots runners.
        self.journal.note("failed", f"{calls if failed else 'no runner'}: {why}", pool=pool)

    def _refuse(self, pool: str, fleet: Fleet) -> None:
        """Fail the calls that wait for a runner which will not boot."""
        why = self.fleets.stopped or fleet.exhausted
        error = stopped_error(why) if self.fleets.stopped else self._budget.error(time.monotonic())
        if failed := self._placement.fail_waiting(error, pool):
            calls = "call that waited" if failed == 1 else "calls that waited"
            self.journal.note("failed", f"{failed} {calls}: {why}", pool=pool)

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
            demand = self._placement.demand(pool)
            sample = (time.time(), demand, booting, ready, busy, fleet.target(demand))
            history = self.history[pool]
            if (
                not history
                or sample[1:] != history[-1][1:]
                or sample[0] > history[-1][0] + _UNCHANGED
            ):
                history.append(sample)

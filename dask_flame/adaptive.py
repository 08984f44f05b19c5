"""Demand in, the fleet's decisions out, the backend called (driver)."""

from __future__ import annotations

import asyncio
import logging
import textwrap
import time
from collections import deque
from collections.abc import Collection, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from distributed.deploy.adaptive import Adaptive

from dask_flame.backends import Ended
from dask_flame.errors import BootError
from dask_flame.fleet import Boots, Phase, Retirement

if TYPE_CHECKING:
    from dask_flame.cluster import FlameCluster

logger = logging.getLogger("dask_flame")

#: Seconds of history kept for the dashboard's timeline, one sample a second.
_HISTORY = 600
_SHOWN_LINES = 25


class FlameAdaptive(Adaptive):
    """Distributed's adaptive scaling, with a fleet's decisions in place of the stock estimate.

    Stock adaptivity asks every so often how many seconds of work there are. This one counts slots,
    and is woken by the scheduler whenever their number may have changed; the periodic call of its
    base class only samples the history and is a safety net.

    Parameters
    ----------
    cluster : FlameCluster
        Must be running: its scheduler, fleet and backend are used directly.
    **kwargs
        What :class:`distributed.deploy.Adaptive` takes.
    """

    def __init__(self, cluster: FlameCluster, **kwargs: Any) -> None:
        self.fleet = cluster.fleet
        self.backend = cluster.backend
        self.events = cluster.events
        self.history: deque[tuple[float, int, int, int, int]] = deque(maxlen=_HISTORY)
        self._left: set[str] = set()  # gone from the scheduler without having been told to
        self._woken = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        kwargs.setdefault("minimum", self.fleet.pool.min)
        kwargs.setdefault("maximum", self.fleet.pool.max)
        super().__init__(cluster, **kwargs)
        cluster.scheduler.on_change = self.wake

    # What distributed's Adaptive is made of

    async def target(self) -> int:
        return self.fleet.target(self.cluster.scheduler.demand())

    async def adapt(self) -> None:
        self.decide()
        self._sample()

    def stop(self, reason: str = "unknown") -> None:
        """Decide nothing any more. What is under way goes on; see :meth:`finish`."""
        super().stop(reason)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def finish(self) -> None:
        """Stop, and break off what is under way."""
        self.stop("cluster-closed")
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Deciding

    @property
    def stopped(self) -> bool:
        return bool(self.state == "stopped")

    def wake(self) -> None:
        """Decide soon: once for all that changes in this turn of the event loop."""
        if not self._woken and not self.stopped:
            self._woken = True
            asyncio.get_running_loop().call_soon(self.decide)

    def decide(self) -> None:
        """Tell the fleet what has changed, and carry out what it decides."""
        self._woken = False
        if self.stopped:
            return
        now = time.monotonic()
        self._observe(now)
        scheduler = self.cluster.scheduler
        decision = self.fleet.decide(now, scheduler.demand())
        if decision.boot is not None:
            self._boot(decision.boot)
        if decision.retire:
            self._retire(decision.retire)
        if decision.give_up is not None:
            failed = scheduler.fail_waiting(BootError(self._explain(decision.give_up)))
            calls = "call that waited" if failed == 1 else "calls that waited"
            self.events.add("failed", f"{failed} {calls}: {decision.give_up}")
        self._wake_at(decision.wake, now)

    def ended(self, what: Ended) -> None:
        """The backend says that a runner is gone."""
        now = time.monotonic()
        why = what.why
        if tail := what.output.strip():
            why += "; it printed last:\n" + textwrap.indent(_last_lines(tail), "    ")
        phase = self.fleet.ended(what.name, now, why)
        self.cluster.scheduler.unwelcome.discard(what.name)
        if phase is Phase.BOOTING:
            self.events.add("failed", why, runners=[what.name])
        elif phase is Phase.READY or what.name in self._left:
            self._left.discard(what.name)
            self.events.add("lost", what.why, runners=[what.name])
        else:
            self.events.add("ended", what.why, runners=[what.name])
        if not self.stopped:
            self.wake()

    def _observe(self, now: float) -> None:
        scheduler = self.cluster.scheduler
        changed, scheduler.changed = scheduler.changed, set()
        for name in changed:
            member = self.fleet.members.get(name)
            if member is None:
                continue
            if name not in scheduler.aliases:
                if member.phase is Phase.READY:
                    # It left by itself, or distributed dropped it: see it out.
                    self.fleet.leaving(name, now)
                    self._left.add(name)
                    self._do(self._end([name], grace=self.fleet.pool.shutdown_timeout))
                continue
            if member.phase is Phase.BOOTING:
                self.fleet.registered(name, now)
                took = now - member.asked
                self.events.add("ready", f"registered {took:.2f} s after its boot", runners=[name])
            self.fleet.load(name, scheduler.load(name).busy, now)

    def _boot(self, boots: Boots) -> None:
        self.events.add("boot", boots.reason, runners=boots.names)
        self._do(self._start_up(boots.names))

    async def _start_up(self, names: Sequence[str]) -> None:
        try:
            await self.backend.boot([self.cluster.spec(name) for name in names])
        except Exception as error:
            logger.debug("boot refused", exc_info=True)
            await self._forget(names, f"could not be asked for: {type(error).__name__}: {error}")
        # Given up while the request was under way: nobody would ever end it.
        await self.backend.end([name for name in names if name not in self.fleet.members])

    async def _end(self, names: Collection[str], *, grace: float = 0) -> None:
        try:
            await self.backend.end(names, grace=grace)
        finally:
            await self._forget(names, "is not known to the backend")

    async def _forget(self, names: Collection[str], why: str) -> None:
        """Take runners that the backend does not have, and never reported, for ended."""
        there = await self.backend.list()
        for name in names:
            if name in self.fleet.members and name not in there:
                self.ended(Ended(name=name, why=why))

    def _retire(self, retirements: Sequence[Retirement]) -> None:
        scheduler = self.cluster.scheduler
        for reason in dict.fromkeys(item.reason for item in retirements):
            names = [item.name for item in retirements if item.reason == reason]
            self.events.add("retire", reason, runners=names)
        by_force = [item.name for item in retirements if item.force]
        in_peace = [item.name for item in retirements if not item.force]
        if by_force:
            scheduler.unwelcome.update(by_force)
            self._do(self._end(by_force))
        if in_peace:
            addresses = {name: scheduler.aliases[name] for name in in_peace}
            # From this moment on they are given nothing.
            scheduler.draining.update(addresses.values())
            self._do(self._see_home(addresses))

    async def _see_home(self, addresses: dict[str, str]) -> None:
        """Bring the results of idle runners home, then end them."""
        scheduler = self.cluster.scheduler
        gone: set[str] = set()
        why = "its results could not be moved"
        try:
            gone = await self.cluster.home.retire(addresses.values())
        except Exception as error:
            logger.debug("home failed", exc_info=True)
            why += f": {type(error).__name__}: {error}"
        gone |= {a for a in addresses.values() if a not in scheduler.workers}
        for name, address in addresses.items():
            if address not in gone:
                scheduler.draining.discard(address)
                self.fleet.kept(name, time.monotonic())
                self.events.add("kept", why, runners=[name])
        if len(gone) < len(addresses):
            scheduler.reopen()  # calls may have come while it was not given any
        ending = [name for name, address in addresses.items() if address in gone]
        await self._end(ending, grace=self.fleet.pool.shutdown_timeout)

    def _explain(self, why: str) -> str:
        return (
            f"no runner could start, so the calls that waited for one have failed: {why}\n"
            "What governs it: preload, env, boot_timeout and boot_attempts of the pool. See "
            "cluster.events and cluster.get_logs() for more; calls submitted from now on try again."
        )

    def _wake_at(self, when: float | None, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0, when - now), self.wake)

    def _do(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("carrying out a decision failed", exc_info=task.exception())
        if not self.stopped:
            self.wake()

    def _sample(self) -> None:
        fleet = self.fleet
        booting, ready = fleet.count(Phase.BOOTING), fleet.count(Phase.READY)
        busy = sum(m.phase is Phase.READY and m.busy > 0 for m in fleet.members.values())
        demand = self.cluster.scheduler.demand()
        self.history.append((time.time(), demand, booting, ready, busy))


def _last_lines(text: str) -> str:
    lines: Iterable[str] = text.splitlines()
    return "\n".join(list(lines)[-_SHOWN_LINES:])

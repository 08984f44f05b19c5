"""Carry out decisions: boot, drain and end runners (driver)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any

from distributed.protocol import pickle

from dask_flame.backends.base import Backend
from dask_flame.backends.specs import Ended, RunnerSpec
from dask_flame.comm.listener import SocketListener
from dask_flame.core.backoff import Backoff
from dask_flame.driver.fleets import PoolFleets
from dask_flame.errors import BackendError, PoolError
from dask_flame.history.journal import Journal
from dask_flame.scaling.fleet import Retirement
from dask_flame.scheduler.home.home import Home
from dask_flame.scheduler.scheduler import FlameScheduler

logger = logging.getLogger("dask_flame")

_CHECK_WITHIN = 10.0
_AGAIN_FIRST = 0.5
_AGAIN_MOST = 30.0


class DecisionExecutor:
    """Run operations on the backend and the runners, each in its own asyncio task.

    Parameters
    ----------
    backend : Backend
    scheduler : FlameScheduler
    home : Home
    fleets : PoolFleets
    journal : Journal
    stays : callable
        Called with the name and address of an idle runner that stays although the budget is spent,
        and the reason for which its results cannot be moved.
    specs : callable
        Takes the kinds of runners by their names; returns their launch specifications.
    ended : callable
        Called for each runner that the backend no longer lists but did not report as ended.
    accepted : callable
        Called with the names of runners whose request the backend has accepted.
    done : callable
        Called without arguments when an operation has finished.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        scheduler: FlameScheduler,
        home: Home,
        fleets: PoolFleets,
        journal: Journal,
        stays: Callable[[str, str, str], None],
        specs: Callable[[Mapping[str, str]], list[RunnerSpec]],
        ended: Callable[[Ended], None],
        accepted: Callable[[Collection[str]], None],
        done: Callable[[], None],
    ) -> None:
        self.backend = backend
        self._journal = journal
        self._scheduler = scheduler
        self._home = home
        self._fleets = fleets
        self._stays = stays
        self._specs = specs
        self._ended = ended
        self._accepted = accepted
        self._mistake = ""  # the last error of the backend's own code
        self._done = done
        self._tasks: set[asyncio.Task[Any]] = set()

    async def cancel(self) -> None:
        """Cancel all operations in progress."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def boot(self, kinds: Mapping[str, str]) -> None:
        """Request runners of these kinds, by name, from the backend, in one request."""
        self._do(self._boot(kinds))

    def retire(self, retirements: Sequence[Retirement]) -> None:
        """End these runners: by force, or after their results have moved to home."""
        scheduler = self._scheduler
        by_force = [item.name for item in retirements if item.force]
        in_peace = [item.name for item in retirements if not item.force]
        if by_force:
            scheduler.turn_away(by_force)
            self.end(by_force)
        addresses = {n: scheduler.aliases[n] for n in in_peace if n in scheduler.aliases}
        if addresses:
            # They get no more calls.
            scheduler.drain(*addresses.values())
            self._do(self._retire(addresses))
        if lost := [name for name in in_peace if name not in addresses]:
            self.end(lost)

    def save(self, name: str) -> None:
        """Copy this runner's results to home while it still runs."""
        address = self._scheduler.aliases.get(name)
        if address is not None:
            self._do(self._home.copy([address]))

    def end(self, names: Collection[str], *, grace: float = 0) -> None:
        """End these runners, and retry until the backend no longer lists them.

        Parameters
        ----------
        names : collection of str
        grace : float, default 0
            Seconds that they may take to exit.
        """
        self._do(self._end(names, grace=grace))

    def check(self, names: Collection[str], predicate: Callable[[], object]) -> None:
        """Evaluate `predicate` on these runners to decide whether they may end."""
        for name in names:
            self._do(self._check(name, predicate))

    async def _boot(self, names: Mapping[str, str]) -> None:
        try:
            specs = self._specs(names)
        except PoolError as error:
            # For example, a variable that the driver no longer has.
            for name in names:
                self._ended(Ended(name=name, why=f"was refused: {error}", final=True))
            return
        try:
            for listener in self._scheduler.listeners:
                if isinstance(listener, SocketListener):
                    listener.renew()
            await self.backend.boot(specs)
        except Exception as error:
            self._say_refused(error)
            await self._forget(names, f"could not be asked for: {type(error).__name__}: {error}")
        else:
            self._accepted(names)
        # Their boots were given up during the request: nothing else would end them.
        if unknown := [name for name in names if self._fleets.of(name) is None]:
            await self._end(unknown)

    def _say_refused(self, error: Exception) -> None:
        """Log that a boot was refused: an error that is none of the substrate, with its trace."""
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, BackendError | PoolError | OSError) or text == self._mistake:
            logger.debug("boot refused", exc_info=error)
            return
        self._mistake = text  # it is tried again, and the trace would be the same
        name = type(self.backend).__name__
        logger.error("%s.boot raised %s, which is no BackendError", name, text, exc_info=error)

    async def _end(self, names: Collection[str], *, grace: float = 0) -> None:
        left, backoff, said = set(names), Backoff(_AGAIN_FIRST, _AGAIN_MOST), ""
        while left:
            why = ""
            try:
                await self.backend.end(left, grace=grace)
            except Exception as error:
                logger.debug("could not be ended", exc_info=True)
                why = f"{type(error).__name__}: {error}"
            try:
                left &= await self.backend.list()
            except Exception as error:
                logger.debug("the backend cannot list its runners", exc_info=True)
                unlisted = f"the backend cannot list its runners: {type(error).__name__}: {error}"
                why = why or unlisted
            why = why or "the backend still has it"
            if left:
                if why != said:
                    self._journal.note(
                        "failed", f"could not be ended, trying on: {why}", runners=left
                    )
                said, grace = why, 0
                await asyncio.sleep(backoff.next())
        await self._forget(names, "is not known to the backend")

    async def _there(self) -> set[str] | None:
        """Return the names of the backend's runners; None if it cannot list them."""
        try:
            return await self.backend.list()
        except Exception:
            logger.debug("the backend cannot list its runners", exc_info=True)
            return None

    async def _forget(self, names: Collection[str], why: str) -> None:
        """Report the end of runners that the backend no longer lists but did not report."""
        backoff = Backoff(_AGAIN_FIRST, _AGAIN_MOST)
        while (there := await self._there()) is None:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(backoff.next())
        for name in names:
            if name not in there and self._fleets.of(name) is not None:
                self._ended(Ended(name=name, why=why))

    async def _retire(self, addresses: dict[str, str]) -> None:
        """Move the results of these runners to home, then end them."""
        scheduler = self._scheduler
        try:
            stay = dict(await self._home.retire(addresses.values()))
        except Exception as error:
            logger.debug("home failed", exc_info=True)
            why = f"its results could not be moved: {type(error).__name__}: {error}"
            stay = {a: why for a in addresses.values() if a in scheduler.workers}
        for name, address in addresses.items():
            if address in stay:
                self._keep(name, address, stay[address])
        ending = {name for name, address in addresses.items() if address not in stay}
        for name in ending:
            fleet = self._fleets.fleet_of(name)
            grace = fleet.pool.shutdown_timeout if fleet is not None else 0
            self.end([name], grace=grace)

    def _keep(self, name: str, address: str, why: str) -> None:
        fleet = self._fleets.fleet_of(name)
        if fleet is None:
            return
        fleet.kept(name, time.monotonic())
        if fleet.exhausted and not fleet.is_draining(name):
            self._stays(name, address, why)
            return
        self._journal.note("kept", why, runners=[name], pool=self._fleets.of(name))
        if not fleet.is_draining(name):
            self._scheduler.undrain(address)

    async def _check(self, name: str, predicate: Callable[[], object]) -> None:
        scheduler, fleet = self._scheduler, self._fleets.fleet_of(name)
        # A predicate that fails or cannot be evaluated must not keep a runner forever.
        may_end, problem = True, ""
        try:
            async with asyncio.timeout(_CHECK_WITHIN):
                worker = scheduler.rpc(scheduler.aliases[name])
                may_end, problem = await worker.flame_idle(function=pickle.dumps(predicate))
        except TimeoutError:
            problem = f"no answer within {_CHECK_WITHIN:g} s"
        except Exception as error:
            problem = f"could not be asked: {type(error).__name__}: {error}"
        if problem:
            why = f"idle_check has failed, so it may end: {problem}"
            self._journal.note("failed", why, runners=[name], pool=self._fleets.of(name))
        if fleet is not None:
            fleet.checked(name, time.monotonic(), may_end=bool(may_end))

    def _do(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("carrying out a decision failed", exc_info=task.exception())
        self._done()

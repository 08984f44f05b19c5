"""Waits for a number of runners, independent of calls (scheduler)."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from distributed import Status

from dask_flame.errors import PoolError
from dask_flame.scheduler.base import SchedulerBase
from dask_flame.scheduler.slots import Slots

#: Seconds for which runners are kept after the last request for them. A waiting client repeats its
#: request, and may disconnect.
LINGER = 3.0
#: Check at least this often (seconds), as a worker's status may change without a notification.
_LOOK_EVERY = 0.1


@dataclass
class WorkerWait:
    """A request for a number of runners of a pool.

    Attributes
    ----------
    pool : str
    number : int
    until : float, default inf
        End of the request, as :func:`time.monotonic`.
    """

    pool: str
    number: int
    until: float = math.inf


class AwaitedWorkers:
    """Requests for numbers of runners: these boot, and are kept while the requests last.

    Parameters
    ----------
    scheduler : SchedulerBase
    slots : Slots
        Knows the pool of each runner.
    """

    def __init__(self, scheduler: SchedulerBase, slots: Slots) -> None:
        self._scheduler = scheduler
        self._slots = slots
        self._waits: dict[object, list[WorkerWait]] = {}
        self._failing: dict[asyncio.Future[None], list[WorkerWait]] = {}
        self.bound: Callable[[str], tuple[float, str]] = lambda pool: (math.inf, "")
        self._coming: Callable[[str], int] = self.there

    def follow(
        self, *, bound: Callable[[str], tuple[float, str]], coming: Callable[[str], int]
    ) -> None:
        """Set the sources for the current sizes of pools.

        Parameters
        ----------
        bound : callable
            Returns the maximum number of runners of a pool now, and the reason.
        coming : callable
            Returns the number of runners of a pool, including booting ones.
        """
        self.bound, self._coming = bound, coming

    def wanted(self, pool: str) -> int:
        """Return the largest number of runners that is requested in a pool."""
        if not self._waits:
            return 0
        now = time.monotonic()
        waits = (wait for waits in self._waits.values() for wait in waits)
        return max((a.number for a in waits if a.pool == pool and a.until > now), default=0)

    def waiting(self, pool: str) -> bool:
        """Return whether a request waits for more runners of a pool than there are."""
        return any(self._lack(waits, pool) for waits in self._failing.values())

    def _lack(self, waits: list[WorkerWait], pool: str) -> bool:
        return any(wait.pool == pool and self.there(pool) < wait.number for wait in waits)

    def there(self, pool: str | None = None) -> int:
        """Return the number of runners, of one pool or of all, that take calls."""
        scheduler = self._scheduler
        return sum(
            ws.status is Status.running
            and ws.address not in scheduler.draining
            and ws.address not in scheduler.resting
            and pool in (None, self._slots.pool_at(ws.address))
            for ws in scheduler.workers.values()
        )

    def spread(self, number: int) -> dict[str, int]:
        """Distribute a number of runners over the pools.

        Current and booting runners count. Missing ones are assigned to the first pool, up to its
        limit, then to the others.

        Raises
        ------
        PoolError
            If the pools together may not have so many runners.
        """
        pools, missing = list(self._slots.pools), number
        plan = dict.fromkeys(pools, 0)
        for amount in (self._coming, lambda pool: number):
            for pool in pools:
                most = int(min(amount(pool), self.bound(pool)[0], number)) - plan[pool]
                more = max(0, min(missing, most))
                plan[pool] += more
                missing -= more
        if missing:
            raise _too_many(number, self.bound(pools[0])[1])
        return plan

    async def wait(
        self,
        key: object,
        plan: Mapping[str, int],
        *,
        total: float = math.inf,
        within: float = math.inf,
    ) -> bool:
        """Request runners, and wait until they take calls.

        The request lasts until :meth:`release`, but at most for `LINGER` seconds after this method
        has returned.

        Parameters
        ----------
        key : hashable
            Identifies the request; a repeated request replaces the earlier one.
        plan : mapping of str to int
            Numbers of runners by pool.
        total : int, default inf
            Also stop waiting when all pools together have this many runners.
        within : float, default inf
            Maximum wait in seconds.

        Returns
        -------
        bool
            False if the time ran out.

        Raises
        ------
        BootError
            If boots keep failing.
        PoolError
            If a pool may not have so many runners.
        """
        deadline = time.monotonic() + within
        waits = [WorkerWait(pool, number) for pool, number in plan.items()]
        self._waits[key] = waits
        changed, failed = asyncio.Event(), asyncio.get_running_loop().create_future()
        self._scheduler.waiters.add(changed)
        self._failing[failed] = waits
        self._scheduler.demand_changed()
        try:
            while missing := [wait for wait in waits if self.there(wait.pool) < wait.number]:
                if self.there() >= total:
                    break
                self._check(missing)
                if failed.done():
                    failed.result()
                if time.monotonic() >= deadline:
                    return False
                changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), _LOOK_EVERY)
            return True
        except BaseException:
            self.release(key)
            raise
        finally:
            self._scheduler.waiters.discard(changed)
            del self._failing[failed]
            failed.cancel()
            for wait in waits:
                wait.until = time.monotonic() + LINGER
            asyncio.get_running_loop().call_later(LINGER + 0.01, self._expire, key, waits)

    def _check(self, waits: list[WorkerWait]) -> None:
        for wait in waits:
            most, why = self.bound(wait.pool)
            if wait.number > most:
                raise _too_many(wait.number, why)

    def release(self, key: object) -> None:
        """End a request; the idle time of its runners begins now."""
        waits = self._waits.pop(key, None)
        if waits is not None:
            for wait in waits:
                self._scheduler.observer.not_awaited(wait.pool, wait.number)
            self._scheduler.demand_changed()

    def fail(self, pool: str, error: Exception) -> None:
        """Fail all requests that wait for more runners of a pool than there are."""
        for future, waits in self._failing.items():
            if self._lack(waits, pool) and not future.done():
                future.set_exception(error)
                future.exception()  # mark it as retrieved, so that asyncio does not warn
        for event in self._scheduler.waiters:
            event.set()

    def _expire(self, key: object, waits: list[WorkerWait]) -> None:
        if self._waits.get(key) is waits and all(a.until <= time.monotonic() for a in waits):
            self.release(key)


def _too_many(number: int, why: str) -> PoolError:
    runners = "1 runner is" if number == 1 else f"{number} runners are"
    return PoolError(f"{runners} asked for, and {why}")

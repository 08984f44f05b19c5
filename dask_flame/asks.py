"""Runners that somebody waits for by their number, without a call (scheduler)."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distributed import Status

from dask_flame.errors import PoolError

if TYPE_CHECKING:
    from dask_flame.scheduler import FlameScheduler

#: Seconds for which runners are wanted after their number was last asked for: a client asks again
#: and again while it waits, and may be gone.
LINGER = 3.0
#: Look at least this often (seconds): a worker's status may change without a note.
_LOOK_EVERY = 0.1


@dataclass
class Ask:
    """Somebody wants so many runners of a pool until a time (of :func:`time.monotonic`)."""

    pool: str
    number: int
    until: float = math.inf


class Asks:
    """The runners that are wanted by their number: they are booted, and kept while it is asked.

    Parameters
    ----------
    scheduler : FlameScheduler

    Attributes
    ----------
    bound : callable
        Says of a pool how many runners it may have now, and what bounds it.
    met : list of (str, int)
        Pools and numbers of asks that are over, until the reader takes them: the idle time of so
        many runners begins anew.
    """

    def __init__(self, scheduler: FlameScheduler) -> None:
        self._scheduler = scheduler
        self._asks: dict[object, Ask] = {}
        self._changed: set[asyncio.Event] = set()
        self._errors: dict[str, list[asyncio.Future[None]]] = {}
        self.bound: Callable[[str], tuple[float, str]] = lambda pool: (math.inf, "")
        self.met: list[tuple[str, int]] = []

    def wanted(self, pool: str) -> int:
        """Return how many runners of a pool are wanted by their number."""
        if not self._asks:
            return 0
        now = time.monotonic()
        numbers = (a.number for a in self._asks.values() if a.pool == pool and a.until > now)
        return max(numbers, default=0)

    def waiting(self, pool: str) -> bool:
        """Whether somebody waits for more runners of a pool than there are."""
        return bool(self._errors.get(pool))

    def there(self, pool: str | None = None) -> int:
        """Count the runners of a pool, or of all, that take calls."""
        scheduler = self._scheduler
        return sum(
            ws.status is Status.running
            and ws.address not in scheduler.draining
            and ws.address not in scheduler.resting
            and pool in (None, scheduler.slots.pool_at(ws.address))
            for ws in scheduler.workers.values()
        )

    async def wait(self, key: object, number: int, pool: str, *, within: float = math.inf) -> bool:
        """Want so many runners of a pool, and wait until they are there.

        They are wanted until :meth:`release`, or for a moment after this has returned for want of
        time.

        Parameters
        ----------
        key : hashable
            Who asks: the same one may ask again.
        number : int
        pool : str
        within : float
            Seconds to wait at most.

        Returns
        -------
        bool
            Whether they are there.

        Raises
        ------
        BootError
            If boots fail until those that wait are given up.
        PoolError
            If the pool may not have so many.
        """
        deadline = time.monotonic() + within
        ask = self._asks[key] = Ask(pool, number)
        changed, failed = asyncio.Event(), asyncio.get_running_loop().create_future()
        self._changed.add(changed)
        self._errors.setdefault(pool, []).append(failed)
        self._scheduler.note()
        try:
            while self.there(pool) < number:
                most, why = self.bound(pool)
                if number > most:
                    raise PoolError(f"{number} runners are asked for, and {why}")
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
            self._changed.discard(changed)
            self._errors[pool].remove(failed)
            failed.cancel()
            ask.until = time.monotonic() + LINGER
            asyncio.get_running_loop().call_later(LINGER + 0.01, self._expire, key, ask)

    def release(self, key: object) -> None:
        """Want these runners no longer; their idle time begins now."""
        ask = self._asks.pop(key, None)
        if ask is not None:
            self.met.append((ask.pool, ask.number))
            self._scheduler.note()

    def fail(self, pool: str, error: Exception) -> int:
        """Fail those that wait for runners of a pool; return their number."""
        waiting = [f for f in self._errors.get(pool, ()) if not f.done()]
        for future in waiting:
            future.set_exception(error)
            future.exception()  # seen, whoever looks
        self.look()
        return len(waiting)

    def look(self) -> None:
        """Have those that wait look again."""
        for event in self._changed:
            event.set()

    def _expire(self, key: object, ask: Ask) -> None:
        if self._asks.get(key) is ask and ask.until <= time.monotonic():
            self.release(key)

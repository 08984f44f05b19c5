"""The pace of requests that Fly allows: a token bucket for each action and identifier (driver)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """Requests a second, and how many may come at once after a pause."""

    per_second: float
    burst: int


#: https://fly.io/docs/machines/api/working-with-machines-api/#rate-limits: for each action, and
#: each machine if the path names one, else each app.
PUBLISHED = Rate(1.0, 3)
RATES: Mapping[str, Rate] = {"get": Rate(5.0, 10), "wait": Rate(5.0, 10)}
#: Buckets that are kept before those that are full again are dropped.
_KEPT = 256


class TokenBucket:
    """How long the next request has to wait; pure.

    It never lets more than ``burst + per_second * t`` requests through in any `t` seconds.

    Parameters
    ----------
    rate : Rate

    Examples
    --------
    >>> bucket = TokenBucket(Rate(1.0, 2))
    >>> [bucket.take(0.0), bucket.take(0.0), bucket.wait(0.0), bucket.wait(0.25), bucket.wait(1.0)]
    [None, None, 1.0, 0.75, 0.0]
    """

    def __init__(self, rate: Rate) -> None:
        self._period = 1.0 / rate.per_second
        self._slack = (rate.burst - 1) * self._period
        #: When the bucket is full again. One request moves it by the period.
        self._full = float("-inf")
        #: The earliest time of the next request, as the server has said.
        self._not_before = float("-inf")

    def wait(self, now: float) -> float:
        """Return the seconds until a request may be made; 0.0 for none."""
        return max(0.0, self._full - self._slack - now, self._not_before - now)

    def take(self, now: float) -> None:
        """Count a request that is made now."""
        self._full = max(self._full, now) + self._period

    def refused(self, now: float, wait: float) -> None:
        """Empty the bucket after a refusal: others use up the same limit.

        Parameters
        ----------
        now : float
        wait : float
            Seconds that the server wants the client to wait; 0.0 if it has not said.
        """
        self._full = max(self._full, now + self._slack + self._period)
        self._not_before = max(self._not_before, now + wait)

    def is_full(self, now: float) -> bool:
        """Return whether the bucket has forgotten all requests."""
        return now >= self._full and now >= self._not_before


class Pace:
    """Let requests pass one after the other, at the published rates.

    A request that is cancelled while it waits takes no place.

    Parameters
    ----------
    factor : float, default 1.0
        How many times more than the published rates Fly allows.
    clock, sleep : callable
        Replaceable, for tests.
    """

    def __init__(
        self,
        factor: float = 1.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._factor = factor
        self._clock = clock
        self._sleep = sleep
        self._buckets: dict[tuple[str, str], TokenBucket] = {}
        self._turns: dict[tuple[str, str], asyncio.Lock] = {}

    def rate(self, action: str) -> Rate:
        """Return the rate that is kept to for an action.

        Of a burst one request is left out, because requests may arrive closer to each other than
        they were sent.
        """
        rate = RATES.get(action, PUBLISHED)
        return Rate(rate.per_second * self._factor, rate.burst - 1)

    async def turn(self, action: str, identifier: str) -> None:
        """Wait until a request may be made, and count it."""
        key = (action, identifier)
        self._forget()
        lock = self._turns.setdefault(key, asyncio.Lock())
        async with lock:  # first come, first served
            bucket = self._bucket(key)
            while wait := bucket.wait(self._clock()):
                await self._sleep(wait)
            bucket.take(self._clock())

    def refused(self, action: str, identifier: str, wait: float) -> None:
        """Slow down after the server has refused a request for its pace."""
        self._bucket((action, identifier)).refused(self._clock(), wait)

    def _bucket(self, key: tuple[str, str]) -> TokenBucket:
        if key not in self._buckets:
            self._buckets[key] = TokenBucket(self.rate(key[0]))
        return self._buckets[key]

    def _forget(self) -> None:
        """Drop the buckets of machines that have not been asked for lately."""
        if len(self._turns) < _KEPT:
            return
        now = self._clock()
        for key, lock in list(self._turns.items()):
            bucket = self._buckets.get(key)
            if not lock.locked() and (bucket is None or bucket.is_full(now)):
                del self._turns[key]
                self._buckets.pop(key, None)

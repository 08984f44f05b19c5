"""Retry boots on a substrate that has no room for more runners; no I/O, no clock.

A quota below ``max`` is not a failure: the existing runners do the work. Requesting all missing
runners again and again would only produce refusals, each with a warning.
"""

from __future__ import annotations

import math

#: Seconds until a retry when no runner has ended: other tenants may have freed room.
PAUSE = 30.0
#: Seconds until the first retry after a runner has ended: quota may lag behind for a moment.
_FIRST = 1.0


class RoomBackoff:
    """The state of refused boots, and the time of the next attempt.

    Attributes
    ----------
    there : bool
        Whether boots are being refused, so that only a few are requested at a time.
    """

    def __init__(self) -> None:
        self.there = False
        self._refused_at = -math.inf
        self._pause = PAUSE
        self._try_at = -math.inf
        self._room = 0  # estimated number of runners that fit

    def refused(self, now: float) -> None:
        """Record that a boot was refused for lack of room."""
        self.there, self._room, self._refused_at = True, 0, now
        self._try_at = now + self._pause

    def freed(self, now: float) -> None:
        """Record that a runner on this substrate ended."""
        if self.there:
            self._room += 1
            self._try_at, self._pause = now, _FIRST

    def came_up(self, asked: float, now: float) -> None:
        """Record that a boot requested at time ``asked`` succeeded: there may be room for more."""
        if self.there and asked > self._refused_at:
            self._room += 2
            self._try_at, self._pause = now, PAUSE

    def satisfied(self, now: float) -> None:
        """Record that no more runners are wanted."""
        if now >= self._try_at:
            self.there, self._pause = False, PAUSE

    def clear(self) -> None:
        """Reset: without any runner in the pool, a refusal is a failure."""
        self.there = False

    def may_boot(self, number: int, now: float) -> tuple[int, float | None]:
        """Return how many of these boots to request now, or else when to retry."""
        if not self.there:
            return number, None
        if now < self._try_at:
            return 0, self._try_at
        number = min(number, max(1, self._room))
        self._room, self._try_at = 0, now + self._pause
        self._pause = min(2 * self._pause, PAUSE)
        return number, None

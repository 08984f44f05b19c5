"""How a pool tries to boot where its substrate has no room for more, with no I/O and no clock.

A quota below ``max`` is no failure: the runners that there are do the work. To ask for the others
again and again would only have each of them refused, with a warning.
"""

from __future__ import annotations

import math

#: Seconds until it is tried again though no runner has gone: others may have made room.
PAUSE = 30.0
#: The first such time after a runner has gone: the substrate may count it for a moment longer.
_FIRST = 1.0


class Crowd:
    """What has been refused for want of room, and when it is tried again.

    Attributes
    ----------
    there : bool
        Whether something was, so that boots are asked for a few at a time.
    """

    def __init__(self) -> None:
        self.there = False
        self._refused_at = -math.inf
        self._pause = PAUSE
        self._try_at = -math.inf
        self._room = 0  # how many there may be room for, as far as is known

    def refused(self, now: float) -> None:
        """A boot was refused as there is no room beside the runners that there are."""
        self.there, self._room, self._refused_at = True, 0, now
        self._try_at = now + self._pause

    def freed(self, now: float) -> None:
        """A runner of this substrate has gone."""
        if self.there:
            self._room += 1
            self._try_at, self._pause = now, _FIRST

    def came_up(self, asked: float, now: float) -> None:
        """A boot that was asked for at this time has come up: there was room, and may be more."""
        if self.there and asked > self._refused_at:
            self._room += 2
            self._try_at, self._pause = now, PAUSE

    def satisfied(self, now: float) -> None:
        """No more runners are wanted than there are."""
        if now >= self._try_at:
            self.there, self._pause = False, PAUSE

    def clear(self) -> None:
        """None of the pool's runners is there: what is refused now has failed."""
        self.there = False

    def may_boot(self, number: int, now: float) -> tuple[int, float | None]:
        """Say how many of these boots to ask for now, or else when to look again."""
        if not self.there:
            return number, None
        if now < self._try_at:
            return 0, self._try_at
        number = min(number, max(1, self._room))
        self._room, self._try_at = 0, now + self._pause
        self._pause = min(2 * self._pause, PAUSE)
        return number, None

"""Tell how far the creation of many machines has come, while Fly limits it (driver)."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds between two texts: each is one event.
_EVERY = 5.0


class CreationNews:
    """Count the machines that wait to be created, and those that were.

    Parameters
    ----------
    trouble : callable
        Called with a runner's name and a text; an empty text ends it.
    rate : float
        Machines that Fly creates in a second.
    burst : int
        Machines that it creates at once. Nothing is said while no more are waiting.
    clock : callable
        Replaceable, for tests.
    """

    def __init__(
        self,
        trouble: Callable[[str, str], None],
        *,
        rate: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trouble = trouble
        self._limit = "one" if rate == 1 else f"{rate:g}"
        self._burst = burst
        self._clock = clock
        self._waiting: dict[str, None] = {}
        self._told: set[str] = set()
        self._made = self._total = 0
        self._last = float("-inf")

    @property
    def waiting(self) -> bool:
        """Whether runners wait for their machines to be created."""
        return bool(self._waiting)

    def joined(self, name: str) -> None:
        """Note a runner whose machine is to be created."""
        if not self._waiting:
            self._made = self._total = 0
            self._last = float("-inf")
        self._waiting[name] = None
        self._total += 1

    def created(self, name: str) -> None:
        """Note that a runner's machine was created."""
        self._made += 1
        self.left(name)

    def left(self, name: str) -> None:
        """Note that a runner does not wait any more, and tell the others how it goes on."""
        if self._waiting.pop(name, "") == "":
            return
        if name in self._told:
            self._told.discard(name)
            self._trouble(name, "")
        now = self._clock()
        if len(self._waiting) < self._burst or now < self._last + _EVERY:
            return
        self._last = now
        text = f"creating {self._made}/{self._total}, limited by Fly to {self._limit} a second"
        for waiting in self._waiting:
            self._told.add(waiting)
            self._trouble(waiting, text)

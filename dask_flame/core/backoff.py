"""Delays that double with each attempt, up to a maximum (all places). No I/O, no clock."""

from __future__ import annotations

import random


def doubled(first: float, times: int, longest: float) -> float:
    """Return a delay that was doubled several times.

    Parameters
    ----------
    first : float
        The initial delay, in seconds.
    times : int
        How often it is doubled.
    longest : float
        The maximum, in seconds.

    Examples
    --------
    >>> [doubled(0.5, times, 30) for times in (0, 1, 2, 1000)]
    [0.5, 1.0, 2.0, 30]
    """
    # Doubling more than 64 times makes no difference, and a float would overflow.
    return min(first * float(1 << min(times, 64)), longest)


class Backoff:
    """The delays of one series of attempts.

    Parameters
    ----------
    first, longest : float
        The delay after the first attempt, and the maximum, in seconds.

    Examples
    --------
    >>> backoff = Backoff(1, 5)
    >>> [backoff.next() for _ in range(4)]
    [1.0, 2.0, 4.0, 5]
    >>> backoff.reset()
    >>> backoff.next()
    1.0
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest = first, longest
        self._attempts = 0

    def next(self) -> float:
        """Return the delay until the next attempt, in seconds."""
        self._attempts += 1
        return doubled(self._first, self._attempts - 1, self._longest)

    def next_with_jitter(self) -> float:
        """Return a random delay between half and all of it, so that many clients spread out."""
        return self.next() * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start again with the first delay."""
        self._attempts = 0

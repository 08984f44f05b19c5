"""Limit how many lines are shown, and count the dropped ones (all places). No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass

#: An empty bucket stays closed until it holds this many seconds' worth of lines. Otherwise a flood
#: would show single lines, each with a message about the lines dropped before it.
_PAUSE = 1.0


#: Message about dropped lines: their number, and where to find them.
_LEFT_OUT = "\N{HORIZONTAL ELLIPSIS} {:,} {} not shown; {}\n"


def left_out(count: int, rest: str) -> str:
    """Return a message about dropped lines, and where to find them."""
    return _LEFT_OUT.format(count, "line" if count == 1 else "lines", rest)


@dataclass(frozen=True, slots=True)
class Limits:
    """Maximum number of lines to show.

    Attributes
    ----------
    burst : int, default 200
        Lines of one call at once.
    rate : float, default 20
        Lines of one call per second, after the burst.
    total_burst : int, default 1,000
        Lines of all calls at once.
    total_rate : float, default 200
        Lines of all calls per second, after the burst.
    """

    burst: int = 200
    rate: float = 20
    total_burst: int = 1_000
    total_rate: float = 200


class RateLimit:
    """Token bucket with one token for each line.

    Once empty, it gives no token until it holds a second's worth again.

    Parameters
    ----------
    burst : int
        Capacity of the bucket, and its content at the start.
    rate : float
        Tokens per second.

    Attributes
    ----------
    left_out : int
        Lines dropped since the last :meth:`take_left_out`.

    Examples
    --------
    >>> limit = RateLimit(burst=3, rate=2)
    >>> limit.offer(5, now=0.0), limit.offer(1, now=0.9), limit.offer(1, now=1.1)
    (3, 0, 1)
    >>> limit.take_left_out()
    3
    """

    __slots__ = ("_burst", "_closed", "_filled_at", "_rate", "_reopen_at", "_tokens", "left_out")

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = self._tokens = float(burst)
        self._rate = rate
        self._reopen_at = min(self._burst, max(1.0, rate * _PAUSE))
        self._filled_at = float("-inf")
        self._closed = False
        self.left_out = 0

    @property
    def pause(self) -> float:
        """Seconds for which an empty bucket gives no token."""
        return self._reopen_at / self._rate

    def offer(self, lines: int, now: float) -> int:
        """Return how many of these lines may be shown, and count the others as dropped."""
        if now > self._filled_at:
            self._fill(now)
        if self._closed:
            self._closed = self._tokens < self._reopen_at
        if not self._closed and lines <= self._tokens:
            self._tokens -= lines
            return lines
        given = 0
        if not self._closed:
            given = int(self._tokens)
            self._tokens -= given
            self._closed = True
        self.left_out += lines - given
        return given

    def full_enough(self, now: float) -> bool:
        """Return whether the bucket would give a token now."""
        self._fill(now)
        return self._tokens >= self._reopen_at

    def take_left_out(self) -> int:
        """Return the number of dropped lines, and reset it."""
        said, self.left_out = self.left_out, 0
        return said

    def _fill(self, now: float) -> None:
        if now > self._filled_at:
            full = self._tokens + (now - self._filled_at) * self._rate
            self._tokens = self._burst if full > self._burst else full
            self._filled_at = now

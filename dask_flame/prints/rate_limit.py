"""How many lines may be shown, and how many were not (all). No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds' worth of lines that have to be there before any is shown again: else what is shown of a
#: flood would be one line now and then, each with a word on those left out before it.
_PAUSE = 1.0


#: Says how many lines were left out, and where they may be.
_LEFT_OUT = "\N{HORIZONTAL ELLIPSIS} {:,} {} not shown; {}\n"


def left_out(count: int, rest: str) -> str:
    """A line on so many lines that are not shown, and where they are."""
    return _LEFT_OUT.format(count, "line" if count == 1 else "lines", rest)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many lines are shown.

    Attributes
    ----------
    burst : int
        Of one call, at once.
    rate : float
        Of one call, a second, from then on.
    total_burst, total_rate : int, float
        Of all together.
    """

    burst: int = 200
    rate: float = 20
    total_burst: int = 1_000
    total_rate: float = 200


class RateLimit:
    """A bucket of tokens, one for each line, that is filled at a rate.

    When it is empty it gives none before there is a second's worth again.

    Parameters
    ----------
    burst : int
        Tokens that it holds, and has at first.
    rate : float
        Tokens a second.

    Attributes
    ----------
    left_out : int
        Lines that had none, since that was last said.

    Examples
    --------
    >>> limit = RateLimit(burst=3, rate=2)
    >>> limit.offer(5, now=0.0), limit.offer(1, now=0.9), limit.offer(1, now=1.1)
    (3, 0, 1)
    >>> limit.say()
    3
    """

    __slots__ = ("_again", "_at", "_burst", "_dry", "_rate", "_tokens", "left_out")

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = self._tokens = float(burst)
        self._rate = rate
        self._again = min(self._burst, max(1.0, rate * _PAUSE))
        self._at = float("-inf")
        self._dry = False
        self.left_out = 0

    @property
    def pause(self) -> float:
        """Seconds for which it gives none, once it is empty."""
        return self._again / self._rate

    def offer(self, lines: int, now: float) -> int:
        """How many of these lines may be shown, the first ones; the others are left out."""
        if now > self._at:
            self._fill(now)
        if self._dry:
            self._dry = self._tokens < self._again
        if not self._dry and lines <= self._tokens:
            self._tokens -= lines
            return lines
        given = 0
        if not self._dry:
            given = int(self._tokens)
            self._tokens -= given
            self._dry = True
        self.left_out += lines - given
        return given

    def full_enough(self, now: float) -> bool:
        """Whether it would give again."""
        self._fill(now)
        return self._tokens >= self._again

    def say(self) -> int:
        """How many were left out, which is being said."""
        said, self.left_out = self.left_out, 0
        return said

    def _fill(self, now: float) -> None:
        if now > self._at:
            full = self._tokens + (now - self._at) * self._rate
            self._tokens = self._burst if full > self._burst else full
            self._at = now

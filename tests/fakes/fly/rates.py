"""Rate limits of the fake Fly API: a token bucket per action and identifier (test process)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """Requests a second, and how many at once."""

    per_second: float
    burst: int


#: The published limits: one request a second and three at once for each action and identifier;
#: more for "get". A wait is a get that takes longer.
DEFAULT = Rate(1.0, 3)
RATES: Mapping[str, Rate] = {"get": Rate(5.0, 10), "wait": Rate(5.0, 10)}


class Buckets:
    """Takes one token a request, and says how long the next one takes when there is none.

    Parameters
    ----------
    speed : float
        How many times faster than the published rates the buckets fill.
    rates : mapping of str to Rate, optional
        By action. The default is the published rates.
    default : Rate, optional
        Of all other actions.
    clock : callable
        Returns seconds.

    Examples
    --------
    >>> buckets = Buckets(clock=lambda: 0.0)
    >>> [buckets.take("create", "app") for _ in range(4)]
    [0.0, 0.0, 0.0, 1.0]
    """

    def __init__(
        self,
        *,
        speed: float = 1.0,
        rates: Mapping[str, Rate] | None = None,
        default: Rate = DEFAULT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.enforced = True
        self._speed = speed
        self._rates = RATES if rates is None else rates
        self._default = default
        self._clock = clock
        self._levels: dict[tuple[str, str], tuple[float, float]] = {}

    def take(self, action: str, identifier: str) -> float:
        """Take a token; return 0.0, or the seconds until there is one."""
        if not self.enforced:
            return 0.0
        rate = self._rates.get(action, self._default)
        now = self._clock() * self._speed
        level, since = self._levels.get((action, identifier), (float(rate.burst), now))
        level = min(float(rate.burst), level + (now - since) * rate.per_second)
        # A refused request costs nothing.
        granted = level >= 1.0 - 1e-9
        self._levels[action, identifier] = (level - 1.0 if granted else level), now
        return 0.0 if granted else (1.0 - level) / rate.per_second / self._speed

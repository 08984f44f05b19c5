"""Decide how long to keep an idle runner, from the boots and the gaps seen; no I/O, no clock.

Whether to keep an idle runner is the ski rental problem: to keep it is to rent, to boot another one
when the next call comes is to buy. Without knowledge of the future, the best guarantee is to keep
it for as long as a boot takes, the break-even time: boots and idle time then cost at most twice
what they would cost with the future known, the first boot included (Karlin, Manasse, Rudolph and
Sleator: Competitive snoopy caching, Algorithmica 3, 1988). No other fixed time guarantees that.

A time that changes may: most gaps are cheaper than the guarantee allows for. What has been saved so
far is a credit, within which the time may differ from the break-even time, towards the one that
would have been cheapest for the gaps seen. The credit never falls below zero, so the factor of two
holds at every moment, whatever the gaps are. A random time would have a better guarantee (1.58),
but only on average, and nobody could tell from an event why a runner has ended.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from dataclasses import dataclass
from itertools import accumulate
from statistics import median

#: Numbers of boots and of gaps to remember: enough for a habit, and few enough to notice a new one.
_BOOTS, _GAPS = 20, 64
#: Number of gaps from which on they are considered.
_ENOUGH = 8
#: Keep a runner for this much longer than the longest gap to be bridged, as gaps vary.
_MARGIN = 1.25
#: Leave the break-even time only if the gaps seen would have cost less than this share.
_WORTH = 0.9
#: Decide again once the credit has grown by this factor: it grows a little with each call.
_MORE = 1.1
#: Number of ended runners whose next call is awaited.
_AWAY = 10_000
#: Seconds until a boot has been measured.
UNKNOWN = 60.0


@dataclass(frozen=True, slots=True)
class IdleFigure:
    """How long to keep an idle runner, and why.

    Attributes
    ----------
    seconds : float
    why : str
        Empty if the user has chosen it.
    """

    seconds: float
    why: str = ""

    @property
    def rounded(self) -> float:
        """The seconds, to be shown."""
        return round(self.seconds, 0 if self.seconds >= 100 else 2) if self.why else self.seconds

    @property
    def said(self) -> str:
        """The figure as a part of the reason for which a runner ends."""
        if not self.why:
            return f"idle_timeout={self.seconds:g} s"
        return f'idle_timeout="auto", now {self.rounded:g} s: {self.why}'


@dataclass(frozen=True, slots=True)
class _Away:
    """A runner that ended because it was idle.

    Attributes
    ----------
    since : float
        Time of its last call.
    kept : float
        Seconds for which it was kept after that.
    reserved : float
        The part of the credit that its end may cost, depending on when the next call comes.
    """

    since: float
    kept: float
    reserved: float


class BreakEven:
    """The observations of one pool, and the idle timeout that follows from them.

    Costs are in seconds of runners. A boot costs the median time of the last boots.

    Parameters
    ----------
    bounds : (float, float)
        Minimum and maximum of the idle timeout, in seconds. They come before the guarantee: a
        minimum above the time of a boot may cost that much for each gap.

    Attributes
    ----------
    bounds : (float, float)
    credit : float
        How much less than twice the cost of a known future boots and idle time have cost so far,
        the first boots not included; in seconds of runners, never below zero.
    """

    def __init__(self, bounds: tuple[float, float]) -> None:
        self.credit = 0.0
        self._bounds = bounds
        self._boots: deque[float] = deque(maxlen=_BOOTS)
        self._gaps: deque[float] = deque(maxlen=_GAPS)
        self._away: OrderedDict[str, _Away] = OrderedDict()
        self._figure: IdleFigure | None = None  # None: something has changed since
        self._of = (0, 0.0)  # number of runners, and the credit, that the figure was made with

    @property
    def bounds(self) -> tuple[float, float]:
        return self._bounds

    @bounds.setter
    def bounds(self, bounds: tuple[float, float]) -> None:
        self._bounds, self._figure = bounds, None

    # Observations

    def booted(self, seconds: float) -> None:
        """Record the time of a boot, from the request to the registration."""
        self._boots.append(seconds)
        self._figure = None

    def bridged(self, gap: float) -> None:
        """Record that a runner got a call after it had been idle for so many seconds."""
        if gap <= self.boot + self.credit:  # else something else kept it, such as `min`
            self._earn(2 * min(gap, self.boot) - gap)
        self._see(gap)

    def ended(self, name: str, since: float, now: float) -> None:
        """Record that a runner ends because it is idle.

        Parameters
        ----------
        name : str
        since : float
            Time since which it is idle.
        now : float
        """
        away = _Away(since, now - since, min(self.credit, abs(self.boot - (now - since))))
        self._earn(-away.reserved)
        self._away[name] = away
        while len(self._away) > _AWAY:
            self._away.popitem(last=False)

    def stayed(self, name: str) -> None:
        """Record that a runner did not end after all."""
        if (away := self._away.pop(name, None)) is not None:
            self._earn(away.reserved)

    def came_back(self, now: float) -> None:
        """Record that calls need a runner in addition to those that are there."""
        if not self._away:
            return  # a first boot, which a known future would not have saved
        # The one that had a call last is the one that calls need first.
        _, away = self._away.popitem()
        gap = now - away.since
        self._earn(away.reserved + 2 * min(gap, self.boot) - away.kept - self.boot)
        self._see(gap)

    def _earn(self, seconds: float) -> None:
        # The cost of the bounds does not count: this rule is not to make up for it.
        self.credit = max(0.0, self.credit + seconds)
        if seconds < 0:
            self._figure = None

    def _see(self, gap: float) -> None:
        if gap >= self._bounds[0]:  # shorter ones are bridged in any case
            self._gaps.append(gap)
            self._figure = None

    # Decision

    @property
    def boot(self) -> float:
        """The cost of a boot in seconds; before the first one, a guess."""
        return median(self._boots) if self._boots else UNKNOWN

    def figure(self, runners: int) -> IdleFigure:
        """Return the idle timeout.

        Parameters
        ----------
        runners : int
            Number of runners that may become idle: they share the credit.
        """
        number, credit = self._of
        if self._figure is None or runners != number or self.credit > _MORE * credit:
            self._figure, self._of = self._decide(runners), (runners, self.credit)
        return self._figure

    def _decide(self, runners: int) -> IdleFigure:
        boot, (least, most) = self.boot, self._bounds
        share = self.credit / max(1, runners)
        best = self._cheapest(boot, max(least, boot - share), min(most, boot + share))
        took = f"a boot takes {boot:.2g} s" if boot < 1 else f"a boot takes {boot:.3g} s"
        if not self._boots:
            why = "no boot has been measured yet"
        elif best is not None:
            why = f"cheapest for the last {len(self._gaps)} gaps between calls, as {took}"
        else:
            why = f"as long as a boot takes (the median of {len(self._boots)})"
        seconds = boot if best is None else best
        if seconds < least:
            return IdleFigure(least, f"the least of idle_bounds, as {took}")
        if seconds > most:
            return IdleFigure(most, f"the most of idle_bounds, as {took}")
        return IdleFigure(seconds, why)

    def _cheapest(self, boot: float, low: float, high: float) -> float | None:
        """Return the time that would have been cheapest for the gaps seen; None if break-even."""
        gaps = sorted(self._gaps)
        if len(gaps) < _ENOUGH or not low < high:
            return None
        sums = [0.0, *accumulate(gaps)]

        def cost(time: float) -> float:
            bridged = bisect_right(gaps, time)
            return sums[bridged] + (len(gaps) - bridged) * (time + boot)

        times = {low, *(min(max(_MARGIN * gap, low), high) for gap in gaps)}
        best = min(times, key=lambda time: (cost(time), abs(time - boot)))
        return best if cost(best) < _WORTH * cost(boot) else None

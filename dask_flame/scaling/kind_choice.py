"""Choose the kinds of the runners to boot, by the refusals seen; no I/O, no clock.

A pool's kinds are in order of preference. All runners of a wave are of the first kind of which the
substrate is not known to have none. A kind of which it had none is tried again later with one
runner, so that a wave never waits for a kind that is still missing; if that runner comes up, the
kind counts as available. Runners that exist are not replaced by those of a better kind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dask_flame.core.text import split_advice, with_advice

#: Seconds in which refusals are collected, so that other kinds are asked for in one wave.
SETTLE = 0.1
#: Characters of a refusal in a reason for a boot.
_LONGEST = 300


@dataclass(slots=True)
class _Refusal:
    """A kind of which the substrate had none.

    Attributes
    ----------
    at : float
        When it was refused last.
    retry_at : float
        When to try it again.
    why : str
        The substrate's statement.
    told : bool
        Whether the reason for a boot has mentioned the statement.
    room : int
        Number of runners of this kind that have ended since.
    """

    at: float
    retry_at: float
    why: str
    told: bool = False
    room: int = 0


class KindChoice:
    """The kinds of one pool, and the refusals of each.

    Parameters
    ----------
    kinds : sequence of str
        Names of the kinds, the preferred one first; one at least.
    retry : float
        Seconds after which a refused kind is tried again.

    Attributes
    ----------
    settled_at : float
        Time before which further refusals of the same wave are likely.
    """

    def __init__(self, kinds: Sequence[str], retry: float) -> None:
        self.kinds = tuple(kinds)
        self.settled_at = -math.inf
        self._retry = retry
        self._refusals: dict[str, _Refusal] = {}

    def change(self, kinds: Sequence[str]) -> None:
        """Change the kinds; the refusals of those that stay remain."""
        self.kinds = tuple(kinds)
        self._refusals = {k: r for k, r in self._refusals.items() if k in self.kinds}

    # Events

    def refused(self, kind: str, now: float, why: str) -> None:
        """Record that the substrate had none of a kind.

        Parameters
        ----------
        kind : str
        now : float
        why : str
            The substrate's statement.
        """
        if kind in self.kinds:
            if now >= self.settled_at:
                self.settled_at = now + SETTLE
            told = (known := self._refusals.get(kind)) is not None and known.told
            self._refusals[kind] = _Refusal(now, now + self._retry, why, told)

    def came_up(self, kind: str, asked: float) -> None:
        """Record that a boot requested at time ``asked`` succeeded: there may be more of its kind.

        A boot that was requested before the last refusal says nothing about the time after it.
        """
        if (refusal := self._refusals.get(kind)) is not None and asked > refusal.at:
            del self._refusals[kind]

    def freed(self, kind: str, now: float) -> None:
        """Record that a runner of this kind ended, so that there may be one of it again."""
        if (refusal := self._refusals.get(kind)) is not None:
            refusal.room += 1
            refusal.retry_at = now

    # Choices

    def left(self, now: float) -> str | None:
        """Return the kind to try next, without the ones that are refused; None if all are."""
        return next((kind for kind in self.kinds if self._may_try(kind, now)), None)

    def _may_try(self, kind: str, now: float) -> bool:
        return kind not in self._refusals or now >= self._refusals[kind].retry_at

    def choose(self, number: int, now: float) -> list[str]:
        """Return the kind of each of so many runners.

        Kinds that are due to be tried again get one runner each, or as many as have ended of them.
        All others are of the first kind that is not refused; if all are refused, of the kind whose
        next attempt is due first.

        Parameters
        ----------
        number : int
            Number of runners, above zero.
        now : float
        """
        chosen: list[str] = []
        for kind in self.kinds:
            missing = number - len(chosen)
            if (refusal := self._refusals.get(kind)) is None:
                return chosen + [kind] * missing
            if missing and now >= refusal.retry_at:
                chosen += [kind] * min(missing, max(1, refusal.room))
                self._tried(refusal, now)
        if missing := number - len(chosen):
            kind = min(self.kinds, key=lambda kind: self._refusals[kind].retry_at)
            chosen += [kind] * missing
            self._tried(self._refusals[kind], now)
        return chosen

    def _tried(self, refusal: _Refusal, now: float) -> None:
        refusal.retry_at, refusal.room = now + self._retry, 0

    # Words

    def said(self, chosen: Sequence[str]) -> str:
        """Return the chosen kinds, and why not better ones, as part of a sentence.

        Empty if there is only one kind. Each refusal is quoted once.
        """
        if len(self.kinds) == 1:
            return ""
        numbers = {kind: chosen.count(kind) for kind in self.kinds if kind in chosen}
        words = [
            f"{number} of {kind}{' to see if there are any again' * (kind in self._refusals)}"
            for kind, number in numbers.items()
        ]
        worst = max(map(self.kinds.index, chosen))
        better = [k for k in self.kinds[:worst] if k in self._refusals and k not in chosen]
        return ", ".join(words) + "".join(f"; {self._reason(kind)}" for kind in better)

    def _reason(self, kind: str) -> str:
        refusal = self._refusals[kind]
        if refusal.told:
            return f"{kind} has none"
        refusal.told = True
        why, _ = split_advice(refusal.why)
        return f"{kind} has none: {why if len(why) <= _LONGEST else why[:_LONGEST] + '…'}"

    @property
    def reasons(self) -> str:
        """The statements about all kinds that are refused, in order of preference.

        The settings behind them come once, at the end.
        """
        refused = [kind for kind in self.kinds if kind in self._refusals]
        if len(self.kinds) == 1:
            return self._refusals[refused[0]].why if refused else ""
        parts = {kind: split_advice(self._refusals[kind].why) for kind in refused}
        said = "; ".join(f"{kind} has none: {why}" for kind, (why, _) in parts.items())
        advice = "; ".join(dict.fromkeys(settings for _, settings in parts.values() if settings))
        return with_advice(said, advice) if advice else said

"""What a cluster has spent of its budget, and when the next threshold is reached; pure."""

from __future__ import annotations

from dataclasses import dataclass

from dask_flame.core.budget import Budget

#: Share of the budget at which to warn.
WARN_AT = 0.8
#: Relative error of sums of times: a share this close to a threshold has reached it.
_ALIKE = 1e-9


@dataclass(frozen=True, slots=True)
class Spending:
    """The state of a budget at one moment.

    Attributes
    ----------
    budget : Budget
    spent : float
        In the units of the budget's amount.
    rate : float
        What the present runners spend in a second.
    """

    budget: Budget
    spent: float
    rate: float = 0.0

    @property
    def share(self) -> float:
        """The part of the budget that is spent; above 1 once running calls have exceeded it."""
        return self.spent / self.budget.amount

    @property
    def low(self) -> bool:
        """Whether it is time to warn."""
        return self.share >= WARN_AT * (1 - _ALIKE)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left."""
        return self.share >= 1 - _ALIKE

    @property
    def lasts(self) -> float | None:
        """Seconds until it is exhausted at the present rate; None if that is never, or past."""
        return self._until(1.0)

    @property
    def next_in(self) -> float | None:
        """Seconds until the next threshold is reached at the present rate; None if never."""
        return self._until(1.0) if self.low else self._until(WARN_AT)

    def _until(self, share: float) -> float | None:
        missing = share * self.budget.amount - self.spent
        if self.exhausted or self.rate <= 0:
            return None
        return max(0.0, missing) / self.rate

    def __str__(self) -> str:
        percent = int(100 * self.share * (1 + _ALIKE))  # not 100 before it is exhausted
        return f"{self.budget.said(self.spent)} of {self.budget} ({percent} %)"

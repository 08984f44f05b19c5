"""What runners have cost so far: their time, and money where a price is known (driver)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dask_flame.core import config
from dask_flame.core.text import duration
from dask_flame.history.state import PoolSummary


@dataclass(frozen=True, slots=True)
class Cost:
    """What the runners of one pool have cost since the cluster began.

    Attributes
    ----------
    pool : str
    runner_seconds : float
        From the request for a runner to its end, or until now, summed over all there have been.
    busy_seconds : float
        For how long of that runners had a call.
    gpu_seconds : float
        `runner_seconds` times the GPUs of a runner.
    amount : float or None
        In units of `currency`: the runner-hours times ``price`` of the :class:`Pool`. None where
        it has none. It is what the runners were there for, not the substrate's bill, which may
        count by the minute, or a machine that runners share.
    currency : str
        ``flame.currency``.
    """

    pool: str
    runner_seconds: float
    busy_seconds: float
    gpu_seconds: float
    amount: float | None
    currency: str

    def __str__(self) -> str:
        words = [f"{duration(self.runner_seconds)} of runners"]
        if self.gpu_seconds:
            words.append(f"{duration(self.gpu_seconds)} of GPUs")
        if self.runner_seconds:
            share = min(1.0, self.busy_seconds / self.runner_seconds)
            words.append(f"busy for {100 * share:.0f} % of it")
        if self.amount is not None:
            words.append(money(self.amount, self.currency))
        return f"{self.pool}: {', '.join(words)}"


class Costs(dict[str, Cost]):
    """The cost of each pool, by name; shown as a line each."""

    @property
    def runner_seconds(self) -> float:
        """Of all pools."""
        return sum(cost.runner_seconds for cost in self.values())

    @property
    def amount(self) -> float | None:
        """Of all pools; None where one of them that has had runners has no price."""
        used = [cost.amount for cost in self.values() if cost.runner_seconds]
        known = [amount for amount in used if amount is not None]
        return sum(known) if len(known) == len(used) else None

    def __repr__(self) -> str:
        lines = [str(cost) for cost in self.values()]
        if len(self) > 1 and self.amount is not None:
            currency = next(iter(self.values())).currency
            lines.append(f"together: {money(self.amount, currency)}")
        return "\n".join(lines)


def costs(pools: Iterable[PoolSummary]) -> Costs:
    """Return the cost of these pools."""
    currency = str(config.get("currency"))
    return Costs(
        {
            pool.name: Cost(
                pool.name,
                paid,
                pool.busy_seconds,
                paid * pool.gpus,
                amount(paid, pool.price),
                currency,
            )
            for pool in pools
            if (paid := pool.runner_seconds) is not None
        }
    )


def amount(runner_seconds: float, price: float | None) -> float | None:
    """What runners have cost at a price by the hour."""
    return None if price is None else runner_seconds / 3600 * price


def money(amount: float, currency: str | None = None) -> str:
    """An amount, to be read: a sign is written before it, a word behind; ``flame.currency``."""
    currency = str(config.get("currency")) if currency is None else currency
    number = f"{amount:,.2f}" if amount >= 1 or not amount else f"{amount:.4f}"
    return f"{number} {currency}" if currency.isalpha() else f"{currency}{number}"

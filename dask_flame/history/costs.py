"""The cost of runners so far: their time, and money if a price is known (driver)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dask_flame.core import config
from dask_flame.core.text import duration
from dask_flame.history.state import PoolSummary


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one pool's runners since the cluster started.

    Attributes
    ----------
    pool : str
    runner_seconds : float
        Seconds from the request for a runner to its end, or until now, summed over all runners.
    busy_seconds : float
        Part of `runner_seconds` in which the runner had a call.
    gpu_seconds : float
        `runner_seconds` times the GPUs of a runner.
    amount : float or None
        Runner-hours times ``price`` of the :class:`Pool`, in units of `currency`; None if the pool
        has no price. The provider's bill may differ, for example if it counts minutes, or if
        runners share a machine.
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
    """The cost of each pool, by name; displayed as one line for each pool."""

    @property
    def runner_seconds(self) -> float:
        """Sum over all pools, in seconds."""
        return sum(cost.runner_seconds for cost in self.values())

    @property
    def amount(self) -> float | None:
        """Sum over all pools; None if a pool that has had runners has no price."""
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
    """Return the cost of runners at a price per hour."""
    return None if price is None else runner_seconds / 3600 * price


def money(amount: float, currency: str | None = None) -> str:
    """Format an amount: a currency sign comes first, a word last; ``flame.currency`` by default."""
    currency = str(config.get("currency")) if currency is None else currency
    number = f"{amount:,.2f}" if amount >= 1 or not amount else f"{amount:.4f}"
    return f"{number} {currency}" if currency.isalpha() else f"{currency}{number}"

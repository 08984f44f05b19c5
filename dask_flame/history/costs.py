"""The cost of runners so far: their time, and money if a price is known (driver)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from dask_flame.core import config
from dask_flame.core.budget import Budget
from dask_flame.core.kinds import price_of
from dask_flame.core.pool import Pool
from dask_flame.core.text import duration
from dask_flame.history.state import PoolSummary
from dask_flame.history.usage import PoolUsage
from dask_flame.scaling.budget import Spending
from dask_flame.scaling.runner_index import RunnerState


@dataclass(frozen=True, slots=True)
class KindCost:
    """The cost of the runners of one kind.

    Attributes
    ----------
    kind : str
    runner_seconds : float
    amount : float or None
    currency : str
        As those of :class:`Cost`.
    """

    kind: str
    runner_seconds: float
    amount: float | None
    currency: str

    def __str__(self) -> str:
        cost = "" if self.amount is None else f", {money(self.amount, self.currency)}"
        return f"{self.kind}: {duration(self.runner_seconds)} of runners{cost}"


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one pool's runners since the cluster started.

    Attributes
    ----------
    pool : str
    runner_seconds : float
        Seconds from the request for a runner to its end, or until now, summed over all runners.
        Time in the queue of the substrate does not count (jobs of Slurm, full hosts of SSH).
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
    kinds : tuple of KindCost
        The parts of it by kind of runner, if the pool has several.
    """

    pool: str
    runner_seconds: float
    busy_seconds: float
    gpu_seconds: float
    amount: float | None
    currency: str
    kinds: tuple[KindCost, ...] = ()

    def __str__(self) -> str:
        words = [f"{duration(self.runner_seconds)} of runners"]
        if self.gpu_seconds:
            words.append(f"{duration(self.gpu_seconds)} of GPUs")
        if self.runner_seconds:
            share = min(1.0, self.busy_seconds / self.runner_seconds)
            words.append(f"busy for {100 * share:.0f} % of it")
        if self.amount is not None:
            words.append(money(self.amount, self.currency))
        rows = [f"    {kind}" for kind in self.kinds]
        return "\n".join([f"{self.pool}: {', '.join(words)}", *rows])


class Costs(dict[str, Cost]):
    """The cost of each pool, by name; displayed as one line for each pool.

    Attributes
    ----------
    budget : Spending or None
        The state of the cluster's budget, with its ``share``; None without a budget.
    """

    budget: Spending | None = None

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
        if self.budget is not None:
            lines.append(f"budget: {self.budget}")
        return "\n".join(lines)


def costs(pools: Iterable[PoolSummary], budget: Spending | None = None) -> Costs:
    """Return the cost of these pools, with the state of their budget."""
    currency = str(config.get("currency"))
    found = Costs(
        {
            pool.name: Cost(
                pool.name,
                paid,
                pool.busy_seconds,
                paid * pool.gpus,
                amount_of(pool),
                currency,
                kind_costs(pool, currency),
            )
            for pool in pools
            if (paid := pool.runner_seconds) is not None
        }
    )
    found.budget = budget
    return found


def spending(
    budget: Budget, pools: Iterable[tuple[Pool, PoolUsage, Collection[RunnerState]]], now: float
) -> Spending:
    """Return the state of a budget.

    Parameters
    ----------
    budget : Budget
    pools : iterable of (Pool, PoolUsage, collection of RunnerState)
        Each pool with its present runners. Those without a price cost no money.
    now : float
        The time on the clock of the runners.
    """
    counted = list(pools)

    def spent(now: float) -> float:
        if not budget.currency:
            return sum(usage.paid(members, now) for _, usage, members in counted)
        return sum(
            amount(seconds, policy.price_of(kind)) or 0.0
            for policy, usage, members in counted
            for kind, seconds in usage.paid_by_kind(members, now).items()
        )

    # The present runners cost the same in each second.
    return Spending(budget, spent(now), spent(now + 1) - spent(now))


def amount_of(pool: PoolSummary) -> float | None:
    """Return the cost of a pool's runners; None if the price of one that it has had is unknown."""
    if not isinstance(pool.price, Mapping):
        return amount(pool.runner_seconds or 0.0, pool.price)
    known = [amount(s, price_of(pool.price, kind)) for kind, s in pool.kinds.items() if s]
    return None if None in known else sum(part for part in known if part is not None)


def kind_costs(pool: PoolSummary, currency: str) -> tuple[KindCost, ...]:
    """Return the cost of each kind of runner that a pool has had; empty if there was only one."""
    had = {kind: seconds for kind, seconds in pool.kinds.items() if seconds}
    if len(had) < 2:
        return ()
    return tuple(
        KindCost(kind, seconds, amount(seconds, price_of(pool.price, kind)), currency)
        for kind, seconds in had.items()
    )


def amount(runner_seconds: float, price: float | None) -> float | None:
    """Return the cost of runners at a price per hour."""
    return None if price is None else runner_seconds / 3600 * price


def money(amount: float, currency: str | None = None) -> str:
    """Format an amount: a currency sign comes first, a word last; ``flame.currency`` by default."""
    currency = str(config.get("currency")) if currency is None else currency
    number = f"{amount:,.2f}" if amount >= 1 or not amount else f"{amount:.4f}"
    return f"{number} {currency}" if currency.isalpha() else f"{currency}{number}"

"""Follow a cluster's budget: warn, stop boots, and fail calls once it is exhausted (driver)."""

from __future__ import annotations

import time
from collections.abc import Hashable

from dask_flame.core.budget import Budget
from dask_flame.core.text import duration
from dask_flame.driver.fleets import PoolFleets
from dask_flame.errors import BudgetExhausted
from dask_flame.history.costs import spending
from dask_flame.history.records import History
from dask_flame.scaling.budget import Spending
from dask_flame.scaling.fleet import Fleet, Phase, Retirement
from dask_flame.scheduler.scheduler import FlameScheduler


def spent_of(fleets: PoolFleets, history: History, now: float) -> Spending | None:
    """Return the state of the budget of a cluster; None if it has none.

    Parameters
    ----------
    fleets : PoolFleets
    history : History
    now : float
        The time on the clock of the runners.
    """
    if fleets.budget is None:
        return None
    pools = [
        (fleet.pool, history.usage[name], list(fleet.members.values())) for name, fleet in fleets
    ]
    return spending(fleets.budget, pools, now)


def changed_text(new: Budget | None, old: Budget | None, spent: Spending | None) -> str:
    """Return the text of the event for a budget that the user has changed."""
    was = "there was none" if old is None else f'it was "{old}"'
    if new is None:
        return f"budget=None: no limit from now on ({was})"
    used = "" if spent is None else f"; {spent} is spent"
    return f'budget="{new}" ({was}){used}'


class BudgetWatch:
    """Compare the cost of the runners with the budget before each decision.

    Parameters
    ----------
    fleets : PoolFleets
    history : History
    scheduler : FlameScheduler
    """

    def __init__(self, fleets: PoolFleets, history: History, scheduler: FlameScheduler) -> None:
        self._fleets = fleets
        self._history = history
        self._scheduler = scheduler
        self._last: Spending | None = None
        self._of: Hashable = None  # numbers of runners and the prices that `_last` was made with
        self._due: float | None = None
        self._warned: Budget | None = None  # the budget that was warned about
        self._stopped = False  # and whether an event has said that it is exhausted
        self._drained: set[str] = set()  # addresses of runners that get no calls for this reason
        self._staying: dict[str, Hashable] = {}  # idle runners that cannot end, and the reason told

    def look(self, now: float) -> None:
        """Update the fleets: whether they may boot runners, and keep idle ones."""
        spent = self._spent(now)
        if spent is None or not spent.exhausted:
            if any(fleet.exhausted for _, fleet in self._fleets):
                self._resume()
        else:
            for name, fleet in self._fleets:
                counts = spent.budget.counts(fleet.pool)
                fleet.exhausted = _why(spent) if counts else ""
                if counts:
                    self._give_no_calls(fleet)
                elif self._drained:
                    self._take_calls(name)
        if spent is not None and spent.low:
            self._say(spent)
        else:
            self._warned, self._stopped = None, False

    def wake(self, now: float) -> float | None:
        """Return when the next threshold is reached, unless the number of runners changes."""
        self._spent(now)
        return self._due

    def error(self, now: float) -> BudgetExhausted:
        """Return the error for calls that wait for a runner, with the figure of this moment."""
        spent = spent_of(self._fleets, self._history, now)
        assert spent is not None
        return BudgetExhausted(
            f"the budget of this cluster is spent, {spent}, so no runner boots for this call; "
            f"calls that run may finish. To go on, write {_line(spent)} and "
            "client.retry(futures), as Dask gives the same call the same error for as long as its "
            "future is held"
        )

    def stays(self, name: str, address: str, why: str) -> None:
        """Warn of an idle runner whose results cannot be moved, once until the reason changes.

        It is not ended: the result that it has is paid for. It gets no calls.

        Parameters
        ----------
        name, address : str
        why : str
            The reason for which its results cannot be moved.
        """
        self._drained.add(address)
        reason = (self._fleets.budget, why)
        if self._staying.get(name) == reason:
            return
        self._staying[name] = reason
        spent = spent_of(self._fleets, self._history, time.monotonic())
        line = "cluster.budget = None" if spent is None else _line(spent)
        self._history.journal.note(
            "budget",
            f"stays although the budget is spent, so that its results are not lost, and goes on "
            f"costing: {why}. It ends once their futures are released (del future), or takes calls "
            f"again after {line}",
            runners=[name],
            pool=self._fleets.of(name),
        )

    def is_news(self, item: Retirement, fleet: Fleet) -> bool:
        """Return whether a retirement is more than another attempt that a warning tells of."""
        return item.name not in self._staying or item.reason != fleet.exhausted

    def forget(self, name: str) -> None:
        """Forget a runner that has ended."""
        self._staying.pop(name, None)

    def _spent(self, now: float) -> Spending | None:
        """Return the state of the budget; it is computed only if it may matter."""
        fleets, usage = self._fleets, self._history.usage
        if fleets.budget is None:
            self._of = self._last = self._due = None
            return None
        numbers = [
            (usage[name].boots, *usage[name].ended.values(), fleet.turns, fleet.pool.price)
            for name, fleet in fleets
        ]
        of = (fleets.budget, *numbers)
        if of == self._of and (self._due is None or now < self._due):
            return self._last
        self._of, self._last = of, spent_of(fleets, self._history, now)
        rest = None if self._last is None else self._last.next_in
        self._due = None if rest is None else now + rest
        return self._last

    def _say(self, spent: Spending) -> None:
        """Record one event at each threshold of a budget."""
        if self._warned != spent.budget:
            self._warned, self._stopped = spent.budget, False
            if not spent.exhausted:
                rest = spent.lasts
                when = "" if rest is None else f", at the present rate in {duration(rest)}"
                self._note(
                    spent,
                    f"{spent} is spent; at 100 %{when}, no runner boots any more and calls that "
                    f"wait fail; {_line(spent)} raises it",
                )
        if spent.exhausted and not self._stopped:
            self._stopped = True
            free = [name for name, f in self._fleets if not spent.budget.counts(f.pool)]
            on = f" (pools without a price go on: {', '.join(free)})" if free else ""
            self._note(
                spent,
                f"{spent} is spent: no runner boots any more, idle ones end, calls that run may "
                f"finish, and calls that wait fail{on}; {_line(spent)} raises it",
            )

    def _note(self, spent: Spending, text: str) -> None:
        amount = spent.budget.amount
        self._history.journal.note("budget", text, spent=spent.spent, budget=amount)

    def _give_no_calls(self, fleet: Fleet) -> None:
        """Keep calls off runners that are there for their running calls only."""
        scheduler = self._scheduler
        for name, member in fleet.members.items():
            address = scheduler.aliases.get(name)
            if address is None or address in scheduler.draining:
                continue
            if member.phase in (Phase.READY, Phase.PAUSED):
                scheduler.drain(address)
                self._drained.add(address)

    def _take_calls(self, pool: str) -> None:
        """Let the runners of a pool that have not been asked to end take calls again."""
        scheduler, fleet = self._scheduler, self._fleets.fleets[pool]
        for name, member in fleet.members.items():
            address = scheduler.aliases.get(name)
            if address in self._drained and member.phase in (Phase.READY, Phase.PAUSED):
                scheduler.undrain(address)
                self._drained.discard(address)

    def _resume(self) -> None:
        for name, fleet in self._fleets:
            fleet.exhausted = ""
            self._take_calls(name)
        self._drained.clear()
        self._staying.clear()


def _why(spent: Spending) -> str:
    return f'the budget of "{spent.budget}" is spent'


def _line(spent: Spending) -> str:
    enough = spent.budget.doubled
    while enough.amount <= spent.spent:
        enough = enough.doubled
    return f'cluster.budget = "{enough}"'

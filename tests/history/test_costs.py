"""``cluster.cost()``: the time of runners, and money."""

from __future__ import annotations

import time
from typing import Any

import dask.config
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame import FlameCluster, Pool, PoolError
from dask_flame.core.budget import checked_budget
from dask_flame.history.costs import amount, costs, money
from dask_flame.history.journal import RunnerEnded
from dask_flame.history.state import PoolSummary
from dask_flame.history.usage import UsageByPool
from dask_flame.scaling.budget import Spending
from dask_flame.scaling.fleet import Fleet
from dask_flame.scaling.runner_index import Phase, RunnerState
from tests.support.waiting import wait_for


def pool(name: str = "gpu", **changes: Any) -> PoolSummary:
    used = {"runner_seconds": 7200.0, "busy_seconds": 3600.0, "gpus": 2, "price": 2.5}
    return PoolSummary(name, min=0, max=8, concurrency=1, **{**used, **changes})


@pytest.mark.unit
def test_a_line_for_each_pool_and_the_sum() -> None:
    one = costs([pool()])
    assert repr(one) == "gpu: 2 h 00 min of runners, 4 h 00 min of GPUs, busy for 50 % of it, $5.00"
    assert (one["gpu"].amount, one["gpu"].gpu_seconds) == (5.0, 14_400)
    both = costs([pool(), pool("cpu", gpus=0, price=0.1, runner_seconds=3600.0)])
    assert repr(both).splitlines()[1:] == [
        "cpu: 1 h 00 min of runners, busy for 100 % of it, $0.1000",
        "together: $5.10",
    ]
    assert both.amount == pytest.approx(5.1)
    assert both.runner_seconds == 10_800


@pytest.mark.unit
def test_without_a_price_there_is_no_amount() -> None:
    one = costs([pool(price=None)])
    assert one["gpu"].amount is None
    assert one.amount is None
    assert "$" not in repr(one)
    # A pool that had no runner needs no price.
    idle = pool("cpu", price=None, runner_seconds=0.0, busy_seconds=0.0)
    assert costs([pool(), idle]).amount == 5.0
    assert costs([]).amount == 0


@pytest.mark.unit
def test_a_further_line_for_the_budget() -> None:
    spent = Spending(checked_budget("budget", "20 USD"), 5.0)
    one = costs([pool()], spent)
    assert one.budget == spent
    assert repr(one).splitlines()[1:] == ["budget: 5.00 USD of 20 USD (25 %)"]
    assert costs([pool()]).budget is None


@pytest.mark.unit
@given(st.floats(0, 1e9), st.floats(0.001, 1e4))
def test_an_amount_is_hours_times_the_price(seconds: float, price: float) -> None:
    assert amount(seconds, price) == pytest.approx(seconds * price / 3600)
    assert amount(seconds, None) is None


@pytest.mark.unit
def test_a_pool_of_several_kinds_has_a_row_for_each() -> None:
    kinds = {"H100": 3600.0, "A100, spot": 3600.0, "L4": 0.0}
    mixed = pool(kinds=kinds, price={"H100": 4.0, "A100": 2.0, "spot": 1.0})
    assert repr(costs([mixed])).splitlines() == [
        "gpu: 2 h 00 min of runners, 4 h 00 min of GPUs, busy for 50 % of it, $6.00",
        "    H100: 1 h 00 min of runners, $4.00",
        "    A100, spot: 1 h 00 min of runners, $2.00",
    ]
    # One that it had before its options changed has no price any more.
    unknown = costs([pool(kinds=kinds, price={"H100": 4.0})])
    assert unknown.amount is None
    assert [part.amount for part in unknown["gpu"].kinds] == [4.0, None]
    # With one kind, nothing is told apart.
    one = costs([pool(kinds={"H100": 7200.0, "A100": 0.0}, price={"H100": 4.0})])
    assert one["gpu"].kinds == ()
    assert one.amount == 8.0


@pytest.mark.unit
@given(st.dictionaries(st.sampled_from("abcd"), st.floats(0, 1e6), min_size=1))
def test_the_rows_of_a_pool_add_up(kinds: dict[str, float]) -> None:
    prices = {kind: 1.0 + n for n, kind in enumerate("abcd")}
    paid = sum(kinds.values())
    cost = costs([pool(kinds=kinds, price=prices, runner_seconds=paid)])["gpu"]
    assert cost.amount == pytest.approx(sum(prices[k] * s / 3600 for k, s in kinds.items()))
    if cost.kinds:
        assert sum(part.amount or 0 for part in cost.kinds) == pytest.approx(cost.amount)
        assert sum(part.runner_seconds for part in cost.kinds) == pytest.approx(paid)


@pytest.mark.unit
def test_usage_is_counted_by_kind() -> None:
    usage = UsageByPool(["gpu"])
    for kind, seconds in (("H100", 5.0), ("A100", 2.0), ("A100", 3.0)):
        usage.apply(
            RunnerEnded(
                at=0, pool="gpu", runner="r", how="ended", why="", seconds=seconds, kind=kind
            )
        )
    alive = [RunnerState("s", Phase.READY, 90.0, 95.0, kind="H100", timed_from=90.0)]
    assert usage["gpu"].paid_by_kind(alive, 100.0) == {"H100": 15.0, "A100": 5.0}
    assert usage["gpu"].paid(alive, 100.0) == 20.0


@pytest.mark.unit
def test_time_in_a_queue_costs_nothing() -> None:
    usage = UsageByPool(["gpu"])
    for runner, seconds, queued in (("r-1", 7200.0, 7190.0), ("r-2", 50.0, 50.0)):
        usage.apply(
            RunnerEnded(
                at=0,
                pool="gpu",
                runner=runner,
                how="ended",
                why="",
                seconds=seconds,
                queued=queued,
                kind="A100",
            )
        )
    assert (usage["gpu"].runner_seconds, usage["gpu"].kind_seconds) == (10.0, {"A100": 10.0})
    fleet = Fleet(Pool(max=4))
    boots = fleet.decide(0, 4).boot
    assert boots is not None
    waits, begins, ready, ends = boots.names
    for name in boots.names:
        fleet.queued(name)
    fleet.started(begins, 4000)
    fleet.registered(ready, 4005)  # nobody said that its turn had come
    last = fleet.members[ends]
    fleet.ended(ends, 4005, "was cancelled")
    alive = fleet.members.values()
    assert {member.name: member.paid(4010) for member in alive} == {waits: 0, begins: 10, ready: 5}
    assert usage["gpu"].paid(alive, 4010) == 25
    assert last.paid(4005) == 0
    assert fleet.turns == 6


@pytest.mark.unit
def test_a_currency_is_a_sign_or_a_word() -> None:
    assert [money(0.0), money(0.0123), money(1234.5)] == ["$0.00", "$0.0123", "$1,234.50"]
    with dask.config.set({"flame.currency": "EUR"}):
        assert money(3.0) == "3.00 EUR"


@pytest.mark.unit
def test_a_price_is_a_number() -> None:
    for wrong in (0, -1, "2", True, float("inf")):
        with pytest.raises(PoolError, match=r"price=.* is not a number above zero; write price=2"):
            Pool(price=wrong)
    assert Pool(price=3).price == 3.0
    assert Pool().price is None
    with dask.config.set({"flame.pool.price": 0.5}):
        assert Pool().price == 0.5


@pytest.mark.process
@pytest.mark.parametrize("price", [None, 36.0])
def test_of_a_cluster_while_it_runs_and_after(flame: Any, price: float | None) -> None:
    cluster, client = flame(max=2, gpus=1, price=price)
    assert isinstance(cluster, FlameCluster)
    assert cluster.cost().runner_seconds == 0
    client.gather(client.map(time.sleep, [0.3, 0.3], pure=False))
    used = cluster.cost()["default"]
    assert 0.6 < used.busy_seconds <= used.runner_seconds == used.gpu_seconds
    wait_for(lambda: cluster.cost()["default"].runner_seconds > used.runner_seconds)
    if price is None:
        assert used.amount is None
    else:
        assert used.amount == pytest.approx(used.runner_seconds / 100)
        assert "of runners so far, $" in cluster._repr_html_()
    client.close()
    cluster.close()
    came_to = cluster.cost()
    assert came_to["default"].runner_seconds >= used.runner_seconds
    assert cluster.cost() == came_to

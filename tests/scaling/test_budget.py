"""What is spent of a budget, and what a fleet does when nothing is left."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.core.budget import Budget, checked_budget
from dask_flame.core.pool import Pool
from dask_flame.history.costs import spending
from dask_flame.history.usage import PoolUsage
from dask_flame.scaling.budget import WARN_AT, Spending
from dask_flame.scaling.fleet import Decision, Fleet, Phase
from dask_flame.scaling.runner_index import RunnerState

pytestmark = pytest.mark.unit


@given(st.floats(0.01, 1e6), st.floats(0, 2), st.floats(1e-6, 1e3))
def test_the_next_threshold_is_reached_in_time(amount: float, share: float, rate: float) -> None:
    budget = Budget(amount, "USD")
    now = Spending(budget, share * amount, rate)
    steps = 0
    while (rest := now.next_in) is not None:
        assert not now.exhausted
        later = Spending(budget, now.spent + rest * rate, rate)
        assert later.low
        assert later.exhausted == now.low
        now, steps = later, steps + 1
    assert now.exhausted
    assert steps <= 2
    assert Spending(budget, 0.0, 0.0).next_in is None
    assert str(now).endswith("%)")


def test_shares_and_texts() -> None:
    twenty = checked_budget("budget", "20 USD")
    assert str(Spending(twenty, 15.999)) == "16.00 USD of 20 USD (79 %)"
    assert not Spending(twenty, 15.999).low
    assert Spending(twenty, 20 * WARN_AT).low
    assert str(Spending(twenty, 30)) == "30.00 USD of 20 USD (150 %)"
    hours = checked_budget("budget", "40 h")
    assert str(Spending(hours, 5400)) == "1.5 of 40 runner-hours (3 %)"
    assert Spending(hours, 72_000, 2.0).lasts == 36_000


def member(asked: float) -> RunnerState:
    return RunnerState(f"r-{asked}", Phase.READY, asked, asked, timed_from=asked)


def used(seconds: float, kind: str = "") -> PoolUsage:
    return PoolUsage(runner_seconds=seconds, kind_seconds={kind: seconds})


def test_money_counts_each_kind_at_its_price() -> None:
    pool = Pool(gpus=1, gpu_kind=["H100", "A100"], price={"H100": 3600, "A100": 1800})
    members = [replace(member(10), kind="H100"), replace(member(10), kind="A100")]
    money = spending(checked_budget("budget", "50 USD"), [(pool, used(8.0, "A100"), members)], 20.0)
    assert money.spent == pytest.approx(4 + 10 + 5)
    assert money.rate == pytest.approx(1.5)


def test_money_counts_pools_with_a_price_and_time_all_of_them() -> None:
    pools = [
        (Pool(price=3600), used(5.0), [member(10), member(14)]),
        (Pool(price=1800), PoolUsage(), [member(16)]),
        (Pool(), used(100.0), [member(0)]),
    ]
    money = spending(checked_budget("budget", "50 USD"), pools, 20.0)
    assert money.spent == pytest.approx(5 + 10 + 6 + 0.5 * 4)
    assert money.rate == pytest.approx(2.5)
    time = spending(checked_budget("budget", "1 h"), pools, 20.0)
    assert time.spent == pytest.approx(5 + 10 + 6 + 4 + 100 + 20)
    assert time.rate == pytest.approx(4)


def booted(fleet: Fleet, demand: int) -> list[str]:
    decision = fleet.decide(0, demand)
    assert decision.boot is not None
    return list(decision.boot.names)


def ends(decision: Decision) -> dict[str, tuple[str, bool]]:
    return {item.name: (item.reason, item.force) for item in decision.retire}


def test_boots_and_idle_runners_end_and_busy_ones_finish() -> None:
    fleet = Fleet(Pool(min=2, max=8, spare=1, idle_timeout=1000, idle_check=lambda: False))
    names = booted(fleet, 4)
    assert len(names) == 5
    for name in names[:3]:
        fleet.registered(name, 1)
    fleet.load(names[0], 1, 1)
    fleet.exhausted = "spent"
    decision = fleet.decide(2, 6)
    assert decision.boot is None
    assert decision.check == ()  # it may say what it will
    assert decision.numbers["target"] == 0
    gone = {names[4]: ("spent", True), names[3]: ("spent", True)}
    assert ends(decision) == {**gone, names[1]: ("spent", False), names[2]: ("spent", False)}
    for name in names[1:]:
        fleet.ended(name, 3)
    assert fleet.decide(1e6, 6).retire == ()
    assert fleet.decide(1e6, 6).wake is None
    fleet.load(names[0], 0, 1e6)
    assert ends(fleet.decide(1e6, 0)) == {names[0]: ("spent", False)}
    fleet.ended(names[0], 1e6)
    assert fleet.decide(1e6, 3).boot is None
    fleet.exhausted = ""
    decision = fleet.decide(1e6, 3)
    assert decision.boot is not None
    assert len(decision.boot.names) == 4


def test_a_runner_whose_results_do_not_fit_is_tried_again_later() -> None:
    fleet = Fleet(Pool(min=1, max=1, idle_timeout=1000))
    (name,) = booted(fleet, 1)
    fleet.registered(name, 1)
    fleet.exhausted = "spent"
    assert list(ends(fleet.decide(2, 0))) == [name]
    fleet.kept(name, 3)
    decision = fleet.decide(3, 0)
    assert (decision.retire, decision.wake) == ((), 8.0)
    assert list(ends(fleet.decide(8, 0))) == [name]
    # Each second costs, so the delays do not grow; the user may have released the results.
    for now in range(8, 68, 5):
        fleet.kept(name, now)
        assert fleet.decide(now, 0).wake == now + 5
        assert list(ends(fleet.decide(now + 5, 0))) == [name]


def test_failing_boots_are_not_the_reason_any_more() -> None:
    fleet = Fleet(Pool(max=1, boot_attempts=1))
    (name,) = booted(fleet, 1)
    fleet.ended(name, 1, "crashed")
    fleet.exhausted = "spent"
    assert fleet.decide(2, 1).give_up is None
    fleet.exhausted = ""
    assert fleet.decide(3, 1).give_up is not None


def test_a_fixed_number_is_not_kept() -> None:
    fleet = Fleet(Pool(max=4))
    names = booted(fleet, 2)
    for name in names:
        fleet.registered(name, 1)
    fleet.fix()
    fleet.exhausted = "spent"
    assert sorted(ends(fleet.decide(2, 0))) == names

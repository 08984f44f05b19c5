"""``idle_timeout="auto"``: boots and idle time cost at most twice what a known future would."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_flame.core.pool import Pool
from dask_flame.scaling.fleet import Fleet, Phase
from dask_flame.scaling.idle_timeout import UNKNOWN, BreakEven
from tests.support.examples import examples

pytestmark = pytest.mark.unit

#: Bounds that do not matter.
ANY = (0.0, 1e9)
BOOTS = st.floats(0.01, 1000)
#: Gaps in units of a boot: around the break-even time, around its multiples, and far from it.
GAPS = st.one_of(
    st.floats(0, 4),
    st.floats(0, 300),
    st.sampled_from([0.01, 0.5, 0.99, 1.0, 1.01, 1.26, 2.0, 2.01, 50.0]),
)


class Played:
    """The cost of calls on a fleet, and of the same calls with the future known.

    In each round, so many calls run at once for a second on runners of their own; then there is a
    gap. What only a known future could have saved is a level: the calls of the first runner, of the
    second one, and so on. In its gap, a level is bridged or booted again, whichever is cheaper.
    """

    def __init__(self, boot: float, most: int = 1, **options: Any) -> None:
        options = {"idle_timeout": "auto", "idle_bounds": ANY, "boot_timeout": 1e6, **options}
        self.fleet = Fleet(Pool(max=most, **options))
        self.boot = boot
        self.now = 0.0
        self.paid = 0.0  # boots, and idle time that is over
        self.known = 0.0
        self.last: list[float] = []  # when the call of each level had ended
        self.idle: dict[str, float] = {}  # the runner that was used last at the end

    def round(self, calls: int, gap: float) -> None:
        for level in range(calls):
            if level < len(self.last):
                self.known += min(self.boot, self.now - self.last[level])
            else:
                self.known += self.boot
                self.last.append(0.0)
        decision = self._decide(calls)
        names = decision.boot.names if decision.boot else ()
        self.paid += self.boot * len(names)
        busy = [self.idle.popitem() for _ in range(calls - len(names))]
        for name, since in busy:
            self.paid += self.now - since
            self.fleet.load(name, 1, self.now)
        if names:
            self._pass(self.boot, calls)
        for name in names:
            self.fleet.registered(name, self.now)
            self.fleet.load(name, 1, self.now)
        self._pass(1.0, calls)
        running = [*names, *reversed([name for name, _ in busy])]
        for name in running:
            self.fleet.load(name, 0, self.now)
            self.idle[name] = self.now
        self.last[:calls] = [self.now] * calls
        self._pass(gap, 0)

    def _pass(self, seconds: float, demand: int) -> None:
        until = self.now + seconds
        while (wake := self._decide(demand).wake) is not None and wake < until:
            self.now = wake
        self.now = until
        # A call that comes at the very end of the time finds the runner there.

    def _decide(self, demand: int) -> Any:
        decision = self.fleet.decide(self.now, demand)
        for item in decision.retire:
            self.paid += self.now - self.idle.pop(item.name)
            self.fleet.ended(item.name, self.now)
        return decision

    @property
    def cost(self) -> float:
        return self.paid + sum(self.now - since for since in self.idle.values())


@given(boot=BOOTS, gaps=st.lists(GAPS, max_size=60))
@settings(max_examples=examples(200))
def test_it_costs_at_most_twice_as_much_at_every_moment(boot: float, gaps: list[float]) -> None:
    played = Played(boot)
    for gap in gaps:
        played.round(1, gap * boot)
        assert played.cost <= 2 * played.known + 1e-6 * boot


@given(
    boot=BOOTS,
    habit=st.lists(GAPS, min_size=1, max_size=3),
    times=st.integers(8, 30),
    then=st.lists(GAPS, max_size=20),
)
@settings(max_examples=examples(150))
def test_also_when_a_habit_ends(
    boot: float, habit: list[float], times: int, then: list[float]
) -> None:
    # The gaps of a habit are what moves the figure furthest, and then others come.
    played = Played(boot)
    for gap in habit * times + then:
        played.round(1, gap * boot)
        assert played.cost <= 2 * played.known + 1e-6 * boot


@given(
    boot=BOOTS,
    rounds=st.lists(st.tuples(st.integers(1, 5), GAPS), max_size=40),
    repeated=st.integers(1, 3),
)
@settings(max_examples=examples(150))
def test_also_with_several_runners(
    boot: float, rounds: list[tuple[int, float]], repeated: int
) -> None:
    played = Played(boot, most=5)
    for calls, gap in rounds * repeated:
        played.round(calls, gap * boot)
        assert played.cost <= 2 * played.known + 1e-6 * boot


@given(boot=BOOTS, factor=st.floats(1.05, 50))
def test_no_other_fixed_time_has_this_guarantee(boot: float, factor: float) -> None:
    # A longer one is too long without a further call, a shorter one if calls come just after it.
    longer = Played(boot, idle_timeout=boot * factor)
    longer.round(1, 100 * boot)
    assert longer.cost > 2 * longer.known
    shorter = Played(boot, idle_timeout=boot / factor)
    for _ in range(4):
        shorter.round(1, 1.01 * boot / factor)
    assert shorter.cost > 2 * shorter.known
    # In the beginning there is nothing that could be risked.
    assert Played(boot).fleet.idle.seconds == UNKNOWN
    rule = BreakEven(ANY)
    rule.booted(boot)
    assert rule.figure(1).seconds == boot


def play(gaps: list[float], **options: Any) -> Played:
    played = Played(10.0, **options)
    for gap in gaps:
        played.round(1, gap)
    return played


def test_gaps_that_are_a_habit_are_cheaper_than_by_the_break_even_rule_alone() -> None:
    # Short gaps while somebody works, long ones between: at 10 s it is never worth to wait longer.
    gaps = [2.0, 2.0, 2.0, 2.0, 90.0] * 12
    ours, fixed = play(gaps), play(gaps, idle_timeout=10)
    assert ours.cost < 0.85 * fixed.cost
    assert ours.fleet.idle.seconds == pytest.approx(2.5)
    assert "cheapest for the last" in ours.fleet.idle.why
    # Gaps a little above the break-even time: one is kept longer, within what has been saved.
    gaps = [4.0] * 10 + [11.0] * 20
    ours, fixed = play(gaps), play(gaps, idle_timeout=10)
    assert ours.cost < 0.75 * fixed.cost
    assert ours.fleet.idle.seconds > 11


def test_without_a_credit_a_habit_changes_nothing() -> None:
    # Each gap costs the full factor of two, so nothing may be risked.
    played = play([1000.0] * 30)
    assert played.fleet.idle.seconds == pytest.approx(10)
    assert played.cost == pytest.approx(2 * played.known)


def test_the_bounds_come_first_and_the_reason_says_so() -> None:
    rule = BreakEven((2, 900))
    figure = rule.figure(0)
    assert (figure.seconds, figure.why) == (UNKNOWN, "no boot has been measured yet")
    for seconds in (0.05, 0.06, 3.0):
        rule.booted(seconds)
    figure = rule.figure(1)
    assert (figure.seconds, figure.why) == (2, "the least of idle_bounds, as a boot takes 0.06 s")
    for seconds in [240.0] * 4:
        rule.booted(seconds)
    figure = rule.figure(1)
    assert (figure.seconds, figure.why) == (240, "as long as a boot takes (the median of 7)")
    rule.bounds = (2, 100)
    figure = rule.figure(1)
    assert (figure.seconds, figure.why) == (100, "the most of idle_bounds, as a boot takes 240 s")


def test_the_event_of_an_ended_runner_has_the_figure_and_the_reason() -> None:
    fleet = Fleet(Pool(max=1, idle_timeout="auto"))
    decision = fleet.decide(0, 1)
    assert decision.boot is not None
    fleet.registered("runner-1", 240.0)
    fleet.load("runner-1", 1, 240.0)
    fleet.load("runner-1", 0, 300.0)
    decision = fleet.decide(300, 0)
    assert decision.wake == 540
    assert fleet.decide(539.9, 0).retire == ()
    (item,) = fleet.decide(540, 0).retire
    assert item.reason == (
        'no call for idle_timeout="auto", now 240 s: as long as a boot takes (the median of 1)'
    )


def test_at_run_time() -> None:
    fleet = Fleet(Pool(max=1, idle_timeout=7))
    fleet.decide(0, 1)
    fleet.registered("runner-1", 20)
    assert fleet.decide(20, 0).wake == 27
    fleet.resize(idle_timeout="auto")
    assert fleet.decide(21, 0).wake == 40  # boots were measured before, too
    fleet.resize(idle_bounds=("1s", "12s"))
    assert fleet.decide(22, 0).wake == 32
    fleet.resize(idle_timeout="5s")
    assert fleet.idle.said == "idle_timeout=5 s"
    assert [item.name for item in fleet.decide(25, 0).retire] == ["runner-1"]


def test_a_runner_that_could_not_end_costs_nothing_of_the_credit() -> None:
    rule = BreakEven(ANY)
    rule.booted(10)
    for _ in range(3):
        rule.bridged(5)
    assert rule.credit == 15
    rule.ended("a", 100, 104)
    assert rule.credit == 15 - 6
    rule.stayed("a")
    assert rule.credit == 15
    # The next call decides how much it cost: at once 6, later less.
    rule.ended("a", 100, 104)
    rule.came_back(108)
    assert rule.credit == 15 + 2 * 8 - 4 - 10
    rule.came_back(1000)  # a first boot
    assert rule.credit == 17


def test_a_runner_that_something_else_keeps_is_not_held_against_the_rule() -> None:
    fleet = Fleet(Pool(min=1, max=1, idle_timeout="auto", idle_bounds=ANY))
    fleet.decide(0, 0)
    fleet.registered("runner-1", 10)
    now = 10.0
    for gap in (5.0, 5.0, 10_000.0):
        fleet.load("runner-1", 1, now + gap)
        now += gap
        fleet.load("runner-1", 0, now)
        assert fleet.decide(now, 0).retire == ()
    assert fleet._seen.credit == 5  # of the second gap: the first was before a first call
    assert fleet.count(Phase.READY) == 1


@given(st.lists(st.floats(0.01, 1000), max_size=30), st.lists(st.floats(0, 1e4), max_size=100))
def test_the_figure_is_within_the_bounds(boots: list[float], gaps: list[float]) -> None:
    rule = BreakEven((3, 500))
    for seconds in boots:
        rule.booted(seconds)
    for gap in gaps:
        rule.bridged(gap)
        assert 3 <= rule.figure(3).seconds <= 500
        assert rule.credit >= 0
        assert math.isfinite(rule.credit)

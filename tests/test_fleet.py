"""The decisions, on their own: a model of the world drives a fleet through whatever may happen."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from dask_flame.fleet import Decision, Fleet, Phase
from dask_flame.pool import Pool


def ready(fleet: Fleet, decision: Decision, now: float) -> list[str]:
    assert decision.boot is not None
    for name in decision.boot.names:
        fleet.registered(name, now)
    return list(decision.boot.names)


def retired(decision: Decision) -> list[str]:
    return [item.name for item in decision.retire]


def test_demand_is_answered_in_one_wave() -> None:
    fleet = Fleet(Pool(max=64))
    decision = fleet.decide(0, 64)
    assert decision.boot is not None
    assert len(decision.boot.names) == 64
    assert fleet.decide(0.01, 64).boot is None


def test_slots_are_counted_not_runners() -> None:
    fleet = Fleet(Pool(max=64, concurrency=4))
    assert len(ready(fleet, fleet.decide(0, 9), 1)) == 3


def test_max_bounds_what_exists_the_ending_ones_too() -> None:
    fleet = Fleet(Pool(max=2, idle_timeout=10))
    names = ready(fleet, fleet.decide(0, 2), 1)
    assert retired(fleet.decide(11, 0)) == names
    assert fleet.decide(11, 2).boot is None
    fleet.ended(names[0], 12)
    decision = fleet.decide(12, 2)
    assert decision.boot is not None
    assert len(decision.boot.names) == 1


def test_an_idle_runner_ends_at_its_timeout_to_the_moment() -> None:
    fleet = Fleet(Pool(max=1, idle_timeout=60))
    (name,) = ready(fleet, fleet.decide(0, 1), 1)
    fleet.load(name, 1, 2)
    fleet.load(name, 0, 5)
    decision = fleet.decide(5, 0)
    assert decision.wake == 65
    assert retired(fleet.decide(64.999, 0)) == []
    assert retired(fleet.decide(65, 0)) == [name]


def test_a_busy_runner_is_never_retired() -> None:
    fleet = Fleet(Pool(max=4, idle_timeout=1))
    names = ready(fleet, fleet.decide(0, 2), 1)
    fleet.load(names[0], 1, 1)
    assert retired(fleet.decide(1000, 1)) == [names[1]]
    fleet.resize(min=0, max=1)
    assert names[0] not in retired(fleet.decide(2000, 1))


def test_min_runners_stay_and_the_longest_idle_of_the_others_go() -> None:
    fleet = Fleet(Pool(min=1, max=3, idle_timeout=10))
    assert len(ready(fleet, fleet.decide(0, 0), 0)) == 1
    more = ready(fleet, fleet.decide(1, 3), 1)
    fleet.load(more[0], 1, 2)
    fleet.load(more[0], 0, 3)
    assert retired(fleet.decide(100, 0)) == ["runner-1", more[1]]
    assert fleet.decide(1000, 0).retire == ()


def test_min_runners_may_rest_and_come_back_with_demand() -> None:
    fleet = Fleet(Pool(min=2, max=3, idle_timeout=10, min_idle_timeout=60))
    names = ready(fleet, fleet.decide(0, 0), 0)
    assert fleet.decide(59, 0).retire == ()
    assert sorted(retired(fleet.decide(60, 0))) == names
    for name in names:
        fleet.ended(name, 61)
    assert fleet.decide(100, 0).boot is None
    decision = fleet.decide(101, 1)
    assert decision.boot is not None
    assert len(decision.boot.names) == 2


def test_spare_runners_are_kept_ahead_of_demand_while_there_is_any() -> None:
    fleet = Fleet(Pool(max=8, spare=2, idle_timeout=10))
    names = ready(fleet, fleet.decide(0, 1), 0)
    assert len(names) == 3
    fleet.load(names[0], 1, 0)
    assert fleet.decide(100, 1).retire == ()
    fleet.load(names[0], 0, 100)
    assert set(retired(fleet.decide(110, 0))) == set(names)


def test_a_boot_that_nobody_needs_any_more_ends_after_the_idle_timeout() -> None:
    fleet = Fleet(Pool(max=8, idle_timeout=10, boot_timeout=1000))
    fleet.decide(0, 3)
    assert fleet.decide(5, 1).retire == ()
    assert retired(fleet.decide(15, 1)) == ["runner-3", "runner-2"]


def test_a_boot_that_takes_too_long_is_ended_and_tried_again_one_at_a_time() -> None:
    fleet = Fleet(Pool(max=8, boot_timeout=30, boot_attempts=3))
    fleet.decide(0, 4)
    late = fleet.decide(30, 4)
    assert len(late.retire) == 4
    assert all(item.force for item in late.retire)
    assert late.boot is None
    assert late.wake is not None
    for item in late.retire:
        fleet.ended(item.name, 31)
    again = fleet.decide(late.wake, 4)
    assert again.boot is not None
    assert len(again.boot.names) == 1
    fleet.registered(again.boot.names[0], late.wake + 1)
    rest = fleet.decide(late.wake + 1, 4)
    assert rest.boot is not None
    assert len(rest.boot.names) == 3


def test_waiting_calls_fail_when_boots_keep_failing_and_later_ones_try_again() -> None:
    fleet = Fleet(Pool(max=4, boot_attempts=2))
    now = 0.0
    decision = fleet.decide(now, 4)
    for _ in range(10):
        for name in decision.boot.names if decision.boot else ():
            fleet.ended(name, now, "exit code 1")
        decision = fleet.decide(now, 4)
        if decision.give_up:
            break
        assert decision.wake is not None
        now = decision.wake
        decision = fleet.decide(now, 4)
    assert decision.give_up is not None
    assert "2 boots failed in a row" in decision.give_up.reason
    assert "exit code 1" in decision.give_up.reason
    assert not decision.give_up.late
    assert fleet.decide(now, 1).boot is not None


def test_boots_that_fail_for_days_are_tried_again_at_a_steady_rate() -> None:
    fleet = Fleet(Pool(min=1, max=1))
    now, boots = 0.0, 0
    for _ in range(3000):
        decision = fleet.decide(now, 0)
        for name in decision.boot.names if decision.boot else ():
            fleet.ended(name, now, "exit code 1")
            boots += 1
        now += 30
    assert 2900 <= boots <= 3000


def test_a_runner_that_cannot_be_retired_is_asked_ever_more_rarely() -> None:
    fleet = Fleet(Pool(max=1, idle_timeout=0))
    (name,) = ready(fleet, fleet.decide(0, 1), 1)
    asked = []
    for now in range(1, 1000):
        if retired(fleet.decide(now, 0)):
            asked.append(now)
            fleet.kept(name, now)
    assert asked[:5] == [1, 6, 16, 36, 76]
    fleet.load(name, 1, 1000)
    fleet.load(name, 0, 1001)
    assert retired(fleet.decide(1001, 0)) == [name]


def test_a_suspended_fleet_ends_all_and_boots_none() -> None:
    fleet = Fleet(Pool(min=1, max=4))
    names = ready(fleet, fleet.decide(0, 2), 0)
    fleet.load(names[0], 1, 0)
    fleet.suspended = "nobody is there"
    assert sorted(retired(fleet.decide(1, 2))) == names
    for name in names:
        fleet.ended(name, 2)
    assert fleet.decide(3, 5).boot is None
    fleet.suspended = ""
    assert fleet.decide(4, 0).boot is not None


class World(RuleBasedStateMachine):
    """Runners that boot, hang, crash and end; calls that come and go; a clock that jumps."""

    @initialize(
        least=st.integers(0, 3),
        more=st.integers(0, 6),
        concurrency=st.integers(1, 4),
        spare=st.integers(0, 2),
    )
    def begin(self, least: int, more: int, concurrency: int, spare: int) -> None:
        self.pool = Pool(
            min=least,
            max=max(1, least + more),
            concurrency=concurrency,
            spare=spare,
            idle_timeout=10,
            boot_timeout=30,
            boot_attempts=3,
        )
        self.fleet = Fleet(self.pool)
        self.now = 0.0
        self.waiting = 0
        self.exists: dict[str, str] = {}
        self.busy: dict[str, int] = {}
        self.decision = Decision()

    @property
    def demand(self) -> int:
        return self.waiting + sum(self.busy.values())

    @rule(calls=st.integers(1, 20))
    def submit(self, calls: int) -> None:
        self.waiting += calls
        self.decide()

    @precondition(lambda self: self.waiting)
    @rule()
    def cancel(self) -> None:
        self.waiting = 0
        self.decide()

    @rule(data=st.data())
    def register(self, data: Any) -> None:
        self._with("booting", data, self._register)

    def _register(self, name: str) -> None:
        self.exists[name] = "ready"
        self.fleet.registered(name, self.now)
        self.fleet.load(name, 0, self.now)
        self._place()

    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        names = sorted(n for n, calls in self.busy.items() if calls)
        if names:
            name = data.draw(st.sampled_from(names))
            self.busy[name] -= 1
            self.fleet.load(name, self.busy[name], self.now)
            self._place()

    @rule(data=st.data(), state=st.sampled_from(["booting", "ready", "ending"]))
    def die(self, data: Any, state: str) -> None:
        self._with(state, data, self._die)

    def _die(self, name: str) -> None:
        del self.exists[name]
        self.waiting += self.busy.pop(name, 0)
        self.fleet.ended(name, self.now, "died")
        self.decide()

    @rule(data=st.data())
    def refuse_to_go(self, data: Any) -> None:
        names = sorted(n for n, s in self.exists.items() if s == "ending" and n in self.busy)
        if names:
            name = data.draw(st.sampled_from(names))
            self.exists[name] = "ready"
            self.fleet.kept(name, self.now)
            self.decide()

    @rule(low=st.integers(0, 4), more=st.integers(0, 4))
    def resize(self, low: int, more: int) -> None:
        self.fleet.resize(min=low, max=max(1, low + more))
        self.decide()

    @rule(seconds=st.floats(0.01, 100))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.decide()

    @rule()
    def settle(self) -> None:
        """Let all boots succeed and all calls end: the fleet comes to rest at its least."""
        for _ in range(500):
            for name, state in sorted(self.exists.items()):
                if state == "booting":
                    self._register(name)
                elif state == "ending":
                    self._die(name)
            for name in self.busy:
                self.busy[name] = 0
                self.fleet.load(name, 0, self.now)
            self._place()
            if all(state == "ready" for state in self.exists.values()):
                if self.decision.wake is None and not self.demand:
                    break
                # Nothing happens any more but by the clock.
                self.now = max(self.now, self.decision.wake or self.now)
                self.decide()
        assert self.decision.wake is None, "the fleet never comes to rest"
        assert self.fleet.count(Phase.READY) == len(self.fleet.members) == self.fleet.pool.min

    def _with(self, state: str, data: Any, then: Any) -> None:
        names = sorted(n for n, s in self.exists.items() if s == state)
        if names:
            then(data.draw(st.sampled_from(names)))

    def _place(self) -> None:
        for name, state in self.exists.items():
            if state == "ready":
                taken = min(self.waiting, self.pool.concurrency - self.busy.setdefault(name, 0))
                self.waiting -= taken
                self.busy[name] += taken
                self.fleet.load(name, self.busy[name], self.now)
        self.decide()

    def decide(self) -> None:
        demand = self.demand
        self.decision = decision = self.fleet.decide(self.now, demand)
        for item in decision.retire:
            assert self.exists[item.name] in ("booting", "ready")
            assert not self.busy.get(item.name), f"{item} was busy"
            self.exists[item.name] = "ending"
        if decision.boot:
            for name in decision.boot.names:
                assert name not in self.exists
                self.exists[name] = "booting"
        if decision.give_up:
            self.waiting = 0
        if not self.fleet.failures and not decision.give_up:
            alive = self.fleet.count(Phase.BOOTING, Phase.READY)
            room = self.fleet.pool.max - self.fleet.count(Phase.ENDING)
            wanted = math.ceil(demand / self.pool.concurrency)
            assert alive >= min(wanted, room), "demand was not answered in one wave"
            assert alive >= min(self.fleet.pool.min, room)
        assert decision.wake is None or decision.wake > self.now

    @invariant()
    def the_fleet_knows_what_exists_and_keeps_its_bounds(self) -> None:
        if not hasattr(self, "fleet"):
            return
        assert {n: m.phase.value for n, m in self.fleet.members.items()} == self.exists
        started = len(self.exists)
        if self.decision.boot:
            assert started <= self.fleet.pool.max


World.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestWorld = World.TestCase

"""The decisions, on their own: a model of the world drives a fleet through whatever may happen."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from dask_flame.core.pool import Pool
from dask_flame.scaling.fleet import CALLED_OFF, Decision, Fleet, Phase
from dask_flame.scaling.no_room import PAUSE
from dask_flame.scaling.runner_index import RunnerState
from tests.support.examples import examples

pytestmark = pytest.mark.unit


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


def test_a_fixed_number_of_runners_is_kept_whatever_the_demand() -> None:
    fleet = Fleet(Pool(min=1, max=8, idle_timeout=10, min_idle_timeout=20))
    names = ready(fleet, fleet.decide(0, 3), 0)
    assert fleet.fix() == fleet.fix() == 3
    assert fleet.bound[0] == 3
    assert "cluster.adapt()" in fleet.bound[1]
    for demand in (0, 8, 0):
        decision = fleet.decide(1000, demand)
        assert (decision.boot, decision.retire, decision.wake) == (None, (), None)
    fleet.ended(names[0], 1000)
    assert len(ready(fleet, fleet.decide(1001, 0), 1001)) == 1  # one that is lost is replaced
    fleet.resize()
    assert fleet.bound == (8, "max=8; write cluster.resize(max=…)")
    assert len(retired(fleet.decide(1100, 0))) == 3  # all but one, and that one comes to rest


def test_a_fixed_number_is_no_more_than_a_lower_max_later() -> None:
    fleet = Fleet(Pool(max=4, idle_timeout=10))
    assert fleet.fix() == 0
    assert fleet.target(4) == 0
    assert fleet.decide(0, 4).boot is None
    fleet.resize(max=2)
    assert fleet.fixed is None
    assert len(ready(fleet, fleet.decide(1, 4), 1)) == 2


def test_runners_that_somebody_waited_for_are_idle_from_then_on() -> None:
    fleet = Fleet(Pool(max=8, idle_timeout=10))
    names = ready(fleet, fleet.decide(0, 4), 0)
    fleet.load(names[0], 1, 1)
    fleet.load(names[3], 1, 1)
    fleet.load(names[3], 0, 2)
    fleet.awaited(2, 9)  # one is busy, so it is one that is idle: the one that was busy last
    assert set(retired(fleet.decide(10, 1))) == {names[1], names[2]}
    assert retired(fleet.decide(18.9, 1)) == []
    assert retired(fleet.decide(19, 1)) == [names[3]]
    fleet.awaited(5, 20)  # none is idle


def test_min_runners_do_not_rest_while_somebody_waits_for_more() -> None:
    fleet = Fleet(Pool(min=1, max=2, min_idle_timeout=10, boot_timeout=1000))
    ready(fleet, fleet.decide(0, 0), 0)
    assert fleet.decide(5, 2).boot is not None
    assert fleet.decide(100, 2).retire == ()


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


def test_a_boot_whose_calls_were_taken_back_ends_at_once() -> None:
    fleet = Fleet(Pool(min=1, max=8, concurrency=2, idle_timeout=1000, boot_timeout=1000))
    boots = fleet.decide(0, 16).boot
    assert boots is not None
    names = boots.names
    fleet.registered(names[0], 1)
    fleet.load(names[0], 2, 1)
    # Others follow a moment later: a cell that is run again.
    fleet.taken_back(14)
    decision = fleet.decide(2, 2)
    assert decision.retire == ()
    assert decision.wake == 2 + CALLED_OFF
    assert fleet.decide(2.1, 16).boot is None
    assert fleet.decide(5, 16).retire == ()
    # For four of them there is no call left; the other four calls were taken back.
    fleet.taken_back(4)
    assert fleet.decide(10, 4).retire == ()
    assert retired(fleet.decide(10 + CALLED_OFF, 4)) == [names[7], names[6]]
    assert fleet.decide(500, 4).retire == ()
    # What is kept at all times is kept.
    fleet.load(names[0], 0, 500)
    fleet.taken_back(4)
    fleet.decide(500, 0)
    fleet.decide(501, 0)
    assert fleet.count(Phase.BOOTING, Phase.READY) >= 1


def test_a_bound_that_is_lowered_calls_boots_off() -> None:
    fleet = Fleet(Pool(min=6, max=8, idle_timeout=1000))
    assert fleet.decide(0, 0).boot is not None
    fleet.resize(min=2)
    fleet.decide(1, 0)
    assert len(fleet.decide(2, 0).retire) == 4


def test_where_there_is_no_room_it_is_tried_again_when_something_has_gone() -> None:
    fleet = Fleet(Pool(max=8, idle_timeout=1000))
    boots = fleet.decide(0, 8).boot
    assert boots is not None
    for name in boots.names[3:]:
        fleet.ended(name, 0.1, "exceeded quota", no_room=True)
    assert fleet.crowded
    assert fleet.failures == 0
    for name in boots.names[:3]:
        fleet.registered(name, 1)
        fleet.load(name, 1, 1)
    decision = fleet.decide(2, 8)
    assert decision.boot is None
    assert decision.wake == 0.1 + PAUSE
    # One has gone: one is tried, though there is demand for five.
    fleet.ended(boots.names[0], 5)
    again = fleet.decide(5, 8).boot
    assert again is not None
    assert len(again.names) == 1
    fleet.ended(again.names[0], 5.1, "exceeded quota", no_room=True)
    decision = fleet.decide(5.1, 8)
    assert decision.boot is None
    assert decision.wake is not None
    assert 0.5 < decision.wake - 5.1 < 5  # it may be counted for a moment longer
    # The quota is raised: the more come up, the more are tried.
    now, asked = decision.wake, []
    for _ in range(4):
        decision = fleet.decide(now, 8)
        if decision.boot is not None:
            asked.append(len(decision.boot.names))
            for name in decision.boot.names:
                fleet.registered(name, now + 1)
                fleet.load(name, 1, now + 1)
        now = (decision.wake or now) + 1
    assert asked == [1, 2, 3]
    assert fleet.count(Phase.READY) == 8
    fleet.decide(now + PAUSE, 8)
    assert not fleet.crowded


def test_where_there_is_no_room_for_one_it_fails() -> None:
    fleet = Fleet(Pool(max=2, boot_attempts=1))
    boots = fleet.decide(0, 2).boot
    assert boots is not None
    for name in boots.names:
        fleet.ended(name, 1, "exceeded quota", no_room=True)
    give_up = fleet.decide(1, 2).give_up
    assert give_up is not None
    assert "exceeded quota" in give_up.reason


def test_what_would_fail_again_is_not_tried_again() -> None:
    fleet = Fleet(Pool(max=2, boot_attempts=5))
    boots = fleet.decide(0, 2).boot
    assert boots is not None
    for name in boots.names:
        fleet.ended(name, 1, "no such image", final=True)
    give_up = fleet.decide(1, 2).give_up
    assert give_up is not None
    assert give_up.reason == "1 boot failed, as any other would: runner-2 no such image"
    assert fleet.decide(2, 1).boot is not None  # what is submitted later


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


def test_fewer_runners_have_room_than_before() -> None:
    fleet = Fleet(Pool())
    assert fleet.hold(4, "gpu1 holds 3, gpu2 holds 1")
    ready(fleet, fleet.decide(0, 9), 1)
    assert len(fleet.members) == 4
    assert fleet.bound[1].startswith("max=4 (gpu1 holds 3, gpu2 holds 1); write ")
    fleet.ended("runner-1", 5, "gpu2 was lost")
    assert fleet.hold(3, "gpu1 holds 3, gpu2 is away")
    decision = fleet.decide(5, 9)
    assert (decision.boot, decision.retire) == (None, ())
    assert not fleet.hold(3, "gpu1 holds 3, gpu2 is away")
    assert fleet.hold(5, "gpu1 holds 3, gpu2 holds 2")
    boots = fleet.decide(6, 9).boot
    assert boots is not None
    assert len(boots.names) == 2
    assert not Fleet(Pool(max=2)).hold(4, "gpu1 holds 4")


def test_a_boot_that_is_queued_takes_no_time_until_its_turn_comes() -> None:
    fleet = Fleet(Pool(max=8, boot_timeout=30))
    boots = fleet.decide(0, 2).boot
    assert boots is not None
    first, second = boots.names
    for name in boots.names:
        fleet.queued(name)
    decision = fleet.decide(100_000, 2)
    # It is as good as requested: no second wave is.
    assert (decision.retire, decision.boot, decision.wake) == ((), None, None)
    fleet.started(first, 100_000)
    assert fleet.decide(100_000, 2).wake == 100_030
    fleet.started(first, 100_020)  # said twice
    assert retired(fleet.decide(100_029, 2)) == []
    decision = fleet.decide(100_030, 2)
    assert retired(decision) == [first]
    assert decision.retire[0].failed
    assert "boot_timeout=30 s after its time in the queue" in decision.retire[0].reason
    fleet.ended(first, 100_031)
    fleet.started(second, 200_000)
    fleet.registered(second, 200_005)
    again = fleet.decide(200_005, 2).boot
    assert again is not None
    assert len(again.names) == 1


def test_a_queued_boot_that_nobody_needs_any_more_is_given_up() -> None:
    fleet = Fleet(Pool(max=8, idle_timeout=60))
    boots = fleet.decide(0, 3).boot
    assert boots is not None
    for name in boots.names:
        fleet.queued(name)
    fleet.taken_back(1)
    fleet.decide(5000, 2)
    decision = fleet.decide(5001, 2)
    assert retired(decision) == [boots.names[2]]
    assert not decision.retire[0].failed
    assert fleet.decide(6000, 0).wake == 6060
    assert set(retired(fleet.decide(6060, 0))) == set(boots.names[:2])


def test_boots_that_fail_in_the_queue_fail_together_and_those_after_it_one_by_one() -> None:
    fleet = Fleet(Pool(max=8, boot_attempts=9))
    boots = fleet.decide(0, 6).boot
    assert boots is not None
    for name in boots.names:
        fleet.queued(name)
    for name in boots.names[:3]:
        fleet.ended(name, 5000, "was cancelled by an administrator")
    assert fleet.failures == 1
    for hour, name in enumerate(boots.names[3:], 2):
        fleet.started(name, 3600 * hour)
        fleet.ended(name, 3600 * hour + 5, "exit code 1")
    assert fleet.failures == 4


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


def test_a_single_wave_of_draining_runners_is_replaced_as_far_as_max_allows() -> None:
    fleet = Fleet(Pool(max=3, concurrency=2))
    names = ready(fleet, fleet.decide(0, 4), 0)
    for name in names:
        fleet.load(name, 2, 1)
    fleet.drain(names[0], 1, "preempted", within=30)
    # Its calls are no demand any more: two of the four are left.
    assert fleet.decide(1, 2).boot is None
    decision = fleet.decide(2, 4)
    assert decision.boot is not None
    assert len(decision.boot.names) == 1
    assert fleet.decide(30, 4).retire == ()
    (gone,) = fleet.decide(31, 4).retire
    assert gone.name == names[0]
    assert gone.reason == "preempted; its 2 calls run again elsewhere"
    assert not gone.force


def test_a_draining_runner_goes_when_its_last_call_has_ended() -> None:
    fleet = Fleet(Pool(max=1, idle_timeout=60))
    (name,) = ready(fleet, fleet.decide(0, 1), 0)
    fleet.load(name, 1, 0)
    fleet.drain(name, 1, "single use")
    assert fleet.decide(1000, 0).retire == ()
    fleet.load(name, 0, 1001)
    assert retired(fleet.decide(1001, 0)) == [name]
    fleet.kept(name, 1001)
    assert fleet.count(Phase.DRAINING) == 1
    decision = fleet.decide(1002, 0)
    assert decision.retire == ()
    assert decision.wake is not None
    assert retired(fleet.decide(decision.wake, 0)) == [name]


def test_a_call_that_does_not_stop_costs_its_runner() -> None:
    fleet = Fleet(Pool(max=2, concurrency=2, shutdown_timeout=30))
    names = ready(fleet, fleet.decide(0, 4), 0)
    fleet.load(names[0], 1, 5, held=5, overran=True)
    fleet.load(names[1], 1, 5, held=5, overran=False)
    decision = fleet.decide(6, 2)
    assert decision.wake == 35
    (gone,) = fleet.decide(35, 2).retire
    assert gone.name == names[0]
    assert "overran its timeout did not stop within shutdown_timeout=30 s" in gone.reason
    assert "its 1 calls run again elsewhere" in gone.reason
    # One that was merely cancelled costs its runner nothing while another call is at work there.
    fleet.load(names[1], 0, 40, held=5, overran=False)
    assert retired(fleet.decide(40, 0)) == [names[1]]


def test_a_call_that_stops_in_time_costs_nothing() -> None:
    fleet = Fleet(Pool(max=1, shutdown_timeout=30))
    (name,) = ready(fleet, fleet.decide(0, 1), 0)
    fleet.load(name, 0, 5, held=5, overran=True)
    fleet.load(name, 0, 20)
    assert fleet.decide(40, 0).retire == ()


def test_an_idle_check_is_asked_before_a_runner_goes_and_a_no_begins_anew() -> None:
    fleet = Fleet(Pool(max=2, idle_timeout=10, idle_check=lambda: True))
    names = ready(fleet, fleet.decide(0, 2), 0)
    decision = fleet.decide(10, 0)
    assert decision.retire == ()
    assert sorted(decision.check) == names
    assert fleet.decide(11, 0).check == ()
    fleet.checked(names[0], 11, may_end=True)
    fleet.checked(names[1], 12, may_end=False)
    assert retired(fleet.decide(12, 0)) == [names[0]]
    assert fleet.decide(21, 0).check == ()
    assert fleet.decide(22, 0).check == (names[1],)
    fleet.load(names[1], 1, 23)
    fleet.checked(names[1], 23, may_end=True)  # too late: it has a call
    assert fleet.decide(1000, 1).retire == ()


def test_an_answer_that_a_call_has_overtaken_is_none() -> None:
    fleet = Fleet(Pool(max=1, idle_timeout=10, idle_check=lambda: True))
    (name,) = ready(fleet, fleet.decide(0, 1), 0)
    assert fleet.decide(10, 0).check == (name,)
    fleet.load(name, 1, 11)
    fleet.load(name, 0, 12)
    # It is asked one thing at a time.
    assert fleet.decide(22, 0).check == ()
    fleet.checked(name, 23, may_end=True)  # as it was before the call
    decision = fleet.decide(23, 0)
    assert (decision.retire, decision.check) == ((), (name,))
    fleet.checked(name, 24, may_end=True)
    assert retired(fleet.decide(24, 0)) == [name]


def test_the_idle_check_holds_for_min_runners_that_would_rest() -> None:
    fleet = Fleet(Pool(min=1, max=1, min_idle_timeout=10, idle_check=lambda: True))
    (name,) = ready(fleet, fleet.decide(0, 0), 0)
    assert fleet.decide(10, 0).check == (name,)
    fleet.checked(name, 11, may_end=False)
    assert fleet.decide(20, 0).check == ()
    assert fleet.decide(21, 0).check == (name,)
    fleet.checked(name, 21, may_end=True)
    assert retired(fleet.decide(21, 0)) == [name]


def test_waiting_calls_wait_on_where_the_pool_says_so() -> None:
    fleet = Fleet(Pool(max=1, boot_attempts=1, on_boot_failure="wait"))
    now, boots = 0.0, 0
    while now < 300:
        decision = fleet.decide(now, 1)
        assert decision.give_up is None
        for name in decision.boot.names if decision.boot else ():
            fleet.ended(name, now, "exit code 1")
            boots += 1
        decision = fleet.decide(now, 1)
        assert decision.wake is not None
        now = decision.wake
    assert 10 <= boots <= 30


def test_boots_that_hang_are_given_up_as_late() -> None:
    fleet = Fleet(Pool(max=1, boot_attempts=1, boot_timeout=30))
    (name,) = fleet.decide(0, 1).boot.names  # type: ignore[union-attr]
    decision = fleet.decide(30, 1)
    assert [r.name for r in decision.retire] == [name]
    assert decision.give_up is not None
    assert decision.give_up.late


def test_fleets_that_failed_together_do_not_all_try_again_together() -> None:
    tries = []
    for chance in (0.0, 0.5, 1.0):
        fleet = Fleet(Pool(max=1, boot_attempts=9), chance=lambda chance=chance: chance)
        (name,) = fleet.decide(0, 1).boot.names  # type: ignore[union-attr]
        fleet.ended(name, 0, "exit code 1")
        tries.append(fleet.decide(0, 1).wake)
    assert tries == [1.0, 0.875, 0.75]


def test_the_policy_can_be_changed_while_it_runs() -> None:
    fleet = Fleet(Pool(max=4, idle_timeout=60))
    names = ready(fleet, fleet.decide(0, 2), 0)
    fleet.resize(idle_timeout="5s", min=1)
    decision = fleet.decide(5, 0)
    assert retired(decision) == names[:1]
    with pytest.raises(ValueError, match="min=9 is more than max=4"):
        fleet.resize(min=9)
    assert fleet.pool.min == 1


def test_a_paused_runner_is_no_supply_and_goes_if_it_stays_so() -> None:
    fleet = Fleet(Pool(max=2, idle_timeout=60))
    (name,) = ready(fleet, fleet.decide(0, 1), 1)
    fleet.load(name, 1, 1)
    assert fleet.paused(name, 2, "paused: 480 MB of 500 MB in use")
    assert not fleet.paused(name, 2, "again")
    # Its own call is not demand any more, as the scheduler counts.
    decision = fleet.decide(2, 1)
    assert decision.boot is not None
    assert "0 there besides 1 paused" in decision.boot.reason
    assert retired(fleet.decide(100, 1)) == [], "it has a call"
    fleet.load(name, 0, 100)
    assert fleet.decide(100, 1).wake is not None
    (item,) = fleet.decide(102, 1).retire
    assert (item.name, item.force) == (name, False)
    assert "480 MB of 500 MB" in item.reason


def test_a_paused_runner_comes_back_in_time() -> None:
    fleet = Fleet(Pool(max=1, idle_timeout=60))
    (name,) = ready(fleet, fleet.decide(0, 1), 1)
    fleet.paused(name, 1, "paused")
    assert fleet.resumed(name, 2.9)
    assert not fleet.resumed(name, 2.9)
    assert retired(fleet.decide(60, 0)) == []
    assert retired(fleet.decide(63, 0)) == [name]


def test_runners_that_are_paused_before_any_call_are_not_replaced_for_ever() -> None:
    fleet = Fleet(Pool(max=1, boot_attempts=3), chance=lambda: 0.0)
    now = 0.0
    for _ in range(3):
        decision = fleet.decide(now, 1)
        while decision.boot is None:
            assert decision.wake is not None
            decision = fleet.decide(now := decision.wake, 1)
        (name,) = ready(fleet, decision, now)
        fleet.paused(name, now, "paused: 90 MB of 80 MB in use")
        now += 2
        decision = fleet.decide(now, 1)
        assert retired(decision) == [name]
        fleet.ended(name, now)
    give_up = decision.give_up
    assert give_up is not None
    assert "90 MB of 80 MB" in give_up.reason


class World(RuleBasedStateMachine):
    """Runners that wait in a queue, boot, hang, crash, end and are taken away; calls that come, go

    and do not stop; answers that come late; a policy that changes; a clock that jumps."""

    @initialize(
        least=st.integers(0, 3),
        more=st.integers(0, 6),
        concurrency=st.integers(1, 4),
        spare=st.integers(0, 2),
        rest=st.sampled_from([None, 0, 25]),
        asks=st.booleans(),
        waits=st.booleans(),
    )
    def begin(
        self,
        least: int,
        more: int,
        concurrency: int,
        spare: int,
        rest: float | None,
        asks: bool,
        waits: bool,
    ) -> None:
        self.concurrency = concurrency
        pool = Pool(
            min=least,
            max=max(1, least + more),
            concurrency=concurrency,
            spare=spare,
            idle_timeout=10,
            min_idle_timeout=rest,
            boot_timeout=30,
            shutdown_timeout=20,
            boot_attempts=3,
            idle_check=(lambda: True) if asks else None,
            on_boot_failure="wait" if waits else "fail",
        )
        self.fleet = Fleet(pool)
        self.now = 0.0
        self.waiting = 0
        self.exists: dict[str, str] = {}
        self.busy: dict[str, int] = {}
        self.draining: set[str] = set()
        self.paused: set[str] = set()
        self.doomed: set[str] = set()  # may be retired although busy
        self.held: dict[str, tuple[float, bool]] = {}
        self.asked: set[str] = set()
        self.timed: dict[str, float] = {}  # since when the boots take time; infinite in a queue
        self.decision = Decision()

    @property
    def demand(self) -> int:
        return self.waiting + sum(
            n for name, n in self.busy.items() if name not in self.draining | self.paused
        )

    @rule(calls=st.integers(1, 20))
    def submit(self, calls: int) -> None:
        self.waiting += calls
        self._place()

    @precondition(lambda self: self.waiting)
    @rule(part=st.floats(0, 1))
    def cancel(self, part: float) -> None:
        calls = math.ceil(self.waiting * part)
        self.waiting -= calls
        self.fleet.taken_back(calls)
        self.decide()

    @precondition(lambda self: "booting" in self.exists.values())
    @rule(data=st.data(), final=st.booleans())
    def refuse(self, data: Any, final: bool) -> None:
        """A quota has no room for a boot, or it fails in a way that any other would, too."""
        names = sorted(n for n, s in self.exists.items() if s == "booting")
        if names:
            name = data.draw(st.sampled_from(names))
            del self.exists[name]
            alone = len(self.fleet.members) == 1
            failures = self.fleet.failures
            self.fleet.ended(name, self.now, "refused", no_room=not final, final=final)
            assert final or alone or (self.fleet.crowded and self.fleet.failures == failures)
            assert not final or self.fleet.failures >= self.fleet.pool.boot_attempts
            self.decide()

    @precondition(lambda self: "booting" in self.exists.values())
    @rule(data=st.data())
    def queue(self, data: Any) -> None:
        """The substrate says that a boot waits its turn."""
        self._with("booting", data, self._queue)

    def _queue(self, name: str) -> None:
        self.timed[name] = math.inf
        self.fleet.queued(name)
        self.decide()

    @precondition(lambda self: "booting" in self.exists.values())
    @rule(data=st.data())
    def start(self, data: Any) -> None:
        """The turn of a boot comes, or came before."""
        self._with("booting", data, self._start)

    def _start(self, name: str) -> None:
        if self.timed[name] == math.inf:
            self.timed[name] = self.now
        self.fleet.started(name, self.now)
        self.decide()

    @precondition(lambda self: "booting" in self.exists.values())
    @rule(data=st.data())
    def register(self, data: Any) -> None:
        self._with("booting", data, self._register)

    def _register(self, name: str) -> None:
        self.exists[name] = "ready"
        self.busy[name] = 0
        self.fleet.registered(name, self.now)
        self._load(name)
        self._place()

    @precondition(lambda self: any(self.busy.values()))
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        names = sorted(n for n, calls in self.busy.items() if calls and self.exists[n] == "ready")
        if names:
            name = data.draw(st.sampled_from(names))
            self.busy[name] -= 1
            self._load(name)
            self._place()

    @precondition(lambda self: any(self.busy.values()))
    @rule(data=st.data(), overran=st.booleans())
    def take_back(self, data: Any, overran: bool) -> None:
        """A call is cancelled, or overruns, and its thread goes on."""
        names = sorted(n for n, calls in self.busy.items() if calls and self.exists[n] == "ready")
        if names:
            name = data.draw(st.sampled_from(names))
            self.busy[name] -= 1
            since, before = self.held.get(name, (self.now, False))
            self.held[name] = (since, before or overran)
            self._load(name)
            self.decide()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def let_go(self, data: Any) -> None:
        """The thread of a call that was taken back is free again."""
        if self.held:
            name = data.draw(st.sampled_from(sorted(self.held)))
            del self.held[name]
            self._load(name)
            self._place()

    @precondition(lambda self: "ready" in self.exists.values())
    @rule(data=st.data(), within=st.sampled_from([None, 20.0]))
    def drain(self, data: Any, within: float | None) -> None:
        """A runner is taken away, or a call has ended on one of a single-use pool."""
        names = sorted(n for n, s in self.exists.items() if s == "ready")
        if names:
            name = data.draw(st.sampled_from(names))
            if name not in self.draining:
                self.draining.add(name)
                self.paused.discard(name)
                self.fleet.drain(name, self.now, "taken away", within=within)
                if within is not None:
                    self.doomed.add(name)
            self.decide()

    @precondition(lambda self: "ready" in self.exists.values())
    @rule(data=st.data())
    def pause(self, data: Any) -> None:
        """Dask finds too little memory on a runner, where a call may be running."""
        names = sorted(n for n, s in self.exists.items() if s == "ready")
        if names:
            name = data.draw(st.sampled_from(names))
            if name not in self.draining | self.paused:
                self.paused.add(name)
                assert self.fleet.paused(name, self.now, "full")
                self.asked.discard(name)
                self.fleet.checked(name, self.now, may_end=False)  # comes late, and is ignored
            self.decide()

    @precondition(lambda self: self.paused)
    @rule(data=st.data())
    def resume(self, data: Any) -> None:
        if self.paused:
            name = data.draw(st.sampled_from(sorted(self.paused)))
            self.paused.discard(name)
            assert self.fleet.resumed(name, self.now)
            self._place()

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), may_end=st.booleans())
    def answer(self, data: Any, may_end: bool) -> None:
        if self.asked:
            name = data.draw(st.sampled_from(sorted(self.asked)))
            self.asked.discard(name)
            self.fleet.checked(name, self.now, may_end=may_end)
            self.decide()

    @precondition(lambda self: self.exists)
    @rule(data=st.data(), state=st.sampled_from(["booting", "ready", "ending"]))
    def die(self, data: Any, state: str) -> None:
        self._with(state, data, self._die)

    def _die(self, name: str) -> None:
        del self.exists[name]
        self.waiting += self.busy.pop(name, 0)
        for known in (self.draining, self.doomed, self.asked, self.paused):
            known.discard(name)
        self.held.pop(name, None)
        self.fleet.ended(name, self.now, "died")
        self.decide()

    @precondition(lambda self: "ending" in self.exists.values())
    @rule(data=st.data())
    def refuse_to_go(self, data: Any) -> None:
        names = sorted(n for n, s in self.exists.items() if s == "ending" and n in self.busy)
        if names:
            self._refuse(data.draw(st.sampled_from(names)))
            self.decide()

    def _refuse(self, name: str) -> None:
        self.exists[name] = "ready"
        self.fleet.kept(name, self.now)
        if self.fleet.members[name].phase is Phase.PAUSED:
            self.paused.add(name)
        if self.fleet.is_draining(name):
            self.draining.add(name)
            self.doomed.add(name)

    @rule(spent=st.booleans())
    def spend(self, spent: bool) -> None:
        """The budget is spent, or raised."""
        self.fleet.exhausted = "spent" if spent else ""
        self.decide()

    @rule(
        low=st.integers(0, 4),
        more=st.integers(0, 4),
        idle=st.sampled_from([0, 5, 10, 40, "auto"]),
    )
    def resize(self, low: int, more: int, idle: float | str) -> None:
        self.fleet.resize(min=low, max=max(1, low + more), idle_timeout=idle)
        self.decide()

    @rule(number=st.integers(0, 6))
    def awaited(self, number: int) -> None:
        self.fleet.awaited(number, self.now)
        self.decide()

    @rule(seconds=st.floats(0.01, 100))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.decide()

    @rule()
    def settle(self) -> None:
        """Let all boots succeed and all calls end: the fleet comes to rest at its least."""
        for _ in range(800):
            for name in sorted(self.exists):
                if self.exists[name] == "booting":
                    self._register(name)
                elif self.exists[name] == "ending":
                    self._die(name)
            for name in sorted(self.asked):
                self.asked.discard(name)
                self.fleet.checked(name, self.now, may_end=True)
            self.held.clear()
            for name in self.busy:
                self.busy[name] = 0
                self._load(name)
            self._place()
            if all(state == "ready" for state in self.exists.values()) and not self.asked:
                if self.decision.wake is None and not self.demand:
                    break
                # Nothing happens any more but by the clock.
                self.now = max(self.now, self.decision.wake or self.now)
                self.decide()
        assert self.decision.wake is None, "the fleet never comes to rest"
        rests = self.fleet.pool.min_idle_timeout is not None
        least = 0 if rests or self.fleet.exhausted else self.fleet.pool.min
        assert self.fleet.count(Phase.READY) == len(self.fleet.members) == least

    def _with(self, state: str, data: Any, then: Any) -> None:
        names = sorted(n for n, s in self.exists.items() if s == state)
        if names:
            then(data.draw(st.sampled_from(names)))

    def _load(self, name: str) -> None:
        held, overran = self.held.get(name, (None, False))
        self.fleet.load(name, self.busy.get(name, 0), self.now, held=held, overran=overran)

    def _place(self) -> None:
        for name, state in self.exists.items():
            if state == "ready" and name not in self.draining | self.paused:
                free = self.concurrency - self.busy[name] - (name in self.held)
                taken = max(0, min(self.waiting, free))
                self.waiting -= taken
                self.busy[name] += taken
                self._load(name)
        self.decide()

    def decide(self) -> None:
        demand = self.demand
        held = {n for n, (_, overran) in self.held.items() if overran}
        self.decision = decision = self.fleet.decide(self.now, demand)
        for item in decision.retire:
            assert self.exists[item.name] in ("booting", "ready")
            assert not item.failed or self.now >= self.timed[item.name] + 30
            if self.busy.get(item.name):
                assert item.name in self.doomed | held, f"{item} was busy"
                # Its calls run again elsewhere.
                self.waiting += self.busy[item.name]
                self.busy[item.name] = 0
            self.exists[item.name] = "ending"
            for known in (self.draining, self.asked, self.paused):
                known.discard(item.name)
        for name in decision.check:
            assert self.exists[name] == "ready"
            assert not self.busy[name]
            assert name not in self.asked
            self.asked.add(name)
        if self.fleet.exhausted:
            assert decision.boot is decision.give_up is None
            assert not self.fleet.count(Phase.BOOTING)
            self.waiting = 0  # they fail
        if decision.boot:
            for name in decision.boot.names:
                assert name not in self.exists
                self.exists[name] = "booting"
                self.timed[name] = self.now
        booting = [self.timed[n] + 30 for n, s in self.exists.items() if s == "booting"]
        assert all(due > self.now for due in booting), "a boot takes longer than it may"
        dues = [due for due in booting if due < math.inf]
        assert not dues or (decision.wake is not None and decision.wake <= min(dues))
        if decision.give_up:
            assert self.fleet.pool.on_boot_failure == "fail"
            self.waiting = 0
        hindered = self.fleet.exhausted or self.fleet.crowded or decision.give_up
        if not self.fleet.failures and not hindered:
            self._check_that_demand_is_answered(demand)
        assert decision.wake is None or decision.wake > self.now

    def _check_that_demand_is_answered(self, demand: int) -> None:
        fleet = self.fleet
        alive = fleet.count(Phase.BOOTING, Phase.READY)
        room = fleet.pool.max - fleet.count(Phase.ENDING, Phase.DRAINING, Phase.PAUSED)
        wanted = math.ceil(demand / self.concurrency)
        assert alive >= min(wanted, room), "demand was not answered in one wave"
        rests = fleet.pool.min_idle_timeout is not None and not demand
        assert rests or alive >= min(fleet.pool.min, room)

    @invariant()
    def the_fleet_knows_what_exists_and_keeps_its_bounds(self) -> None:
        if not hasattr(self, "fleet"):
            return
        phases = {n: m.phase.value for n, m in self.fleet.members.items()}
        told = {n: "draining" if n in self.draining else s for n, s in self.exists.items()}
        told |= dict.fromkeys(self.paused, "paused")
        # A call that did not stop makes its runner drain without being told to.
        assert phases == told
        if self.decision.boot:
            assert len(self.exists) <= self.fleet.pool.max

    @invariant()
    def every_runner_is_in_the_order_where_its_turn_will_come(self) -> None:
        if hasattr(self, "fleet"):
            for member in self.fleet.members.values():
                assert places(self.fleet, member) == ([] if at_rest(member) else [member.name])
            index = self.fleet.index
            assert sum(index.counts.values()) == len(index.members)
            for phase in Phase:
                assert index.counts[phase] == sum(m.phase is phase for m in index.members.values())

    @invariant()
    def nobody_stays_beyond_its_time(self) -> None:
        if not hasattr(self, "fleet"):
            return
        fleet = self.fleet
        surplus = fleet.count(Phase.BOOTING, Phase.READY) - len(fleet.index.checking)
        late = [
            m
            for m in fleet.members.values()
            if m.phase is Phase.READY
            and not m.refusals
            and m.name not in fleet.index.checking
            and m.idle_since + (0 if fleet.exhausted else fleet.idle.seconds) <= self.now
        ]
        least = 0 if fleet.exhausted else fleet.pool.min
        if surplus > fleet.target(self.demand) and surplus > least:
            assert not late
            assert fleet.index.called_off(self.now - CALLED_OFF) is None


def at_rest(member: RunnerState) -> bool:
    """Whether nothing is to become of a runner until something happens to it."""
    return member.phase is Phase.ENDING or (member.phase is Phase.READY and member.busy > 0)


def places(fleet: Fleet, member: RunnerState) -> list[str]:
    """The orders that a runner is in, by its name once for each."""
    index = fleet.index
    orders: list[dict[str, RunnerState]] = [
        index._needed,
        index._unneeded,
        index._called_off,
        index._idle,
        index._approved,
        index._refused,
        index._drained,
        index.checking,
    ]
    found = [member.name for order in orders if member.name in order]
    waits = any(m is member and stamp == m.stamp for _, stamp, m in index._dues)
    timed = any(m is member and stamp == m.stamp for _, stamp, m in index._timed)
    assert timed == (member.phase is Phase.BOOTING and not member.queued)
    if member.phase is Phase.PAUSED and waits == (not member.busy):
        found.append(member.name)
    if member.phase is Phase.DRAINING and not found and (waits or member.busy):
        found.append(member.name)
    return found


World.TestCase.settings = settings(max_examples=examples(40), stateful_step_count=60)
TestWorld = World.TestCase

"""Which kind of runner is asked for next: the choice alone, and in a fleet."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_flame.core.pool import Pool
from dask_flame.scaling.fleet import Decision, Fleet, Phase
from dask_flame.scaling.kind_choice import SETTLE, KindChoice
from dask_flame.scaling.no_room import PAUSE
from tests.support.examples import examples

pytestmark = pytest.mark.unit

H, A = "H100", "A100"
NONE = "0/5 nodes are available: 5 Insufficient nvidia.com/gpu."


def gpus(**options: Any) -> Fleet:
    pool = Pool(**{"max": 8, "gpus": 1, "gpu_kind": [H, A], **options})
    return Fleet(pool, chance=lambda: 0.0, capacity_retry=300)


def kinds(decision: Decision) -> list[str]:
    return [] if decision.boot is None else list(decision.boot.kinds.values())


def refuse(fleet: Fleet, decision: Decision, now: float, why: str = NONE) -> None:
    """All runners of this wave are refused."""
    assert decision.boot is not None
    for name in decision.boot.names:
        fleet.ended(name, now, why, no_capacity=True)


def comes_up(fleet: Fleet, decision: Decision, now: float) -> None:
    assert decision.boot is not None
    for name in decision.boot.names:
        fleet.registered(name, now)


def test_a_wave_is_of_the_first_kind_and_then_of_the_next() -> None:
    fleet = gpus()
    first = fleet.decide(0, 3)
    assert kinds(first) == [H, H, H]
    assert first.boot is not None
    assert first.boot.reason.endswith(": 3 of H100")
    refuse(fleet, first, 60)
    second = fleet.decide(60 + SETTLE, 3)
    assert kinds(second) == [A, A, A]
    assert second.boot is not None
    assert second.boot.reason.endswith(f": 3 of A100; H100 has none: {NONE}")
    assert [m.kind for m in fleet.members.values()] == [A, A, A]
    assert fleet.failures == 0
    assert not fleet.crowded


def test_refusals_that_come_one_by_one_make_one_wave() -> None:
    fleet = gpus()
    first = fleet.decide(0, 3)
    assert first.boot is not None
    for number, name in enumerate(first.boot.names):
        now = 60 + number * SETTLE / 4
        fleet.ended(name, now, NONE, no_capacity=True)
        decision = fleet.decide(now, 3)
        assert decision.boot is None
        assert decision.wake == 60 + SETTLE
    assert kinds(fleet.decide(60 + SETTLE, 3)) == [A, A, A]


def test_the_first_kind_is_tried_again_with_one_runner_and_then_with_all() -> None:
    fleet = gpus()
    refuse(fleet, fleet.decide(0, 2), 60)
    comes_up(fleet, fleet.decide(61, 2), 70)
    assert kinds(fleet.decide(359, 3)) == [A]
    trial = fleet.decide(361, 6)
    assert kinds(trial) == [H, A, A]
    assert trial.boot is not None
    assert ": 1 of H100 to see if there are any again, 2 of A100" in trial.boot.reason
    assert kinds(fleet.decide(362, 7)) == [A]  # the trial is under way
    fleet.registered(trial.boot.names[0], 370)
    assert kinds(fleet.decide(371, 8)) == [H]


def test_a_trial_that_fails_is_repeated_after_the_same_time() -> None:
    fleet = gpus()
    refuse(fleet, fleet.decide(0, 1), 60)
    comes_up(fleet, fleet.decide(61, 1), 70)
    trial = fleet.decide(400, 2)
    assert kinds(trial) == [H]
    refuse(fleet, trial, 460)
    comes_up(fleet, fleet.decide(461, 2), 462)
    second = fleet.decide(759, 3)
    assert kinds(second) == [A]
    comes_up(fleet, second, 759)
    assert kinds(fleet.decide(760, 4)) == [H]


def test_a_boot_of_before_the_refusal_says_nothing_of_now() -> None:
    fleet = gpus()
    first = fleet.decide(0, 2)
    assert first.boot is not None
    slow, refused = first.boot.names
    fleet.ended(refused, 60, NONE, no_capacity=True)
    fleet.registered(slow, 65)
    assert kinds(fleet.decide(66, 3)) == [A, A]


def test_a_runner_that_ended_leaves_room_for_one_of_its_kind() -> None:
    fleet = gpus(idle_timeout=10)
    first = fleet.decide(0, 3)
    assert first.boot is not None
    *up, refused = first.boot.names
    for name in up:
        fleet.registered(name, 5)
    fleet.ended(refused, 60, NONE, no_capacity=True)
    for name in up:
        fleet.ended(name, 61, "killed by SIGKILL")
    assert kinds(fleet.decide(61, 4)) == [H, H, A, A]


def test_all_kinds_refused_is_a_failure_with_all_reasons() -> None:
    fleet = gpus(boot_attempts=2)
    refuse(fleet, fleet.decide(0, 1), 60, "no H")
    refuse(fleet, fleet.decide(61, 1), 120, "no A")
    assert fleet.failures == 1
    waits = fleet.decide(121, 1)
    assert waits.boot is None or waits.give_up is None
    again = fleet.decide(130, 1) if waits.boot is None else waits
    assert (
        len(kinds(again)) == 1
    )  # one more round, which begins with the kind of the oldest refusal
    assert kinds(again) == [H]
    refuse(fleet, again, 190, "no H")
    decision = fleet.decide(190, 1)
    assert decision.give_up is not None
    assert decision.give_up.reason.endswith("H100 has none: no H; A100 has none: no A")


def test_all_kinds_refused_beside_runners_is_no_failure() -> None:
    fleet = gpus()
    first = fleet.decide(0, 4)
    assert first.boot is not None
    fleet.registered(first.boot.names[0], 5)
    for name in first.boot.names[1:]:
        fleet.ended(name, 60, NONE, no_capacity=True)
    second = fleet.decide(61, 4)
    assert second.boot is not None
    fleet.registered(second.boot.names[0], 65)
    for name in second.boot.names[1:]:
        fleet.ended(name, 121, NONE, no_capacity=True)
    assert fleet.crowded
    assert fleet.failures == 0
    waits = fleet.decide(121 + SETTLE, 4)
    assert waits.boot is None
    assert waits.wake == 121 + PAUSE
    assert len(kinds(fleet.decide(121 + PAUSE, 4))) == 1


def test_a_pool_of_one_kind_is_as_full_as_ever() -> None:
    fleet = Fleet(Pool(max=8), chance=lambda: 0.0)
    first = fleet.decide(0, 2)
    assert first.boot is not None
    assert kinds(first) == ["", ""]
    assert first.boot.reason.endswith("max=8)")
    fleet.registered(first.boot.names[0], 1)
    fleet.ended(first.boot.names[1], 1, "none in ams", no_capacity=True)
    assert fleet.crowded
    assert fleet.decide(2, 2).boot is None
    alone = Fleet(Pool(max=8, boot_attempts=1), chance=lambda: 0.0)
    refuse(alone, alone.decide(0, 2), 1, "none in ams")
    give_up = alone.decide(1, 2).give_up
    assert give_up is not None
    assert give_up.reason.endswith("runner-2 none in ams")


def test_other_failures_of_a_kind_are_failures() -> None:
    fleet = gpus(boot_attempts=1)
    first = fleet.decide(0, 1)
    assert first.boot is not None
    fleet.ended(first.boot.names[0], 5, "exit code 1")
    assert fleet.decide(5, 1).give_up is not None
    assert kinds(fleet.decide(5, 1)) == [H]


def test_a_changed_order_applies_to_the_next_boots() -> None:
    fleet = gpus()
    refuse(fleet, fleet.decide(0, 1), 60)
    fleet.resize(gpu_kind=["L4", H, A])
    assert kinds(fleet.decide(61, 1)) == ["L4"]
    fleet.resize(gpu_kind=[H, A])  # the refusal of H100 is not forgotten
    assert kinds(fleet.decide(62, 2)) == [A]
    fleet.resize(gpu_kind=H)
    fleet.ended("runner-2", 63, "there is no L4", no_capacity=True)
    assert fleet.failures == 0


def test_the_combinations_have_an_order() -> None:
    fleet = gpus(spot="prefer")
    assert fleet.kinds.kinds == ("H100, spot", "H100, on demand", "A100, spot", "A100, on demand")
    seen = []
    for now in (0, 60, 120, 180):
        decision = fleet.decide(now + 1, 1)
        seen += kinds(decision)
        refuse(fleet, decision, now + 59)
    assert seen == list(fleet.kinds.kinds)
    assert fleet.failures == 1


# What holds whatever happens

_events = st.lists(
    st.tuples(
        st.sampled_from(["refused", "came up", "freed", "choose"]),
        st.integers(0, 3),
        st.floats(0, 200),
    ),
    max_size=40,
)


@settings(max_examples=examples(100), deadline=None)
@given(number=st.integers(1, 4), retry=st.floats(1, 300), events=_events)
def test_a_choice_is_the_best_that_is_known(
    number: int, retry: float, events: list[tuple[str, int, float]]
) -> None:
    names = [f"kind-{n}" for n in range(number)]
    choice = KindChoice(names, retry)
    refused_at: dict[str, float] = {}  # a model of what is refused, and since when
    tried_at: dict[str, float] = {}
    freed: dict[str, int] = {}
    now = 0.0
    for event, which, later in events:
        now += later
        kind = names[which % number]
        if event == "refused":
            choice.refused(kind, now, "why")
            refused_at[kind] = tried_at[kind] = now
            freed[kind] = 0
        elif event == "came up":
            asked = now - later / 2
            choice.came_up(kind, asked)
            if asked > refused_at.get(kind, now):
                del refused_at[kind]
        elif event == "freed":
            choice.freed(kind, now)
            freed[kind] = freed.get(kind, 0) + 1
        else:
            wave = which * 3 + 1
            due = {k for k in refused_at if freed.get(k, 0) or now >= tried_at[k] + retry}
            assert choice.left(now) == next(
                (k for k in names if k not in refused_at or k in due), None
            )
            chosen = choice.choose(wave, now)
            assert len(chosen) == wave  # always one wave
            open_to = [k for k in names if k not in refused_at]
            if open_to:
                # None of a worse kind, and of a better one only trials.
                assert set(chosen) <= {*due, open_to[0]}
                assert all(names.index(k) <= names.index(open_to[0]) for k in chosen)
            for k in set(chosen) & due:
                if open_to or chosen[-1] != k:
                    assert chosen.count(k) <= max(1, freed.get(k, 0))
            for k in set(chosen) & set(refused_at):
                tried_at[k], freed[k] = now, 0
            assert bool(choice.said(chosen)) == (number > 1)


@settings(max_examples=examples(40), deadline=None)
@given(
    data=st.data(),
    stock=st.fixed_dictionaries({H: st.integers(0, 4), A: st.integers(0, 4), "L4": st.just(8)}),
)
def test_calls_get_runners_wherever_there_are_any(
    data: st.DataObject, stock: dict[str, int]
) -> None:
    """A substrate with a stock of each kind, which changes: the last kind has enough for all."""
    fleet = gpus(gpu_kind=[H, A, "L4"], max=8, idle_timeout="1h")
    now, demand = 0.0, data.draw(st.integers(1, 8))
    for _ in range(12):
        for _ in range(4 * 3):  # each kind may refuse, and the next is asked for
            decision = fleet.decide(now, demand)
            for name, kind in decision.boot.kinds.items() if decision.boot else ():
                used = sum(
                    m.kind == kind and m.phase is Phase.READY for m in fleet.members.values()
                )
                if used < stock[kind]:
                    fleet.registered(name, now)
                else:
                    fleet.ended(name, now, f"no {kind}", no_capacity=True)
            now += SETTLE
        assert fleet.count(Phase.READY) == len(fleet.members) >= demand
        assert fleet.failures == 0
        stock |= {k: data.draw(st.integers(0, 4)) for k in (H, A)}
        now += data.draw(st.sampled_from([1.0, 400.0]))
        for name in data.draw(st.lists(st.sampled_from(list(fleet.members)), unique=True)):
            fleet.ended(name, now, "killed by SIGKILL")
        demand = data.draw(st.integers(1, 8))


def test_the_settings_behind_refusals_are_said_once() -> None:
    choice = KindChoice([H, A], 300)
    choice.refused(H, 0, "no nodes; relevant settings: region")
    assert choice.said([A]) == f"1 of {A}; {H} has none: no nodes"
    choice.refused(A, 0, "no room; relevant settings: region")
    assert choice.reasons == (
        f"{H} has none: no nodes; {A} has none: no room; relevant settings: region"
    )
    choice.refused(A, 1, "no room")
    choice.refused(H, 1, "no nodes")
    assert choice.reasons == f"{H} has none: no nodes; {A} has none: no room"

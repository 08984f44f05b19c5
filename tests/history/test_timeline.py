"""What runners did and when: the record, with no I/O and no clock, and over real runners."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from distributed import Client, Event
from hypothesis import given
from hypothesis import strategies as st

from dask_flame import FlameCluster, Pool
from dask_flame.history.timeline import BUSY, IDLE, RunnerTimeline, StateChange, thin
from dask_flame.scaling.fleet import Fleet
from tests.support.waiting import wait_for

Flame = Callable[..., tuple[FlameCluster, Client]]


def states(life: Any) -> list[str]:
    return [change.state for change in life.changes]


@pytest.mark.unit
def test_a_life_from_its_boot_to_its_end() -> None:
    lives = RunnerTimeline()
    lives.asked(["r-1", "r-2"], "cpu", 100.0, "demand of 2")
    lives.seen("r-1", "idle", 101.0)
    lives.seen("r-1", "busy", 101.5, "train-1")
    lives.seen("r-1", "busy", 101.7, "train-2")
    lives.seen("r-1", "ending", 103.0, "no call for\nmore")
    lives.ended("r-1", 103.5, "ended", "exit code 0\nprinted")
    lives.ended("r-2", 104.0, "failed", "x" * 1000)
    lives.ended("never asked for", 104.0, "lost", "")
    lives.seen("r-1", "idle", 105.0)
    one, two = lives
    assert one.changes == [
        StateChange(100.0, "booting", "demand of 2"),
        StateChange(101.0, "idle"),
        StateChange(101.5, "busy", "train-1"),
        StateChange(103.0, "ending", "no call for"),
    ]
    assert (one.over, one.how, one.why) == (103.5, "ended", "exit code 0")
    assert (one.pool, one.number, two.number, two.how) == ("cpu", 1, 2, "failed")
    assert len(two.why) == 300


@pytest.mark.unit
def test_what_lasted_no_time_is_not_there() -> None:
    lives = RunnerTimeline()
    lives.asked(["a"], "cpu", 5.0, "")
    lives.seen("a", "idle", 5.0)
    lives.seen("a", "busy", 5.0)
    lives.seen("a", "idle", 6.0)
    lives.seen("a", "busy", 6.0)
    # A clock that was put back does no harm.
    lives.seen("a", "ending", 2.0)
    (life,) = lives
    assert states(life) == ["booting", "ending"]
    assert [c.at for c in life.changes] == [5.0, 5.0]
    assert life.rewritten == 3


@pytest.mark.unit
def test_those_that_are_over_are_forgotten_first() -> None:
    lives = RunnerTimeline(kept=3)
    lives.asked(["a", "b", "c"], "cpu", 0, "")
    lives.ended("b", 1, "ended", "")
    lives.asked(["d"], "cpu", 2, "")
    assert [life.name for life in lives] == ["a", "c", "d"]
    lives.asked([f"r-{n}" for n in range(10_000)], "cpu", 3, "")
    assert [life.name for life in lives] == ["r-9997", "r-9998", "r-9999"]
    assert [life.number for life in lives] == [10_002, 10_003, 10_004]


names = st.sampled_from("abcd")
happenings = st.lists(
    st.tuples(
        st.sampled_from(["asked", "seen", "ended"]),
        names,
        st.sampled_from(["idle", "busy", "draining", "ending"]),
        st.integers(-1, 5),
    ),
    max_size=60,
)


@pytest.mark.unit
@given(happenings)
def test_it_is_what_was_told_at_every_moment(happenings: list[tuple[str, str, str, int]]) -> None:
    lives, now = RunnerTimeline(), 0
    told: dict[str, dict[int, str]] = {}
    for what, name, state, later in happenings:
        now += max(later, 0)
        if what == "asked" and name not in told:
            lives.asked([name], "cpu", now, "")
            told[name] = {now: "booting"}
        elif what == "seen" and name in told and "over" not in told[name].values():
            lives.seen(name, state, now)
            # A boot is never over at once.
            born = min(told[name])
            told[name][now + (now == born) * 0.5] = state
        elif what == "ended" and name in told and "over" not in told[name].values():
            lives.ended(name, now, "ended", "")
            told[name][now + 0.75] = "over"
    assert {life.name for life in lives} == told.keys()
    for life in lives:
        times = [change.at for change in life.changes]
        assert times == sorted(times)
        assert all(a != b for a, b in itertools.pairwise(states(life)))
        assert (life.over is not None) == ("over" in told[life.name].values())
        for moment in range(now + 1):
            at = max((t for t in told[life.name] if t <= moment + 0.5), default=None)
            if at is not None and told[life.name][at] != "over":
                seen = [c.state for c in life.changes if c.at <= moment]
                assert seen[-1] == told[life.name][at]


turns = st.lists(
    st.tuples(st.sampled_from(["idle", "busy", "draining", "ending"]), st.floats(0.001, 10)),
    min_size=1,
    max_size=40,
)


@pytest.mark.unit
@given(turns, st.floats(0.01, 20))
def test_thinning_keeps_what_matters(turns: list[tuple[str, float]], grain: float) -> None:
    changes, at = [StateChange(0.0, "booting")], 1.0
    for state, lasts in turns:
        if changes[-1].state != state:
            changes.append(StateChange(at, state))
        at += lasts
    thinned = thin(changes, grain)
    assert (thinned[0], thinned[-1].state) == (changes[0], changes[-1].state)
    assert {c.at for c in thinned} <= {c.at for c in changes}
    assert all(a.state != b.state and a.at < b.at for a, b in itertools.pairwise(thinned))

    def of(changes: list[StateChange], state: str) -> float:
        ends = [*(c.at for c in changes[1:]), at]
        return sum(end - c.at for c, end in zip(changes, ends, strict=True) if c.state == state)

    for state in ("booting", "draining", "ending"):
        assert of(thinned, state) == pytest.approx(of(changes, state))
    assert of(thinned, IDLE) + of(thinned, BUSY) == pytest.approx(
        of(changes, IDLE) + of(changes, BUSY)
    )
    # Once they are put together, the next finer grain finds nothing to do.
    assert len(thin(thinned, grain / 2)) <= len(thinned) <= len(changes)


@pytest.mark.unit
def test_however_often_they_change_they_fill_no_memory() -> None:
    lives, now, chance = RunnerTimeline(changes=2_000), 0.0, random.Random(0)
    names = [f"r-{n}" for n in range(64)]
    lives.asked(names, "cpu", now, "")
    busy = dict.fromkeys(names, 0.0)
    since: dict[str, float] = {}
    for _ in range(200):  # about a call a second on each
        for name in names:
            at = now + chance.random() * 0.2
            lives.seen(name, "busy", at, "call")
            since[name] = at
        now += 0.8
        for name in names:
            at = now + chance.random() * 0.1
            lives.seen(name, "idle", at)
            busy[name] += at - since[name]
        now += 0.2
        assert sum(len(life.changes) for life in lives) <= 2_000
    for life in lives:
        spans = itertools.pairwise([*life.changes, StateChange(now, "over")])
        shown = sum(b.at - a.at for a, b in spans if a.state == BUSY)
        assert shown == pytest.approx(busy[life.name], rel=0.35)
        assert life.changes[-1].state == IDLE


@pytest.mark.unit
def test_ten_thousand_that_cannot_be_fewer_are_not_thinned_again_and_again() -> None:
    lives = RunnerTimeline(kept=1_000, changes=100)
    lives.asked([f"r-{n}" for n in range(1_000)], "cpu", 0, "")
    lives.seen("r-1", "idle", 1)
    before = lives._limit
    for n in range(500):
        lives.seen("r-2", "busy" if n % 2 else "idle", 2 + n)
    assert before == lives._limit == 2_002


@pytest.mark.unit
@given(st.lists(st.tuples(names, st.sampled_from(["add", "busy", "idle", "gone"])), max_size=60))
def test_busy_time_is_the_sum_of_its_parts(happenings: list[tuple[str, str]]) -> None:
    fleet = Fleet(Pool(max=8))
    index, busy, summed = fleet.index, dict[str, float](), 0.0
    for now, (name, what) in enumerate(happenings):
        if what == "add" and name not in index.members:
            index.add(name, now)
        elif what == "gone" and name in index.members:
            index.gone(name, now)
            summed += now - busy.pop(name, now)
        elif what in ("busy", "idle") and name in index.members:
            index.load(name, 2 if what == "busy" else 0, now)
            if what == "busy":
                busy.setdefault(name, now)
            else:
                summed += now - busy.pop(name, now)
        there = sum(now - since for since in busy.values())
        assert index.busy_seconds(now) == pytest.approx(summed + there)
        assert index.news <= index.members.keys()


# Over real runners


@pytest.mark.process
def test_the_lives_of_real_runners(flame: Flame) -> None:
    cluster, client = flame(max=2, idle_timeout="1s")
    go = Event("go", client=client)
    held = [client.submit(_hold, n, key=f"hold-{n}") for n in range(2)]

    def lives() -> dict[str, Any]:
        return {life.name: life for life in cluster._history.timeline}

    wait_for(lambda: [life.state for life in lives().values()] == ["busy", "busy"])
    for life in lives().values():
        assert states(life)[0] == "booting"
        assert life.changes[0].note.startswith("demand of ")
        assert life.changes[-1].note in ("hold-0", "hold-1")
    go.set()
    client.gather(held)
    wait_for(lambda: all(life.how for life in lives().values()))
    for life in lives().values():
        assert states(life)[-2:] == ["idle", "ending"]
        assert life.changes[-1].note == "no call for idle_timeout=1 s"
        assert life.how == "ended"
    busy = cluster.fleets.fleets["default"].index.busy_seconds(1e9)
    paid = cluster._history.usage["default"].runner_seconds
    assert 0 < busy < paid

    last = client.submit(_exit, key="exits")
    wait_for(lambda: any(life.how == "lost" for life in lives().values()))
    last.cancel()


@pytest.mark.process
def test_a_boot_that_fails_is_a_life_that_failed(flame: Flame) -> None:
    cluster, client = flame(max=1, preload=["no_such_module"], boot_attempts=1)
    call = client.submit(int)
    wait_for(lambda: any(life.how == "failed" for life in cluster._history.timeline))
    (life,) = list(cluster._history.timeline)[:1]
    assert states(life)[0] == "booting"
    assert life.why
    assert call.exception() is not None


def _hold(n: int) -> None:
    Event("go").wait("60s")


def _exit() -> None:
    import os

    os._exit(3)

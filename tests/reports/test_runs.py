"""How far a run has come, and when its last call ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dask_flame
from dask_flame.reports import CallReports
from dask_flame.reports.runs import progress

pytestmark = pytest.mark.unit

CALL = CallReports("a", "", "waiting", 1, 0.0, None, {})


def running(share: float | None = None, began: float = 0.0) -> CallReports:
    return replace(CALL, state="running", started=began, progress=share)


def done(seconds: float) -> CallReports:
    return replace(CALL, state="done", started=0.0, finished=seconds, progress=0.9)


def test_a_call_that_tells_its_progress_has_an_end() -> None:
    # A quarter took 10 s, so three more take 30.
    assert progress([running(0.25)], now=10.0).left == 30.0


def test_other_calls_take_as_long_as_those_before() -> None:
    assert progress([done(40.0), done(20.0), done(30.0), running()], now=10.0).left == 20.0


def test_waiting_calls_share_the_slots_of_those_that_run() -> None:
    calls = [running(0.5), running(0.5), CALL, CALL, CALL]
    # Two slots: 10 s each are left of those that run, and three calls of 20 s wait.
    assert progress(calls, now=10.0).left == (10 + 10 + 3 * 20) / 2


def test_nothing_is_made_up() -> None:
    assert progress([running(), CALL], now=5.0).left is None
    assert progress([CALL], now=5.0).left is None
    assert progress([running(0.5), running()], now=5.0).left is None
    assert progress([done(1.0), replace(CALL, state="failed", finished=2.0)], now=5.0).left == 0


def test_calls_that_are_not_kept_wait() -> None:
    found = progress([done(1.0)], now=1.0, total=10)
    assert (found.total, found.waiting, found.done) == (10, 9, 1)


def test_calls_that_were_stopped_are_not_cancelled_ones() -> None:
    given_up = replace(CALL, state="cancelled", finished=2.0)
    stopped = replace(given_up, why="CallStopped('it was stopped by dask_flame.stop()')")
    found = progress([given_up, stopped, stopped], now=5.0)
    assert (found.stopped, found.cancelled, found.total, found.left) == (2, 1, 3, 0)


states: Any = st.sampled_from(["waiting", "running", "done", "failed", "cancelled", "lost"])


@given(
    st.lists(st.tuples(states, st.none() | st.floats(0, 1), st.floats(0, 100)), max_size=8),
    st.floats(0, 200),
)
def test_every_call_counts_once_and_no_time_is_negative(
    given: list[tuple[Any, float | None, float]], now: float
) -> None:
    calls = [
        replace(CALL, state=s, progress=p, started=t, finished=t + 1 if s == "done" else None)
        for s, p, t in given
    ]
    found = progress(calls, now)
    ended = found.done, found.failed, found.stopped, found.cancelled
    counts = found.waiting, found.running, *ended
    assert sum(counts) == found.total == len(calls)
    assert found.left is None or found.left >= 0


def test_a_name_that_no_message_can_carry_is_escaped() -> None:
    with dask_flame.run("file-\udcff.txt") as made:
        assert made.name == "file-\\udcff.txt"

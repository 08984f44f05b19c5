"""Whoever subscribes to a store knows at every moment what is in it."""

from __future__ import annotations

import logging
import threading
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.reports import Change, ReportStore
from dask_flame.reports.wire import Batch

pytestmark = pytest.mark.unit


def batch(key: Any = "call", run: str = "a", *, first: int = 0, n: int = 1) -> Batch:
    steps = range(first, first + n)
    return Batch(key, run, "r0", False, steps, [float(i) for i in steps], {"loss": [0.5] * n})


def test_every_change_is_told_with_what_it_has_changed() -> None:
    store, told = ReportStore(), list[Change]()
    store.add(batch("before"))
    known = store.subscribe(told.append)
    assert list(known) == ["before"]
    one, two = batch(n=2), batch(run="b")
    store.add(one)
    store.end("call", "failed", 7.0)
    store.begin("call", 8.0)
    store.add(batch(first=2))  # of a run that is over
    store.add(two)
    store.unsubscribe(told.append)
    store.end("call", "done", 9.0)
    assert told == [
        Change("reports", "call", 1, "running", 0.0, one),
        Change("end", "call", 1, "failed", 7.0),
        Change("begin", "call", 2, "running", 8.0),
        Change("reports", "call", 2, "running", 0.0, two),
    ]


def test_a_subscriber_may_read_the_store() -> None:
    store, seen = ReportStore(), []
    store.subscribe(lambda change: seen.append((store.get(change.key), len(store.calls))))
    store.add(batch())
    assert seen == [(store.get("call"), 1)]
    assert store.get("other") is None


def test_one_that_fails_is_told_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    store, told = ReportStore(), []

    def fails(change: Change) -> None:
        told.append("fails")
        raise RuntimeError("on purpose")

    store.subscribe(fails)
    store.subscribe(lambda change: told.append("works"))
    with caplog.at_level(logging.ERROR, "dask_flame"):
        store.add(batch())
        store.add(batch(first=1))
    assert told == ["fails", "works", "works"]
    assert "a subscriber of reports has failed" in caplog.text


@given(st.integers(0, 300))
def test_nothing_is_missing_and_nothing_twice_between_what_was_and_what_comes(wait: int) -> None:
    store, started, got = ReportStore(), threading.Event(), list[int]()

    def write() -> None:
        for i in range(300):
            store.add(batch(first=i))
            if i == wait:
                started.set()
        started.set()

    writer = threading.Thread(target=write)
    writer.start()
    started.wait()
    known = store.subscribe(lambda c: got.extend(c.batch.steps if c.batch else ()))
    writer.join()
    assert [*known["call"].series["loss"].steps, *got] == list(range(300))


acts = st.tuples(
    st.sampled_from("abcde"),
    st.sampled_from(["reports", "reports", "reports", "another run", "begin", "end"]),
    st.integers(1, 120),
)


def act(store: ReportStore, runs: dict[str, int], key: str, what: str, n: int) -> None:
    if what == "begin" and key in store:
        store.begin(key, float(n))
    elif what == "end" and key in store:
        store.end(key, "failed", float(n))
    else:
        runs[key] += what == "another run"
        store.add(batch(key, str(runs[key]), n=n))


@given(st.lists(acts, max_size=40), st.integers(0, 40))
def test_a_store_can_be_copied_at_any_moment_and_follow(
    made: list[tuple[str, str, int]], at: int
) -> None:
    limits = {"calls": 4, "points": 150, "total": 600}
    store, copy = ReportStore(**limits), ReportStore(**limits)
    runs = dict.fromkeys("abcde", 0)
    copy.add(batch("nonsense"))
    renewed: list[Change] = []
    copy.subscribe(renewed.append)
    for i in range(len(made) + 1):
        if i == min(at, len(made)):
            sent = msgpack.packb(store.dump())
            copy.load(msgpack.unpackb(sent, use_list=False))
            assert copy.calls == store.calls
            assert {c.key for c in renewed} == set(store.calls)
            assert {c.what for c in renewed} <= {"renewed"}
            store.subscribe(copy.take)
        if i < len(made):
            act(store, runs, *made[i])
    assert copy.calls == store.calls
    assert (copy._total, copy._curves) == (store._total, store._curves)

"""A call that reports very many names costs what it reports, and there is a most of them."""

from __future__ import annotations

import logging
import pickle
import tracemalloc
from typing import Any

import dask
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dask_flame
from dask_flame.errors import PoolError
from dask_flame.reports import Reports, ReportStore
from dask_flame.reports.runner.validate import COMPLAINTS, LONGEST_NAME
from dask_flame.reports.wire import Batch, RunningCall, decode, encode

names = st.sampled_from("abcdef")
reports = st.lists(st.dictionaries(names, st.floats(allow_nan=False), min_size=1), max_size=20)


@pytest.mark.unit
@given(reports)
def test_what_is_sent_is_what_was_reported(made: list[dict[str, float]]) -> None:
    call = RunningCall("call", "run", False)
    sent = encode("r0", [(call, step, float(step), each) for step, each in enumerate(made)])
    batches = list(decode(msgpack.unpackb(msgpack.packb(sent))))
    assert [each for batch in batches for each in batch.each()] == made
    assert sum(batch.size for batch in batches) == sum(map(len, made))
    store = ReportStore()
    for batch in batches:
        store.add(batch)
    series = store.calls["call"].series if made else {}
    for name in "abcdef":
        here = [(step, each[name]) for step, each in enumerate(made) if name in each]
        got = series.get(name)
        assert here == ([] if got is None else list(zip(got.steps, got.values, strict=True)))


@pytest.mark.unit
def test_a_batch_of_many_names_is_as_large_as_what_was_reported() -> None:
    call = RunningCall("call", "run", False)
    records = [(call, i, float(i), {f"name-{i}": 0.5}) for i in range(1_000)]
    one = len(msgpack.packb(encode("r0", [(call, i, float(i), {"n": 0.5}) for i in range(1_000)])))
    assert len(msgpack.packb(encode("r0", records))) < 3 * one  # it was 50 times as large


def _adding(store: ReportStore, calls: int, names: int) -> None:
    for call in range(calls):
        values = {f"{call}-{name}": [1.0] for name in range(names)}
        store.add(Batch(f"call-{call}", "a", "r0", False, [0], [float(call)], values))


@pytest.mark.unit
def test_names_of_many_calls_have_a_most_of_memory(caplog: pytest.LogCaptureFixture) -> None:
    tracemalloc.start()
    try:
        store = ReportStore(total=500_000)
        with caplog.at_level(logging.WARNING, "dask_flame"):
            _adding(store, 300, 100)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    kept = store.calls
    assert len(kept) == 300
    assert sum(len(call.series) for call in kept.values()) == store._curves == 5_000
    assert used < 15e6
    # Said once, with what to do.
    (line,) = [r.getMessage() for r in caplog.records if "series" in r.getMessage()]
    assert "5000 series" in line
    assert "Report fewer names" in line


@pytest.mark.unit
def test_where_calls_have_finished_they_make_room() -> None:
    store = ReportStore(total=100_000)  # 1,000 series
    for call in range(50):
        values = {f"{call}-{name}": [1.0] for name in range(100)}
        store.add(Batch(f"call-{call}", "a", "r0", False, [0], [float(call)], values))
        store.end(f"call-{call}", "done", float(call))
    assert len(store.calls) == 10
    assert all(len(call.series) == 100 for call in store.calls.values())
    assert store._curves == 1_000


@pytest.mark.unit
def test_earlier_attempts_count() -> None:
    store = ReportStore(total=100_000)
    for run in range(20):
        values = {f"{run}-{name}": [1.0] for name in range(400)}
        store.add(Batch("call", str(run), "r0", False, [0], [float(run)], values))
        call = store._calls["call"]
        assert store._curves == call.series <= 1_000
    assert len(store.calls["call"].series) == 400


def report_many(number: int, each: int) -> int:
    for first in range(0, number, each):
        dask_flame.report({f"n{i}": float(i) for i in range(first, first + each)}, step=first)
    dask_flame.report(n0=7.0)
    dask_flame.report({"x" * (LONGEST_NAME + 1): 1.0, "\ud800": 1.0, "y" * LONGEST_NAME: 2.0})
    return number


def complain_much() -> None:
    for i in range(200):
        dask_flame.report({f"bad{i}": "no number"})


@pytest.mark.process
def test_a_call_has_a_most_of_names_and_is_told_once(
    flame: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with dask.config.set({"flame.reports.names": 300, "flame.prints.burst": 1000}):
        cluster, client = flame(max=1, idle_timeout="10m")
    many = client.submit(report_many, 2_000, 1, pure=False)
    wide = client.submit(report_many, 2_000, 500, pure=False)
    assert client.gather([many, wide]) == [2_000, 2_000]
    client.submit(complain_much).result()
    calls = cluster.reports.calls
    for future in (many, wide):
        series = calls[future.key].series
        assert len(series) == 300
        assert "n299" in series
        assert list(series["n0"].values) == [0.0, 7.0]  # those that it had go on
    cluster.close()
    shown = capfd.readouterr().out
    assert shown.count("more than 300 different names") == 2
    assert "flame.reports.names" in shown
    assert "a name of 201 characters" in shown or "no text" in shown
    assert shown.count("must be one real number") == COMPLAINTS
    assert shown.count("what else is wrong in this call is not said") == 1


@pytest.mark.unit
@pytest.mark.parametrize("wrong", [0, "many", -1, 1.5])
def test_a_most_that_is_none_is_refused(wrong: Any) -> None:
    setting = dask.config.set({"flame.reports.names": wrong})
    with setting, pytest.raises(PoolError, match=r"flame\.reports\.names=.*write"):
        Reports()
    with pytest.raises(PoolError, match=r"names=.*write names=1_000"):
        Reports(names=wrong)


@pytest.mark.unit
def test_its_settings_travel_with_the_plugin() -> None:
    made = pickle.loads(pickle.dumps(Reports(names=7, hide_random=False)))
    assert (made._names, made._hide) == (7, False)

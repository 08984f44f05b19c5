"""What a call reports arrives: all of it, in order, and before the call's end is known."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster
from distributed.protocol.pickle import dumps, loads
from hypothesis import given
from hypothesis import strategies as st

import dask_flame
from dask_flame.reports import CallReports, Reports, ReportStore, Series, report
from dask_flame.reports.downsample import LEAST, thin
from dask_flame.reports.runner.report import _warn_unregistered
from dask_flame.reports.runner.sender import ReportSender
from dask_flame.reports.wire import NAME, TOPIC, Batch, RunningCall, decode, encode
from tests.reports.calls import (
    Flag,
    Trainer,
    bad,
    concurrently,
    counts,
    dies_once,
    fails_once,
    holds,
    idle,
    leaves_its_slot,
    odd,
    timed,
    train,
    unnamed_reports,
    until,
)
from tests.support.waiting import wait_for

numbers = st.floats() | st.integers(-3, 3).map(float)


def same(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(
        x == y or (x != x and y != y) for x, y in zip(a, b, strict=True)
    )


def batch(key: Any = "call", run: str = "a", runner: str = "r0", **values: list[Any]) -> Batch:
    n = max((len(v) for v in values.values()), default=0)
    rows = {k: [i for i, v in enumerate(c) if v is not None] for k, c in values.items()}
    rows = {k: r for k, r in rows.items() if len(r) < n}
    values = {k: [v for v in c if v is not None] for k, c in values.items()}
    times = [float(i) for i in range(n)]
    return Batch(key, run, runner, False, range(n), times, values, rows=rows)


# What may be reported


class Torchlike:
    """Has what a tensor has, as report() must not need torch."""

    def __init__(self, value: Any, shape: tuple[int, ...] = ()) -> None:
        self.value, self.shape, self.ndim = value, shape, len(shape)

    def item(self) -> Any:
        return self.value

    def __repr__(self) -> str:
        return f"Torchlike({self.value!r}, {self.shape})"


class Broken:
    def __float__(self) -> float:
        raise RuntimeError("the device is lost")

    def __repr__(self) -> str:
        raise RuntimeError("the device is lost")


@pytest.mark.unit
@pytest.mark.parametrize(
    "value",
    [
        1.0,
        1,
        True,
        -0.0,
        math.nan,
        -math.inf,
        2**70,
        np.float32(0.1),
        np.int64(-3),
        np.array(2.5),
        Fraction(1, 3),
        Decimal("0.1"),
        Torchlike(0.5),
        Torchlike(0.5, (1,)),
        np.ones((1, 1)),
        None,
    ],
    ids=repr,
)
def test_real_numbers_are_taken(value: Any) -> None:
    report(loss=value)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ["no value"]),
        ({"loss": "0.5"}, ["loss='0.5'", "one real number", "str"]),
        ({"loss": b"1"}, ["loss=b'1'"]),
        ({"loss": [1.0]}, ["loss=[1.0]", "list"]),
        ({"loss": 1j}, ["loss=1j", "complex"]),
        ({"loss": Torchlike(1j)}, ["loss="]),
        ({"loss": Broken()}, ["loss=<Broken", "not Broken"]),
        ({"loss": np.ones((2, 9999))}, ["ndarray of shape (2, 9999)", "loss=x.mean()"]),
        ({"loss": 10**400}, ["too large"]),
        ({"acc": 1.0, "loss": "x"}, ["loss='x'"]),
        ({"step": -1, "loss": 1.0}, ["step=-1", "0 to 2**53 - 1", "next step"]),
        ({"step": 2**53, "loss": 1.0}, ["0 to 2**53 - 1"]),
        ({"step": 1.5, "loss": 1.0}, ["step=1.5", "whole number", "float"]),
        ({"step": math.nan, "loss": 1.0}, ["step=nan"]),
        ({"step": "1", "loss": 1.0}, ["step='1'"]),
        ({"step": True, "loss": 1.0}, ["step=True"]),
        ({"step": 3}, ["no value"]),
    ],
    ids=lambda values: ",".join(values) if isinstance(values, dict) else None,
)
def test_anything_else_is_told_in_one_line_with_one_that_works(
    values: dict[str, Any], words: list[str]
) -> None:
    with pytest.warns(UserWarning, match="report") as caught:
        report(**values)
    (message,) = [str(w.message) for w in caught]
    assert caught[0].filename == __file__
    assert len(message) < 400
    assert "\n" not in message
    for word in [*words, "report(step=1, "]:
        assert word in message


@pytest.mark.unit
def test_outside_a_task_nothing_happens() -> None:
    assert dask_flame.report is report
    report(step=np.int32(3), loss=0.5)
    report(step=4.0, loss=0.5)  # type: ignore[arg-type]
    bound = report.bind()
    bound(loss=0.5)
    assert bound.env == {}
    thread = threading.Thread(target=report, kwargs={"loss": 0.5})
    thread.start()
    thread.join()


# On the wire

records = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 2**53 - 1),
        st.floats(0, 1e10),
        st.dictionaries(st.sampled_from(["loss", "acc", "rate"]), numbers, min_size=1),
    ),
    max_size=30,
)


@pytest.mark.unit
@given(records)
def test_the_wire_keeps_every_report_in_order(made: list[Any]) -> None:
    calls = [RunningCall(key, f"run-{i}", False) for i, key in enumerate(["a", ("b", 1), "c"])]
    message = encode("r0", [(calls[i], *rest) for i, *rest in made])
    for sent in (message, msgpack.unpackb(msgpack.packb(message), use_list=False)):
        got = {b.key: b for b in decode(sent)}
        for i, call in enumerate(calls):
            mine = [(step, at, values) for j, step, at, values in made if j == i]
            if not mine:
                assert call.key not in got
                continue
            b = got[call.key]
            assert (b.execution, b.runner, b.actor) == (call.execution, "r0", False)
            assert list(b.steps) == [step for step, _, _ in mine]
            assert list(b.times) == [at for _, at, _ in mine]
            for name in {name for _, _, values in mine for name in values}:
                want = [values[name] for _, _, values in mine if name in values]
                assert same(b.values[name], want)
                rows = [row for row, (_, _, values) in enumerate(mine) if name in values]
                assert list(b.rows.get(name, range(len(mine)))) == rows


# Thinning


@pytest.mark.unit
@given(st.lists(numbers, min_size=1, max_size=300), st.integers(LEAST, 60))
def test_thinning_keeps_ends_extremes_and_order(values: list[float], limit: int) -> None:
    kept = thin(values, limit)
    assert len(kept) <= limit
    assert kept == sorted(set(kept))
    assert (kept[0], kept[-1]) == (0, len(values) - 1)
    if len(values) <= limit:
        assert len(kept) == len(values)
    finite = [v for v in values if v == v]
    chosen = [values[i] for i in kept if values[i] == values[i]]
    if finite:
        assert (min(chosen), max(chosen)) == (min(finite), max(finite))
    if len(finite) < len(values):
        assert len(chosen) < len(kept)


@pytest.mark.unit
@given(st.lists(numbers, min_size=61, max_size=300), st.integers(LEAST, 60))
def test_thinning_keeps_the_extremes_of_every_bucket(values: list[float], limit: int) -> None:
    kept = set(thin(values, limit))
    inner = len(values) - 2
    size = math.ceil(inner / ((limit - 2) // 3))
    for low in range(0, inner, size):
        bucket = range(1 + low, 1 + min(low + size, inner))
        finite = [values[i] for i in bucket if values[i] == values[i]]
        chosen = [values[i] for i in bucket if i in kept and values[i] == values[i]]
        assert chosen or not finite
        if finite:
            assert (min(chosen), max(chosen)) == (min(finite), max(finite))
        nans = [i for i in bucket if values[i] != values[i]]
        assert not nans or nans[0] in kept


@pytest.mark.unit
def test_thinning_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="limit=4 is too small"):
        thin([1.0] * 10, 4)


# The store


@pytest.mark.process
def test_a_store_keeps_what_was_reported() -> None:
    store = ReportStore()
    assert (store.calls, len(store), "call" in store) == ({}, 0, False)
    store.add(batch(loss=[3.0, math.nan], acc=[None, 0.5]))
    store.add(replace(batch(loss=[1.0]), steps=[7], times=[7.0], runner="r1"))
    call = store.calls["call"]
    assert call == CallReports("call", "r1", "running", 1, 0.0, None, call.series)
    assert list(call.series) == ["loss", "acc"]
    loss, acc = call.series.values()
    assert isinstance(loss, Series)
    assert (list(loss.steps), list(loss.times)) == ([0, 1, 7], [0.0, 1.0, 7.0])
    assert same(loss.values, [3.0, math.nan, 1.0])
    assert (list(acc.steps), list(acc.values), len(acc)) == ([1], [0.5], 1)


@pytest.mark.process
def test_a_snapshot_does_not_change_and_is_made_once() -> None:
    store = ReportStore()
    store.add(batch("a", loss=[1.0]))
    store.add(batch("b", loss=[1.0]))
    before, version = store.calls, store.version
    assert store.version == version
    store.add(batch("a", loss=[2.0]))
    after = store.calls
    assert store.version != version
    assert list(before["a"].series["loss"].values) == [1.0]
    assert list(after["a"].series["loss"].values) == [1.0, 2.0]
    assert after["b"] is before["b"]
    before.clear()
    assert len(store.calls) == 2


@pytest.mark.process
def test_a_call_that_runs_again_starts_a_new_attempt() -> None:
    store = ReportStore()
    store.add(batch(run="a", loss=[1.0, 2.0]))
    store.end("call", "failed", 9.0)
    assert (store.calls["call"].state, store.calls["call"].finished) == ("failed", 9.0)

    store.begin("call", 10.0)
    call = store.calls["call"]
    assert (call.state, call.attempt, call.started, call.finished) == ("running", 2, 10.0, None)
    assert call.series == {}
    store.add(batch(run="a", loss=[5.0]))  # what the first runner still had on its way
    assert store.calls["call"].series == {}

    store.add(batch(run="b", loss=[3.0]))
    store.add(batch(run="c", loss=[4.0]))  # its begin was not seen
    store.add(batch(run="b", loss=[5.0]))
    call = store.calls["call"]
    assert (call.attempt, call.state) == (3, "running")
    assert list(call.series["loss"].values) == [4.0]


@pytest.mark.process
def test_what_earlier_attempts_have_reported_is_kept() -> None:
    store = ReportStore()
    for run in range(6):
        store.add(batch(run=str(run), loss=[float(run)] * 3))
        if run % 2:
            store.end("call", "failed", float(run))
            store.begin("call", run + 0.5)
            assert store.calls["call"].series == {}
    earlier = store.calls["call"].earlier
    assert [(c.attempt, c.state) for c in earlier] == [(4, "failed"), (5, "lost"), (6, "failed")]
    assert [list(c.series["loss"].values) for c in earlier] == [[r] * 3 for r in (3.0, 4.0, 5.0)]
    assert all(c.earlier == () for c in earlier)


@pytest.mark.process
def test_a_series_says_of_how_many_points_it_is() -> None:
    store = ReportStore(points=100)
    for i in range(5):
        store.add(batch(loss=[float(j) for j in range(i, i + 90)]))
    loss = store.calls["call"].series["loss"]
    assert (len(loss) <= 100, loss.made) == (True, 450)


@pytest.mark.unit
def test_finished_calls_go_first_and_oldest_first() -> None:
    store = ReportStore(calls=3)
    for key in "abc":
        store.add(batch(key, loss=[1.0]))
    store.end("c", "done", 1.0)
    store.end("b", "failed", 1.0)
    store.add(batch("d", loss=[1.0]))
    assert list(store.calls) == ["a", "c", "d"]
    store.add(batch("e", loss=[1.0]))
    assert list(store.calls) == ["a", "d", "e"]
    store.add(batch("f", loss=[1.0]))
    assert list(store.calls) == ["d", "e", "f"]


reported = st.tuples(
    st.sampled_from("abcdef"),
    st.sampled_from(["loss", "acc"]),
    st.integers(1, 400),
    st.sampled_from(["runs on", "runs again", "ends"]),
)


@pytest.mark.process
@given(st.lists(reported, max_size=25))
def test_a_store_is_bounded(made: list[tuple[str, str, int, str]]) -> None:
    store = ReportStore(calls=4, points=150, total=800)
    runs = dict.fromkeys("abcdef", 0)
    for key, name, n, then in made:
        values = [float(i * 7919 % 101) for i in range(n)]
        store.add(batch(key, str(runs[key]), **{name: values}))
        runs[key] += then == "runs again"
        if then == "ends":
            store.end(key, "done", 1.0)
        calls = store.calls
        assert len(calls) == len(store) <= 4
        sizes = [len(s) for c in calls.values() for s in c.series.values()]
        before = [len(s) for c in calls.values() for e in c.earlier for s in e.series.values()]
        assert max(sizes + before) <= 150
        assert store._total == sum(sizes) + sum(before)
        assert store._curves == len(sizes) + len(before) <= 8
        assert sum(sizes) + sum(before) <= max(800, sum(sizes))
        # Running calls alone may be more, by what a curve needs at least.
        assert sum(sizes) <= 8 * 100
        assert calls[key].series[name].values[-1] == values[-1]


@pytest.mark.unit
def test_limits_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(ValueError, match="points=10"):
        ReportStore(points=10)


@pytest.mark.process
def test_reading_while_writing() -> None:
    store, stop, torn = ReportStore(points=200), threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            for call in store.calls.values():
                for s in call.series.values():
                    if not len(s.steps) == len(s.values) == len(s.times):
                        torn.append(s)

    thread = threading.Thread(target=read)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        for i in range(300):
            store.add(batch(i % 5, loss=[float(i)] * 10))
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert not torn


@pytest.mark.unit
def test_the_plugin_travels() -> None:
    plugin = loads(dumps(Reports(calls=7)))
    assert isinstance(plugin, Reports)
    assert plugin.store.limits[0] == 7
    assert loads(dumps(ReportSender(interval=3, size=4))).size == 4


# On a real cluster


@contextlib.contextmanager
def cluster_of(
    n: int = 1, *, processes: bool = True, threads_per_worker: int = 2, plugins: Any = ()
) -> Iterator[Client]:
    """A stock cluster and its client; its HTTP server is on a free port, without a dashboard."""
    with (
        LocalCluster(
            n_workers=n,
            processes=processes,
            threads_per_worker=threads_per_worker,
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False, "plugins": plugins},
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module", autouse=True)
def _tracker() -> None:
    # Python's own helper of multiprocessing, which ends with this process and not with a test.
    resource_tracker.ensure_running()


@pytest.fixture(scope="module")
def processes() -> Iterator[Client]:
    with cluster_of(2) as client:
        client.register_plugin(Reports())
        yield client


@pytest.fixture(params=["processes", "threads"])
def client(request: pytest.FixtureRequest, processes: Client) -> Iterator[Client]:
    if request.param == "processes":
        yield processes
    else:
        # One for each test: its threads are this process's, and must end with the test.
        with cluster_of(2, processes=False) as client:
            client.register_plugin(Reports())
            yield client


def plugin_of(client: Client) -> Reports:
    plugin = client.cluster.scheduler.plugins[NAME]
    assert isinstance(plugin, Reports)
    return plugin


def store_of(client: Client) -> ReportStore:
    return plugin_of(client).store


def key() -> str:
    return f"call-{uuid.uuid4().hex}"


def series(client: Client, key: str, name: str = "loss") -> Series:
    return store_of(client).calls[key].series[name]


@pytest.mark.process
def test_all_is_there_when_the_result_is(client: Client) -> None:
    # At once, and without waiting: it was sent before the result.
    for n in (1, 10, 2000):
        before = time.time()
        future = client.submit(train, n, key=key())
        runner = future.result()
        call = store_of(client).calls[future.key]
        loss = call.series["loss"]
        assert list(loss.steps) == list(range(n))
        assert list(loss.values) == [i / 2 for i in range(n)]
        assert list(loss.times) == sorted(loss.times)
        assert before - 1 <= loss.times[0] <= loss.times[-1] <= time.time() + 1
        assert (call.runner, call.state, call.attempt) == (runner, "done", 1)
        assert call.finished is not None
        assert call.finished >= call.started


@pytest.mark.process
def test_all_is_there_when_the_error_is(client: Client) -> None:
    future = client.submit(train, 50, raises=True, key=key())
    with pytest.raises(RuntimeError, match="on purpose"):
        future.result()
    call = store_of(client).calls[future.key]
    assert call.state == "failed"
    assert list(call.series["loss"].steps) == list(range(50))


@pytest.mark.process
@pytest.mark.parametrize("key", [("block", 3, 2.5), 7, ("a", ("b", "c"))])
def test_all_that_dask_takes_as_a_key_is_a_key(client: Client, key: Any) -> None:
    future = client.submit(train, 3, key=key)
    future.result()
    call = store_of(client).calls[key]
    assert (call.state, list(call.series["loss"].steps)) == ("done", [0, 1, 2])


@pytest.mark.process
def test_many_calls_at_once_are_kept_apart(client: Client) -> None:
    futures = [client.submit(train, 20 + i, rate=float(i), key=key()) for i in range(40)]
    client.gather(futures)
    for i, future in enumerate(futures):
        assert list(series(client, future.key).steps) == list(range(20 + i))
        assert set(series(client, future.key, "rate").values) == {float(i)}


@pytest.mark.process
def test_reports_are_seen_while_the_call_runs(client: Client, tmp_path: Path) -> None:
    flag = Flag(tmp_path)
    future = client.submit(until, flag, 3, key=key())
    wait_for(lambda: future.key in store_of(client))
    wait_for(lambda: len(series(client, future.key)) == 3)
    assert store_of(client).calls[future.key].state == "running"
    flag.set()
    future.result()
    assert store_of(client).calls[future.key].state == "done"


@pytest.mark.process
def test_nan_and_infinities_arrive_as_such(client: Client) -> None:
    values = [1.0, math.nan, math.inf, -math.inf, 5e-324, -0.0]
    future = client.submit(odd, values, key=key())
    future.result()
    assert same(series(client, future.key).values, values)


@pytest.mark.process
def test_steps_go_on_from_the_last_one(client: Client) -> None:
    for _ in range(2):
        future = client.submit(counts, key=key())
        future.result()
        assert list(series(client, future.key).steps) == [0, 1, 10, 4, 5]
        assert list(series(client, future.key, "acc").steps) == [1, 11]


@pytest.mark.process
def test_a_bad_value_is_told_once_and_never_the_calls_error(client: Client) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        future = client.submit(bad, key=key())
        assert future.result() == "trained"
        told = [str(w.message) for w in caught]
    # In this process a worker's own warning is seen as well as the one that was sent.
    assert len({t for t in told if "loss='low'" in t}) == 1
    assert len([t for t in told if "loss='low'" in t]) <= 2
    assert any("step=-7" in t and future.key in t for t in told)
    loss, acc = series(client, future.key), series(client, future.key, "acc")
    assert (list(loss.values), list(loss.steps)) == ([1.0, 2.0], [0, 4])
    assert list(acc.steps) == [1, 2, 3]


@pytest.mark.process
def test_calls_that_secede_or_are_coroutines_report_too(client: Client) -> None:
    seceding = client.submit(leaves_its_slot, key=key())
    coroutines = [client.submit(concurrently, n, key=key(), pure=False) for n in (3, 4, 5, 6)]
    client.gather([seceding, *coroutines])
    assert list(series(client, seceding.key).values) == [1.0, 2.0]
    for n, future in zip((3, 4, 5, 6), coroutines, strict=True):
        assert list(series(client, future.key).values) == [float(n)] * n


@pytest.mark.process
def test_methods_of_actors_report_under_their_runner(client: Client) -> None:
    made = client.submit(Trainer, actor=True, key=key())
    actor = made.result()
    runner = {actor.step(n).result() for n in range(3)}.pop()
    (shown,) = wait_for(lambda: _actors(client, runner))
    wait_for(lambda: len(series(client, shown)) == 3)
    assert store_of(client).calls[shown].state == "running"
    assert list(series(client, made.key).values) == [9.0]


def _actors(client: Client, runner: str) -> list[Any]:
    return [k for k in store_of(client).calls if str(k).endswith(f".step@{runner}")]


@pytest.mark.process
def test_a_retry_is_another_attempt(client: Client, tmp_path: Path) -> None:
    future = client.submit(fails_once, Flag(tmp_path), retries=1, key=key())
    future.result()
    call = store_of(client).calls[future.key]
    assert (call.state, call.attempt) == ("done", 2)
    assert list(call.series["loss"].values) == [1.0]


@pytest.mark.process
def test_a_cancelled_call_says_so(client: Client, tmp_path: Path) -> None:
    flag = Flag(tmp_path)
    future = client.submit(until, flag, 2, key=key())
    wait_for(lambda: future.key in store_of(client))
    future.cancel()
    wait_for(lambda: store_of(client).calls[future.key].state == "cancelled")
    flag.set()
    # Its thread has come back when nothing runs any more.
    wait_for(lambda: not any(client.processing().values()))


@pytest.mark.process
def test_registering_twice_changes_nothing(client: Client) -> None:
    before = plugin_of(client)
    client.register_plugin(Reports())
    assert plugin_of(client) is before


@pytest.mark.process
def test_calls_that_do_not_report_are_not_kept(client: Client) -> None:
    version = store_of(client).version
    client.gather(client.map(lambda i: i, range(50), pure=False))
    assert store_of(client).version == version


@pytest.mark.process
def test_nothing_is_polled_when_there_is_nothing_to_send(client: Client) -> None:
    client.gather([client.submit(train, 5, key=key()) for _ in range(8)])
    wait_for(lambda: all(client.run(idle).values()))


@pytest.mark.process
def test_what_a_report_costs(client: Client, record_property: Callable[[str, Any], None]) -> None:
    # Noted, not asserted: other programs share this machine.
    best, mean = client.submit(timed, 20_000, key=key()).result()
    record_property("microseconds per report, best of 5 and mean", (best, mean))
    print(f"report(): {best:.1f} µs at best, {mean:.1f} µs with what it starts")


# What needs a cluster of its own


class Held:
    """A call that has reported seven times and runs on."""

    def __init__(self, client: Client, folder: Path) -> None:
        started, self.go = Flag(folder), Flag(folder)
        self.future = client.submit(holds, started, self.go, key=key())
        started.wait()

    @property
    def key(self) -> Any:
        return self.future.key

    def end(self) -> None:
        self.go.set()
        self.future.result()


def send_hourly(client: Client, size: int = 10**9) -> None:
    """Let time send nothing more; what is then sent has another reason."""
    client.register_plugin(ReportSender(interval=3600, size=size), name=NAME)
    # An idle runner's first batch does not wait, and so begins the hour.
    client.submit(train, 1, key=key()).result()


@pytest.mark.process
@pytest.mark.parametrize("processes", [True, False])
def test_what_is_left_is_sent_at_the_end_of_a_call(processes: bool) -> None:
    with cluster_of(processes=processes) as client:
        client.register_plugin(Reports())
        send_hourly(client)
        for n in (1, 500):
            future = client.submit(train, n, key=key())
            future.result()
            assert len(series(client, future.key)) == n


@pytest.mark.process
def test_what_is_left_is_sent_at_the_end_of_the_plugin(tmp_path: Path) -> None:
    with cluster_of(processes=False) as client:
        client.register_plugin(Reports())
        send_hourly(client)
        call = Held(client, tmp_path)
        client.register_plugin(ReportSender(), name=NAME)
        wait_for(lambda: call.key in store_of(client))
        assert len(series(client, call.key)) == 7
        call.end()


@pytest.mark.process
def test_what_is_left_is_sent_at_the_end_of_the_runner(tmp_path: Path) -> None:
    with cluster_of() as client:
        client.register_plugin(Reports())
        send_hourly(client)
        call = Held(client, tmp_path)
        client.retire_workers(list(client.scheduler_info(n_workers=-1)["workers"]))
        wait_for(lambda: call.key in store_of(client))
        assert len(series(client, call.key)) == 7
        call.go.set()


@pytest.mark.process
def test_enough_reports_are_sent_at_once(tmp_path: Path) -> None:
    with cluster_of(processes=False) as client:
        client.register_plugin(Reports())
        send_hourly(client, size=5)
        call = Held(client, tmp_path)
        wait_for(lambda: call.key in store_of(client))
        call.end()
        assert len(series(client, call.key)) == 7


@pytest.mark.process
def test_the_call_of_a_lost_runner_is_another_attempt(tmp_path: Path) -> None:
    with cluster_of(2, threads_per_worker=1) as client:
        client.register_plugin(Reports())
        store = store_of(client)
        future = client.submit(dies_once, Flag(tmp_path), key=key())
        wait_for(lambda: future.key in store)
        runner = store.calls[future.key].runner
        states: list[str] = []
        store.end = _noting(store.end, states)  # type: ignore[method-assign]
        (nanny,) = [w for w in client.cluster.workers.values() if str(w.name) == runner]
        psutil.Process(nanny.pid).kill()
        again = future.result()
        call = store.calls[future.key]
        assert states == ["lost", "done"]
        assert (call.runner, call.state, call.attempt) == (again, "done", 2)
        assert len(call.series["loss"]) == 1


def _noting(end: Callable[..., None], states: list[str]) -> Callable[..., None]:
    def noted(key: Any, state: Any, at: float, why: str = "") -> None:
        states.append(state)
        end(key, state, at, why)

    return noted


@pytest.mark.process
def test_the_actor_of_a_lost_runner_is_lost() -> None:
    with cluster_of(processes=False) as client:
        client.register_plugin(Reports())
        made = client.submit(Trainer, actor=True, key=key())
        runner = made.result().step(1).result()
        (shown,) = wait_for(lambda: _actors(client, runner))
        client.cluster.scale(0)
        wait_for(lambda: store_of(client).calls[shown].state == "lost")


@pytest.mark.process
def test_a_worker_that_comes_later_reports_too() -> None:
    with cluster_of(0, processes=False) as client:
        client.register_plugin(Reports())
        client.cluster.scale(1)
        future = client.submit(train, 5, key=key())
        future.result()
        assert len(series(client, future.key)) == 5


@pytest.mark.process
def test_a_scheduler_may_be_started_with_it() -> None:
    with cluster_of(processes=False, plugins=[Reports()]) as client:
        future = client.submit(train, 5, key=key())
        future.result()
        assert len(series(client, future.key)) == 5


@pytest.mark.process
def test_a_restart_ends_what_runs(tmp_path: Path) -> None:
    with cluster_of() as client:
        client.register_plugin(Reports())
        call = Held(client, tmp_path)
        wait_for(lambda: call.key in store_of(client))
        client.restart()
        assert store_of(client).calls[call.key].state == "cancelled"


@pytest.mark.process
def test_what_was_reported_can_be_read_after_the_end() -> None:
    with cluster_of(processes=False) as client:
        client.register_plugin(Reports())
        client.submit(train, 5, key="call").result()
        store = store_of(client)
    assert len(store.calls["call"].series["loss"]) == 5


@pytest.mark.process
def test_without_the_plugin_it_warns_once() -> None:
    _warn_unregistered.cache_clear()
    with cluster_of(processes=False) as client:
        with pytest.warns(UserWarning, match=r"client.register_plugin\(dask_flame.Reports\(\)\)"):
            client.submit(train, 3, key=key()).result()
        client.submit(train, 3, key=key()).result()


@pytest.mark.process
def test_any_client_can_follow_the_topic() -> None:
    with cluster_of(processes=False) as client:
        client.register_plugin(Reports())
        got: list[Batch] = []
        client.subscribe_topic(TOPIC, lambda event: got.extend(decode(event[1])))
        future = client.submit(train, 30, key=key())
        runner = future.result()
        wait_for(lambda: sum(len(b.steps) for b in got) == 30)
        assert {(b.key, b.runner) for b in got} == {(future.key, runner)}
        client.unsubscribe_topic(TOPIC)


@pytest.mark.process
@pytest.mark.filterwarnings(r"ignore:report\(\) got a value without a name")
def test_values_without_names_are_taken_from_mappings_and_else_refused(client: Client) -> None:
    client.submit(unnamed_reports, key="call").result()
    call = wait_for(lambda: store_of(client).get("call"))
    assert {name: list(s.values) for name, s in call.series.items()} == {
        "val/loss": [0.5],
        "loss": [0.25],
    }
    with pytest.warns(UserWarning, match="of type int; a line that works: report"):
        report(5)  # here, where it reports nothing
    report({"loss": 1.0})

"""What an open page is told of the calls."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_flame.charts.colors import Palette
from dask_flame.dashboard.flame.feed import Feed
from dask_flame.reports import CallReports, ReportStore, Series
from dask_flame.reports.wire import Batch

pytestmark = pytest.mark.unit


class Viewer:
    """Does with what it is told as browser/calls.js does."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self.points: dict[int, list[tuple[float, float]]] = {}

    def take(self, told: dict[str, Any] | None) -> None:
        if told is None:
            return
        if told["anew"]:
            self.rows.clear()
            self.points.clear()
        for number in told["gone"]:
            del self.rows[number]
            self.points.pop(number, None)
        self.rows |= {row["id"]: row for row in told["rows"]}
        at = 0
        for number, n, replace in told["runs"]:
            xs, ys = told["x"][at : at + n], told["y"][at : at + n]
            new = list(zip(xs.tolist(), ys.tolist(), strict=True))
            self.points[number] = new if replace else self.points[number] + new
            at += n
        assert at == len(told["x"]) == len(told["y"]) == len(told["t"])

    def curve(self, key: str, attempt: int = 1) -> list[tuple[float, float]]:
        (row,) = [r for r in self.rows.values() if (r["key"], r["attempt"]) == (key, attempt)]
        return self.points.get(row["id"], [])


def batch(key: str, steps: range, run: str = "r", runner: str = "a", **names: float) -> Batch:
    values = {name: [slope * step for step in steps] for name, slope in names.items()}
    times = [float(step) for step in steps]
    return Batch(key, run, runner, False, list(steps), times, values)


def feed(**options: int) -> Feed:
    return Feed(Palette(), **options)


def test_the_first_word_is_all_there_is_and_then_what_is_new() -> None:
    store, page, viewer = ReportStore(), feed(), Viewer()
    told = page.next(store.calls)
    assert told is not None
    assert (told["metric"], told["rows"], told["runs"]) == ("", [], [])
    assert page.next(store.calls) is None

    store.add(batch("a", range(3), loss=2.0, rate=1.0))
    viewer.take(told := page.next(store.calls))
    assert told is not None
    assert (told["metric"], told["metrics"], told["higher"]) == ("loss", ["loss", "rate"], False)
    assert viewer.curve("a") == [(0, 0), (1, 2), (2, 4)]
    (row,) = viewer.rows.values()
    assert (row["best"], row["at"], row["step"], row["last"]) == (0, 0, 2, 4)
    assert row["others"] == [["rate", 2.0]]

    store.add(batch("a", range(3, 5), loss=2.0))
    viewer.take(told := page.next(store.calls))
    assert told is not None
    assert told["runs"] == [[row["id"], 2, False]]
    assert viewer.curve("a") == [(i, 2 * i) for i in range(5)]
    store.end("a", "done", 9.0)
    viewer.take(told := page.next(store.calls))
    assert told is not None
    assert (len(told["runs"]), told["rows"][0]["state"], told["rows"][0]["took"]) == (0, "done", 9)
    assert page.next(store.calls) is None


def test_another_metric_and_what_was_lost_are_told_anew() -> None:
    store, page, viewer = ReportStore(), feed(), Viewer()
    store.add(batch("a", range(3), loss=2.0, accuracy=1.0))
    viewer.take(page.next(store.calls))
    viewer.take(told := page.next(store.calls, "accuracy"))
    assert told is not None
    assert (told["anew"], told["higher"], told["metric"]) == (True, True, "accuracy")
    assert viewer.curve("a") == [(0, 0), (1, 1), (2, 2)]
    assert page.next(store.calls, "accuracy") is None
    page.forget()
    again = Viewer()
    again.take(page.next(store.calls, "accuracy"))
    assert again.curve("a") == viewer.curve("a")
    # What is not known, or no longer, is not drawn.
    told = page.next(store.calls, "nothing")
    assert told is not None
    assert told["metric"] == "loss"


def test_attempts_keep_their_own_curves() -> None:
    store, page, viewer = ReportStore(), feed(), Viewer()
    store.add(batch("a", range(3), "first", "one", loss=1.0))
    viewer.take(page.next(store.calls))
    store.end("a", "lost", 3.0)
    store.begin("a", 4.0)
    viewer.take(page.next(store.calls))
    assert viewer.curve("a", 2) == []
    store.add(batch("a", range(2), "second", "two", loss=5.0))
    viewer.take(page.next(store.calls))
    assert viewer.curve("a", 1) == [(0, 0), (1, 1), (2, 2)]
    assert viewer.curve("a", 2) == [(0, 0), (1, 5)]
    shown = {r["attempt"]: (r["latest"], r["runner"], r["state"]) for r in viewer.rows.values()}
    assert shown == {1: (False, "one", "lost"), 2: (True, "two", "running")}


def test_calls_that_the_store_has_dropped_go() -> None:
    store, page, viewer = ReportStore(calls=1), feed(), Viewer()
    store.add(batch("a", range(3), loss=1.0))
    viewer.take(page.next(store.calls))
    store.add(batch("b", range(2), loss=1.0))
    viewer.take(page.next(store.calls))
    assert [row["key"] for row in viewer.rows.values()] == ["b"]
    # A call of the same name is another one.
    store.add(batch("a", range(1), "again", loss=1.0))
    viewer.take(page.next(store.calls))
    assert viewer.curve("a") == [(0, 0)]


def test_runners_keep_their_colours_on_all_pages() -> None:
    store, palette = ReportStore(), Palette()
    store.add(batch("a", range(1), runner="one", loss=1.0))
    store.add(batch("b", range(1), runner="two", loss=1.0))
    viewers = []
    for _ in range(2):
        viewers.append(Viewer())
        viewers[-1].take(Feed(palette).next(store.calls))
    for viewer in viewers:
        assert {r["runner"]: r["color"] for r in viewer.rows.values()} == {"one": 0, "two": 1}


def test_a_call_with_a_name_that_dask_made_up_is_named_by_its_arguments() -> None:
    token = "0123456789abcdef" * 2
    series = {"loss": Series([0], [1.0], [0.0], 1)}

    def call(key: str, arguments: str) -> CallReports:
        return CallReports(key, "r", "running", 1, 0.0, None, series, arguments=arguments)

    calls = [call(f"train-{token}", "rate=0.1"), call("mine", "rate=0.2"), call(token, "")]
    calls += [call(f"train-{token}-{i}", "rate=0.3") for i in range(2)]
    viewer = Viewer()
    viewer.take(feed().next({c.key: c for c in calls}))
    names = [row["name"] for row in viewer.rows.values()]
    assert names[:3] == ["rate=0.1", "mine", "012345"]
    assert len(set(names)) == 5
    assert all("rate=0.3" in name for name in names[3:])


def test_a_name_that_others_make_shorter_is_told_anew() -> None:
    series = {"loss": Series([0], [1.0], [0.0], 1)}
    first, second = (
        CallReports(f"{n}" * 32, "r", "running", 1, 0.0, None, series, arguments=f"rate={n}, on=1")
        for n in (1, 2)
    )
    page, viewer = feed(), Viewer()
    viewer.take(page.next({first.key: first}))
    assert [row["name"] for row in viewer.rows.values()] == ["rate=1, on=1"]
    viewer.take(told := page.next({first.key: first, second.key: second}))
    assert [row["name"] for row in viewer.rows.values()] == ["rate=1", "rate=2"]
    assert told is not None
    assert len(told["runs"]) == 1


calls = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 250), st.booleans()), max_size=30)


@settings(deadline=None)
@given(calls, st.sampled_from([100, 400, 4000]), st.sampled_from([1, 900, 100_000]))
def test_a_page_has_what_the_store_has_or_fewer_points_of_it(
    said: list[tuple[str, int, bool]], kept: int, held: int
) -> None:
    store, page, viewer = ReportStore(points=kept), feed(points=held), Viewer()
    made: dict[str, int] = {}
    for key, n, look in said:
        first = made.get(key, 0)
        store.add(batch(key, range(first, first + n), loss=1.0))
        made[key] = first + n
        if look:
            viewer.take(page.next(store.calls))
    viewer.take(page.next(store.calls))
    for key, n in made.items():
        known = store.calls[key].series["loss"]
        curve = viewer.curve(key)
        xs = [x for x, _ in curve]
        assert xs == sorted(set(xs))
        assert all(x == y for x, y in curve)
        assert (xs[0], xs[-1]) == (0, n - 1)
        if held == 100_000 and len(known) == n:
            assert xs == list(known.steps)
        # Twice its share of what a page is to hold; the first call's share was all of it.
        assert len(xs) <= 2 * max(200, held)


def test_values_that_are_no_numbers_arrive_as_they_are() -> None:
    values = [math.nan, 2.0, math.inf, -math.inf]
    series = {"loss": Series(range(4), values, [0.0] * 4, 4)}
    viewer = Viewer()
    viewer.take(feed().next({"a": CallReports("a", "r", "done", 1, 0.0, 1.0, series)}))
    ys = [y for _, y in viewer.curve("a")]
    assert math.isnan(ys[0])
    assert ys[1:] == values[1:]
    (row,) = viewer.rows.values()
    assert (row["best"], row["at"]) == (2.0, 1)

"""What an open page is told of the calls."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_flame.charts.colors import Palette
from dask_flame.dashboard.flame.feed import Feed, Wanted
from dask_flame.reports import CallReports, ReportStore, Series
from dask_flame.reports.runs import Run
from dask_flame.reports.wire import Batch

pytestmark = pytest.mark.unit


class Viewer:
    """Does with what it is told as static/calls.js does."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self.points: dict[tuple[int, str], list[tuple[float, float]]] = {}
        self.drawn: list[str] = []

    def take(self, told: dict[str, Any] | None) -> None:
        if told is None:
            return
        if told["anew"]:
            self.rows.clear()
            self.points.clear()
        for number in told["gone"]:
            del self.rows[number]
            for which in [which for which in self.points if which[0] == number]:
                del self.points[which]
        self.rows |= {row["id"]: row for row in told["rows"]}
        self.drawn = told["drawn"]
        for which in [which for which in self.points if which[1] not in self.drawn]:
            del self.points[which]
        at = 0
        for number, metric, n, replace in told["points"]:
            xs, ys = told["x"][at : at + n], told["y"][at : at + n]
            new = list(zip(xs.tolist(), ys.tolist(), strict=True))
            which = number, metric
            self.points[which] = new if replace else self.points[which] + new
            at += n
        assert at == len(told["x"]) == len(told["y"]) == len(told["t"])

    def row(self, key: str, attempt: int = 1) -> dict[str, Any]:
        (row,) = [r for r in self.rows.values() if (r["key"], r["attempt"]) == (key, attempt)]
        return row

    def curve(
        self, key: str, attempt: int = 1, metric: str | None = None
    ) -> list[tuple[float, float]]:
        number = self.row(key, attempt)["id"]
        return self.points.get((number, metric or self.drawn[0]), [])


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
    assert (told["drawn"], told["rows"], told["points"]) == ([], [], [])
    assert page.next(store.calls) is None

    store.add(batch("a", range(3), loss=2.0, rate=1.0))
    viewer.take(told := page.next(store.calls))
    assert told is not None
    assert (told["drawn"], told["metrics"]) == (["loss"], ["loss", "rate"])
    assert told["better"] == [["loss", "min"], ["rate", "min"]]
    assert viewer.curve("a") == [(0, 0), (1, 2), (2, 4)]
    (row,) = viewer.rows.values()
    assert row["step"] == 2
    assert row["metrics"] == [["loss", 0, 0, 4, 3, 3], ["rate", 0, 0, 2, 3, 3]]

    store.add(batch("a", range(3, 5), loss=2.0))
    viewer.take(told := page.next(store.calls))
    assert told is not None
    assert told["points"] == [[row["id"], "loss", 2, False]]
    assert viewer.curve("a") == [(i, 2 * i) for i in range(5)]
    store.end("a", "done", 9.0)
    viewer.take(told := page.next(store.calls))
    assert told is not None
    assert (len(told["points"]), told["rows"][0]["state"], told["rows"][0]["took"]) == (
        0,
        "done",
        9,
    )
    assert page.next(store.calls) is None


def test_another_metric_and_what_was_lost_are_told_anew() -> None:
    store, page, viewer = ReportStore(), feed(), Viewer()
    store.add(batch("a", range(3), loss=2.0, accuracy=1.0))
    viewer.take(page.next(store.calls))
    accuracy = Wanted(("accuracy",))
    viewer.take(told := page.next(store.calls, wanted=accuracy))
    assert told is not None
    assert (told["anew"], told["drawn"], told["rows"]) == (False, ["accuracy"], [])
    assert viewer.curve("a") == [(0, 0), (1, 1), (2, 2)]
    assert page.next(store.calls, wanted=accuracy) is None
    page.forget()
    again = Viewer()
    again.take(told := page.next(store.calls, wanted=accuracy))
    assert told is not None
    assert told["anew"]
    assert again.curve("a") == viewer.curve("a")
    # What is not known, or no longer, is not drawn.
    told = page.next(store.calls, wanted=Wanted(("nothing",)))
    assert told is not None
    assert told["drawn"] == ["loss"]


def test_several_metrics_are_drawn_and_only_the_new_ones_are_sent() -> None:
    store, page, viewer = ReportStore(), feed(), Viewer()
    store.add(batch("a", range(3), loss=2.0, accuracy=1.0))
    viewer.take(page.next(store.calls))
    both = Wanted(("loss", "accuracy"))
    viewer.take(told := page.next(store.calls, wanted=both))
    assert told is not None
    assert [(metric, n) for _, metric, n, _ in told["points"]] == [("accuracy", 3)]
    store.add(batch("a", range(3, 4), loss=2.0, accuracy=1.0))
    viewer.take(told := page.next(store.calls, wanted=both))
    assert told is not None
    assert [(metric, n) for _, metric, n, _ in told["points"]] == [("loss", 1), ("accuracy", 1)]
    assert viewer.curve("a", metric="loss") == [(i, 2 * i) for i in range(4)]
    assert viewer.curve("a", metric="accuracy") == [(i, i) for i in range(4)]
    # A metric that is drawn again is sent again: the page has dropped its points.
    viewer.take(page.next(store.calls, wanted=Wanted(("loss",))))
    assert viewer.curve("a", metric="accuracy") == []
    viewer.take(page.next(store.calls, wanted=both))
    assert viewer.curve("a", metric="accuracy") == [(i, i) for i in range(4)]


def test_a_page_with_several_metrics_holds_no_more_points() -> None:
    store, page, viewer = ReportStore(points=4000), feed(points=2000), Viewer()
    for key in "ab":
        store.add(batch(key, range(1000), loss=1.0, accuracy=1.0, speed=1.0))
    viewer.take(page.next(store.calls))
    assert sum(map(len, viewer.points.values())) == 2000
    viewer.take(page.next(store.calls, wanted=Wanted(("loss", "accuracy", "speed"))))
    assert len(viewer.points) == 6
    assert sum(map(len, viewer.points.values())) <= 2 * 2000


def call(key: str, state: Any = "done", **attributes: Any) -> CallReports:
    known = {"runner": "r", "attempt": 1, "started": 100.0, "finished": None, "series": {}}
    return CallReports(key, state=state, **{**known, **attributes})


def test_calls_without_reports_are_rows_with_their_state_and_reason() -> None:
    calls = {
        "a": call("a", "waiting", runner="", submitted=90.0),
        "b": call("b", "failed", why="ValueError: no", finished=103.0),
        "c": call("c", "running", progress=0.25),
    }
    viewer = Viewer()
    viewer.take(told := feed().next(calls, now=110.0))
    assert told is not None
    assert (told["metrics"], told["drawn"]) == ([], [])
    waiting, failed, running = (viewer.row(key) for key in "abc")
    assert (waiting["state"], waiting["started"], waiting["submitted"]) == ("waiting", None, 90)
    assert (failed["state"], failed["why"], failed["took"]) == ("failed", "ValueError: no", 3)
    assert (running["progress"], running["left"]) == (0.25, pytest.approx(30))


def test_runs_have_counts_and_the_time_that_is_left() -> None:
    calls = {f"{i}": call(f"{i}", run="one", finished=110.0) for i in range(3)}
    calls["3"] = call("3", "running", run="one")
    calls["4"] = call("4", "failed", run="two", finished=101.0)
    runs = [Run("one", "sweep", 99.0, 6), Run("two", "train", 100.0, 1)]
    page = feed()
    told = page.next(calls, runs, now=104.0)
    assert told is not None
    one, two = told["runs"]
    assert (one["name"], one["total"], one["done"], one["running"]) == ("sweep", 6, 3, 1)
    assert (one["waiting"], one["left"]) == (2, pytest.approx(26))
    assert (two["failed"], two["left"]) == (1, 0)
    # The time alone is no reason for an update: the page counts it down by itself.
    assert page.next(calls, runs, now=105.0) is None
    chosen = page.next(calls, runs, now=106.0, wanted=Wanted(runs=frozenset(["two"])))
    assert chosen is not None
    assert len(chosen["gone"]) == 4
    # A run of an earlier cluster, from an old address.
    assert page.next(calls, runs, now=107.0, wanted=Wanted(runs=frozenset(["no"]))) is not None


def test_runs_that_do_not_report_are_shown_if_they_are_chosen() -> None:
    series = {"loss": Series([0], [1.0], [100.0], 1)}
    runs = [Run("train", "train", 99.0, 2), Run("save", "save", 100.0, 2)]
    saved = {"s": call("s", run="save", finished=103.0), "w": call("w", "waiting", run="save")}
    page, viewer = feed(), Viewer()

    def shown(calls: dict[str, Any], **wanted: Any) -> list[str]:
        told = page.next(calls, runs, now=104.0, wanted=Wanted(**wanted))
        viewer.take(told)
        assert told is None or [run["total"] for run in told["runs"]] == [2, 2]
        seen = [] if told is None else [run["id"] for run in told["runs"] if run["shown"]]
        assert told is None or {row["run"] for row in viewer.rows.values()} <= set(seen)
        return sorted(row["key"] for row in viewer.rows.values())

    assert shown(saved) == ["s", "w"]  # nothing else has reported yet
    calls = {"t": call("t", run="train", series=series), **saved}
    assert shown(calls) == ["t"]
    assert shown(calls, runs=frozenset(["save"])) == ["s", "w"]
    assert shown(calls) == ["t"]
    # A failure is shown, but not one that only follows from another.
    assert shown(calls | {"w": call("w", "failed", run="save", runner="")}) == ["t"]
    assert shown(calls | {"w": call("w", "failed", run="save")}) == ["s", "t", "w"]


def test_the_direction_of_a_metric_is_declared_or_guessed() -> None:
    series = {
        "loss": Series([0, 1], [1.0, 3.0], [0.0, 1.0], 2),
        "accuracy": Series([0, 1], [1.0, 3.0], [0.0, 1.0], 2),
    }
    calls = {"a": call("a", series=series, better={"loss": "max"})}
    viewer = Viewer()
    viewer.take(told := feed().next(calls))
    assert told is not None
    assert told["better"] == [["loss", "max"], ["accuracy", "max"]]
    assert told["declared"] == ["loss"]
    assert [best for _, best, *_ in viewer.row("a")["metrics"]] == [3.0, 3.0]


def test_the_parameters_that_differ_are_named() -> None:
    calls = {
        f"{i}": call(f"{i}", parameters={"data": "mnist", "rate": rate, "layers": 4})
        for i, rate in enumerate([0.1, 0.2])
    }
    told = feed().next(calls)
    assert told is not None
    assert told["parameters"] == ["rate"]
    assert told["rows"][1]["parameters"] == [["data", "mnist"], ["rate", 0.2], ["layers", 4]]


@pytest.mark.parametrize(
    ("sent", "understood"),
    [
        ({}, Wanted()),
        (None, Wanted()),
        ({"metrics": "loss", "runs": 3}, Wanted()),
        ({"metrics": ["a", 1, "a"], "runs": []}, Wanted(("a",))),
        ({"metrics": ["a"], "runs": ["r"]}, Wanted(("a",), frozenset("r"))),
    ],
)
def test_choices_of_a_browser_are_read(sent: Any, understood: Wanted) -> None:
    assert Wanted.read(sent) == understood
    assert Wanted.read(understood.sent()) == understood


def test_the_best_value_is_found_among_new_values_and_after_downsampling() -> None:
    values = [5.0, 1.0, 7.0, 3.0]
    page, viewer = feed(), Viewer()
    for n in range(1, 5):
        series = {"loss": Series(range(n), values[:n], [0.0] * n, n)}
        viewer.take(page.next({"a": call("a", "running", series=series)}))
        at = values.index(min(values[:n]))
        assert viewer.row("a")["metrics"] == [["loss", values[at], at, values[n - 1], n, n]]
    series = {"loss": Series([1, 900], [1.0, 2.0], [0.0] * 2, 900)}
    viewer.take(page.next({"a": call("a", "running", series=series)}))
    assert viewer.row("a")["metrics"] == [["loss", 1.0, 1, 2.0, 2, 900]]


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

    def named(key: str, arguments: str) -> CallReports:
        return call(key, "running", series=series, arguments=arguments)

    calls = [named(f"train-{token}", "rate=0.1"), named("mine", "rate=0.2"), named(token, "")]
    calls += [named(f"train-{token}-{i}", "rate=0.3") for i in range(2)]
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
    assert len(told["points"]) == 1


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
    assert row["metrics"] == [["loss", 2.0, 1, -math.inf, 4, 4]]

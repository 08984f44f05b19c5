"""``watch()``: what is drawn of curves, and that it is drawn while they grow."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import re
import threading
import time
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

import dask_flame
from dask_flame import FlameCluster, FlameError, PoolError, report
from dask_flame.charts.colors import CALL_LINES, Palette
from dask_flame.charts.curves import Board, board, text
from dask_flame.charts.ranking import NOTHING
from dask_flame.charts.ticks import log_ticks, tick, ticks
from dask_flame.dashboard.flame.feed import Feed
from dask_flame.notebook import watch as watching
from dask_flame.notebook.braille import dots
from dask_flame.notebook.svg import svg
from dask_flame.reports import CallReports, Series
from dask_flame.reports.wire import NAME
from tests.notebook.watch_calls import train
from tests.support.waiting import wait_for

Flame = Callable[..., tuple[FlameCluster, Client]]


def call(key: str, state: Any = "running", **series: Sequence[float]) -> CallReports:
    curves = {
        name: Series(range(len(values)), values, [0.0] * len(values))
        for name, values in series.items()
    }
    return CallReports(key, "runner-1", state, 1, 0.0, None, curves)


def of(calls: Sequence[CallReports], **options: Any) -> Board:
    return board([c.key for c in calls], {c.key: c for c in calls}, {}, **options)


def texts(picture: str) -> list[str]:
    root = ET.fromstring(picture)
    return ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("text")]


def paths(picture: str, kind: str) -> list[str]:
    return [
        node.get("d", "")
        for node in ET.fromstring(picture).iter()
        if kind in (node.get("class") or "").split()
    ]


# What is drawn


@pytest.mark.unit
def test_the_best_comes_first_and_stands_out() -> None:
    calls = [call("a", loss=[3, 2]), call("b", "done", loss=[3, 1]), call("c", "failed", loss=[4])]
    drawn = of(calls)
    assert [c.name for c in drawn.curves] == ["b", "a", "c"]
    assert drawn.headline == "best loss so far 1 at step 1 by b"
    assert drawn.title == "3 calls: 1 running, 1 done, 1 failed"
    # Colours are those of the order of submission: a curve keeps its own when ranks change.
    assert [c.color for c in of(calls[:2]).curves] == [c.color for c in drawn.curves[:2]]
    picture = svg(drawn)
    assert 'stroke-width="3.4"' in picture
    assert picture.count('stroke-width="1.6" stroke-opacity') == 2
    words = texts(picture)
    assert words.index("b") < words.index("a") < words.index("c")
    assert "failed" in words


@pytest.mark.unit
@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_call_that_has_no_result_is_not_the_best(state: str) -> None:
    calls = [call("a", state, loss=[0.1]), call("b", "done", loss=[3, 1]), call("c", "done")]
    drawn = of(calls)
    assert [c.name for c in drawn.curves] == ["b", "a", "c"]
    assert drawn.headline == "best loss 1 at step 1 by b"
    assert "  1  b " in text(drawn)
    assert "0.1" not in text(drawn)
    assert of(calls[:1]).leader is None


@pytest.mark.unit
def test_a_call_that_was_stopped_has_not_failed() -> None:
    why = "CallStopped('a was stopped by dask_flame.stop(): it is too slow')"
    stopped = dataclasses.replace(call("a", "cancelled", loss=[0.1]), why=why)
    drawn = board(["a"], {"a": stopped}, {"a": "failed"})  # as its future tells
    assert drawn.title == "1 call: 1 stopped"
    assert "stopped" in texts(svg(drawn))


def diverging() -> list[CallReports]:
    return [
        call("lost", "done", loss=[math.nan, math.nan]),
        call("good", "done", loss=[3, 2]),
        call("blown", "done", loss=[3, 1, math.inf, math.nan]),
        call("back", "done", loss=[3, math.nan, 2.5]),
        call("bad", "failed", loss=[math.nan]),
    ]


@pytest.mark.unit
def test_a_call_that_has_diverged_is_shown_as_such() -> None:
    drawn = of(diverging())
    assert [c.name for c in drawn.curves] == ["blown", "good", "back", "lost", "bad"]
    assert drawn.headline == "best loss 1 at step 1 by blown, last nan"
    words = texts(svg(drawn))
    assert words[words.index("last") + 1 :] == [
        *("blown", "1", "1", "nan"),
        *("good", "2", "1", "2"),
        *("back", "2.5", "2", "2.5"),
        *("lost", "", "", "nan"),
        *("bad", "", "", "failed"),
    ]
    assert svg(drawn).count('class="bad r">nan<') == 2
    assert text(drawn).splitlines() == [
        "5 calls: 4 done, 1 failed; best loss first",
        "  1  blown           1 at step 1        done, last nan",
        "  2  good            2 at step 1        done",
        "  3  back          2.5 at step 2        done",
        f"  {NOTHING}  lost          nan                  done",
    ]
    alone = text(of(diverging()[:1])).splitlines()
    assert alone[1:] == [
        "no value of loss that can be drawn",
        f"  {NOTHING}  lost         nan                  done",
    ]
    many = [call(f"call {n}", "done", loss=[n]) for n in range(20)]
    drawn = of([*diverging(), *many])
    assert "and 13 more, 1 of them nan" in texts(svg(drawn))
    assert text(drawn).endswith("\n     and 14 more, 1 of them nan")


@pytest.mark.unit
def test_colors_are_those_of_the_page() -> None:
    calls = [call(str(i), "done", loss=[i]) for i in range(30)]
    for i, curve in enumerate(of(calls).curves):
        look = CALL_LINES[i % len(CALL_LINES)]
        assert (curve.color, curve.dark, curve.dash) == tuple(look.values())
    (other,) = of(calls[:1], places={"0": 7}).curves
    assert other.color == CALL_LINES[7]["light"]
    picture = svg(of(calls[:1], places={"0": 7}))
    dark = picture[picture.index("prefers-color-scheme: dark) {.c") :]
    assert f"stroke:{CALL_LINES[7]['dark']}" in dark


@pytest.mark.unit
def test_what_is_best_is_judged_by_name_or_said() -> None:
    calls = [call("a", accuracy=[0.1]), call("b", accuracy=[0.9])]
    assert of(calls).curves[0].name == "b"
    assert of(calls, best_is="min").curves[0].name == "a"
    both = [call("a", accuracy=[0.1], loss=[9.0]), call("b", accuracy=[0.9], loss=[1.0])]
    assert of(both).metric == "loss"
    assert of(both, metric="accuracy").metric == "accuracy"
    assert of(both).others == ("accuracy",)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        (board([], {}, {}), "nothing was reported"),
        (board(["a"], {}, {}), "nothing reported yet"),
        (board(["a"], {}, {"a": "done"}), "nothing was reported"),
        (of([call("a", loss=[math.nan])]), "no value of loss that can be drawn"),
        (of([call("a", loss=[1.0])], metric="acc"), "there is loss"),
        (of([call("a", loss=[0.0, -1.0])], log=True), "shows what is above zero"),
    ],
)
def test_there_may_be_nothing_to_draw(drawn: Board, said: str) -> None:
    assert said in " ".join(texts(svg(drawn)))
    assert text(drawn)
    assert not any(bits for row in dots(drawn, 20, 5).rows() for bits, color in row if color)


@pytest.mark.unit
def test_a_gap_is_a_gap_and_a_point_is_a_point() -> None:
    path, _ = paths(svg(of([call("a", loss=[1, 2, math.nan, 1, math.inf, 2])])), "line")
    assert path.count("M") == 3
    path, _ = paths(svg(of([call("a", loss=[1.0])])), "line")
    assert path.endswith("h0")


@pytest.mark.unit
def test_five_hundred_are_thinned_and_the_legend_too() -> None:
    calls = [
        call(f"call {n}", "done", loss=[n + math.sin(i * n) for i in range(1000)])
        for n in range(500)
    ]
    begin = time.thread_time()
    picture = svg(of(calls))
    assert time.thread_time() - begin < 5
    assert len(picture) < 250_000
    assert len(paths(picture, "back")) >= 492
    assert "and 488 more" in texts(picture)
    assert "call 499" not in texts(picture)
    assert text(of(calls)).endswith("and 490 more")


@pytest.mark.unit
def test_names_are_no_markup() -> None:
    picture = svg(of([call("<b>&\"'", **{"<loss>": [1.0]})]))
    assert "<b>&\"'" in texts(picture)
    assert "<loss>" in texts(picture)


_values = st.lists(st.floats(allow_nan=True, width=64), max_size=12)


@pytest.mark.unit
@given(st.lists(st.tuples(_values, st.sampled_from(["running", "done", "lost"])), max_size=12))
def test_whatever_is_reported_is_a_picture(told: list[tuple[list[float], str]]) -> None:
    calls = [call(f"c{n}", state, loss=values) for n, (values, state) in enumerate(told)]
    for log in (False, True):
        drawn = of(calls, log=log)
        picture = svg(drawn)
        root = ET.fromstring(picture)
        for node in root.iter():
            for name in ("x", "y", "cx", "cy"):
                assert 0 <= float(node.get(name, 0)) <= 900, picture
            for number in re.findall(r"[ML](\S+) ", node.get("d", "")):
                assert math.isfinite(float(number)), picture
        assert text(drawn)
        dots(drawn, 30, 6).rows()


@pytest.mark.unit
@given(st.floats(-1e12, 1e12), st.floats(1e-6, 1e12), st.integers(2, 8))
def test_ticks_are_few_round_and_inside(low: float, length: float, about: int) -> None:
    high = low + length
    if not high > low + abs(low) * 1e-9:
        return
    found = ticks(low, high, about)
    assert len(found) <= 2 * about + 1
    assert all(low - length * 1e-6 <= t <= high + length * 1e-6 for t in found)
    assert found == sorted(set(found))


@pytest.mark.unit
def test_ticks_of_logarithms() -> None:
    assert log_ticks(-3, 0) == [-3, -2, -1, 0]
    assert [round(10**t, 3) for t in log_ticks(-1, 0.1)] == [0.1, 0.2, 0.5, 1.0]
    assert len(log_ticks(-300, 300)) <= 7
    assert len(log_ticks(0.01, 0.02)) >= 2
    assert [tick(t, [0, 5e6]) for t in (0, 5e6)] == ["0", "5M"]
    assert tick(1234, [0, 1234]) == "1,234"


@pytest.mark.unit
def test_a_terminal_shows_the_same() -> None:
    console = pytest.importorskip("rich.console")
    from dask_flame.notebook.terminal import Drawn

    calls = [call(f"c{n}", "failed" if n else "done", loss=[9.0, n]) for n in range(30)]
    for width in (40, 200):
        screen = console.Console(width=width, height=30, force_terminal=True, record=True)
        screen.print(Drawn(of(calls)))
        shown = screen.export_text()
        assert "30 calls: 1 done, 29 failed" in shown
        assert re.search("● +c0", shown)
        assert "and 20 more" in shown
        assert re.search(r"[⠁-⣿]", shown)
        assert max(map(len, shown.splitlines())) <= width
        screen.print(Drawn(of(diverging())))
        shown = screen.export_text()
        assert re.search(r"● +blown +1 +1 +nan", shown)
        assert re.search(rf"● +lost +{NOTHING} +{NOTHING} +nan", shown)
        screen.print(Drawn(board(["a"], {}, {})))
        assert "nothing reported yet" in screen.export_text()


# That it is drawn


class Screen:
    """Keeps the boards that it is shown."""

    def __init__(self) -> None:
        self.boards: list[Board] = []
        self.lasts = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    def show(self, drawn: Board, *, last: bool) -> None:
        self.boards.append(drawn)
        self.lasts += last


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen()
    monkeypatch.setattr(watching, "screen", lambda: screen)
    return screen


def _states(drawn: Board) -> Mapping[str, int]:
    return dict(drawn.states)


@pytest.mark.process
def test_curves_grow_while_one_watches(flame: Flame, screen: Screen, tmp_path: Path) -> None:
    _, client = flame(max=2)
    go = tmp_path / "go"
    futures = client.map(train, [1, 3], go=go, key=["one", "three"])

    def see() -> None:
        wait_for(lambda: screen.boards and len(screen.boards[-1].curves) == 2)
        go.touch()

    seeing = threading.Thread(target=see)
    seeing.start()
    assert dask_flame.watch(futures) is None
    seeing.join()
    assert screen.lasts == 1
    last = screen.boards[-1]
    assert _states(last) == {"done": 1, "failed": 1}
    # What calls have reported last is in the last picture.
    assert {c.name: c.last for c in last.curves} == {"one": (5.0, 1.0), "three": (5.0, 3.0)}
    assert any(_states(b).get("running") == 2 for b in screen.boards)
    # Nothing is followed any more, and again it is drawn at once.
    dask_flame.watch(futures[0], metric="loss", best="max")
    assert screen.boards[-1].higher


@pytest.mark.process
def test_a_later_cell_has_the_colors_of_the_page(
    flame: Flame, screen: Screen, tmp_path: Path
) -> None:
    _, client = flame(max=1)
    (tmp_path / "go").touch()
    client.gather(client.map(train, [1, 2], go=tmp_path / "go", key=["one", "two"]))
    futures = client.map(train, [0.5, 0.25], go=tmp_path / "go", key=["half", "quarter"])
    dask_flame.watch(futures)
    shown = {curve.name: curve.color for curve in screen.boards[-1].curves}

    def on_the_page(dask_scheduler: Any) -> dict[str, int]:
        plugin = dask_scheduler.plugins[NAME]
        told = Feed(Palette()).next(plugin.calls(), plugin.runs())
        return {row["key"]: row["place"] for row in told["rows"]}

    places = client.run_on_scheduler(on_the_page)
    assert places == {"one": 0, "two": 1, "half": 2, "quarter": 3}
    assert shown == {key: CALL_LINES[places[key]]["light"] for key in ("half", "quarter")}


@pytest.mark.process
def test_stopping_it_stops_no_call(flame: Flame, screen: Screen, tmp_path: Path) -> None:
    _, client = flame(max=1)
    future = client.submit(train, 1, tmp_path / "go", key="one")

    def stopped(drawn: Board, *, last: bool) -> None:
        Screen.show(screen, drawn, last=last)
        if drawn.curves and not last:
            raise KeyboardInterrupt

    screen.show = stopped  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        dask_flame.watch(future)
    assert screen.lasts == 1
    assert not future.done()
    (tmp_path / "go").touch()
    assert future.result() == 1


@pytest.mark.process
def test_without_a_notebook_or_a_terminal_the_ranking_is_printed(
    flame: Flame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, client = flame(max=2)
    (tmp_path / "go").touch()
    futures = client.map(train, [1, 2], go=tmp_path / "go", key=["one", "two"])
    dask_flame.watch(futures)
    out = capsys.readouterr().out
    assert "2 calls: 2 done; best loss first" in out
    assert re.search(r"^  1  two +0\.1667 at step 4 +done$", out, re.MULTILINE), out


@pytest.mark.process
@pytest.mark.asyncio
async def test_with_an_asynchronous_client(screen: Screen, tmp_path: Path) -> None:
    async with (
        FlameCluster(max=2, asynchronous=True, dashboard_address=None) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        futures = client.map(train, [1, 2], go=tmp_path / "go", key=["one", "two"])
        watching = asyncio.ensure_future(dask_flame.watch(futures))
        await asyncio.to_thread(
            wait_for, lambda: screen.boards and len(screen.boards[-1].curves) == 2
        )
        (tmp_path / "go").touch()
        await watching
    assert _states(screen.boards[-1]) == {"done": 2}


@pytest.mark.process
def test_on_any_dask_cluster(screen: Screen, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        future = client.submit(train, 1, tmp_path / "go")
        with pytest.raises(FlameError, match="Reports"):
            dask_flame.watch(future)
        client.register_plugin(dask_flame.Reports())
        dask_flame.watch(client.submit(train, 2, tmp_path / "go"))
    assert screen.boards[-1].curves[0].last == (5.0, 2.0)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("futures", "options", "said"),
    [
        ([1], {}, "watch\\(\\) takes futures, not int"),
        ([], {"best": "low"}, "best='low' is not one of 'min', 'max'"),
    ],
)
def test_what_is_refused(futures: Any, options: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        dask_flame.watch(futures, **options)


@pytest.mark.process
def test_a_metric_that_nobody_reports(
    flame: Flame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, client = flame(max=1)
    (tmp_path / "go").touch()
    future = client.submit(train, 1, tmp_path / "go", key="one")
    assert future.result(timeout=60) == 1
    # It has ended, so that it will not come.
    with pytest.raises(PoolError) as caught:
        dask_flame.watch(future, metric="los")
    said = "metric='los' was not reported by these calls; there is loss"
    assert str(caught.value) == f'{said}; write metric="loss"'
    # It may come as long as a call runs: nothing is refused, and what is likely a slip is said.
    (tmp_path / "go").unlink()
    future = client.submit(train, 2, tmp_path / "go", key="two")
    wait_for(lambda: "two" in dask_flame.reports_of(client))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        watching = threading.Thread(
            target=dask_flame.watch, args=(future,), kwargs={"metric": "los"}
        )
        watching.start()
        wait_for(lambda: len(told))
        (tmp_path / "go").touch()
        watching.join()
    (warning,) = told
    said = "metric='los' was not reported by these calls yet; it is drawn once it is; there is loss"
    assert said in str(warning.message)
    assert "los was not reported; there is loss" in capsys.readouterr().out


@pytest.mark.process
def test_a_metric_that_comes_later_is_waited_for(
    flame: Flame, screen: Screen, tmp_path: Path
) -> None:
    _, client = flame(max=1)

    def both(go: Path) -> None:
        report(loss=1.0)
        while not go.exists():
            time.sleep(0.01)
        report(score=2.0)

    future = client.submit(both, tmp_path / "go", key="both")

    def see() -> None:
        wait_for(lambda: screen.boards and screen.boards[-1].unreported)
        (tmp_path / "go").touch()

    seeing = threading.Thread(target=see)
    seeing.start()
    dask_flame.watch(future, metric="score")  # warnings are errors
    seeing.join()
    (before,) = {b.nothing for b in screen.boards if b.unreported}
    assert before == ("score was not reported yet", "there is loss")
    assert screen.boards[-1].headline == "best score 2 at step 1 by both"


@pytest.mark.unit
def test_no_futures_are_no_calls(screen: Screen) -> None:
    dask_flame.watch([])
    assert screen.boards[-1].title == "no calls"

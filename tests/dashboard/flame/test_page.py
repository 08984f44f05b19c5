"""The page /flame, in a real browser, shows what the calls reported."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import subprocess
import sys
import urllib.request
import uuid
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from bokeh.server.tornado import BokehTornado
from distributed import Client
from distributed.dashboard.scheduler import template_variables

from dask_flame import Reports, dashboard
from dask_flame.charts.colors import BAD, Palette
from dask_flame.charts.ranking import best, labels, metrics
from dask_flame.core.text import label
from dask_flame.dashboard import install
from dask_flame.dashboard.flame import page as flame_page
from dask_flame.dashboard.mount import mount
from dask_flame.reports import CallReports, Series
from dask_flame.reports.better import guess
from tests.dashboard.flame.page_calls import (
    Flag,
    fails,
    huge,
    never,
    odd,
    odd_names,
    only,
    report_on,
    report_once,
    spread,
    train,
    train_on,
)
from tests.support.browser_help import Browser, Page, cluster_of, get, url
from tests.support.waiting import wait_for

# Words and numbers


def call(key: str = "a", runner: str = "r0", **values: list[float]) -> CallReports:
    series = {
        name: Series(range(len(v)), v, [float(i) for i in range(len(v))])
        for name, v in values.items()
    }
    return CallReports(key, runner, "running", 1, 0.0, None, series)


@pytest.mark.unit
def test_metrics_begin_with_the_loss() -> None:
    assert metrics([]) == []
    assert metrics([call(acc=[1.0], rate=[1.0]), call(loss=[1.0])]) == ["loss", "acc", "rate"]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "higher"),
    [
        ("loss", False),
        ("val/accuracy", True),
        ("Acc", True),
        ("error_rate", False),
        ("reward", True),
        ("score_loss", False),
        ("perplexity", False),
        ("anything", False),
        ("f1", True),
        ("tokens_per_second", True),
    ],
)
def test_which_way_is_better(name: str, higher: bool) -> None:
    assert guess(name) == ("max" if higher else "min")


@pytest.mark.unit
def test_the_best_is_the_first_finite_extreme() -> None:
    series = call(loss=[math.nan, 3.0, -math.inf, 1.0, 5.0, 1.0]).series["loss"]
    assert best(series, higher=False) == (1.0, 3)
    assert best(series, higher=True) == (5.0, 4)
    assert best(call(loss=[math.nan]).series["loss"], higher=True) is None


@pytest.mark.unit
def test_labels_are_short_and_their_own() -> None:
    token = "0123456789abcdef" * 2
    other = token[:-1] + "0"
    assert label(f"train-{token}") == "train-012345"
    assert label(f"train-{uuid.UUID(token)}-17") == "train-012345-17"
    assert label(("block", 0, 1)) == "block, 0, 1"
    keys = [f"train-{token}", f"train-{other}", "rate=0.1"]
    assert list(labels(keys).values()) == ["train-012345", keys[1], "rate=0.1"]


@pytest.mark.unit
def test_a_runner_keeps_its_colour() -> None:
    palette = Palette()
    names = [f"r{i}" for i in range(20)]
    palette.assign(names[:3])
    before = [palette.number(name) for name in names[:3]]
    palette.assign(names[:3][::-1] + names[3:])
    assert [palette.number(name) for name in names[:3]] == before
    assert sorted(map(palette.number, names)) == list(range(20))
    palette.assign(["r2", "new"])
    assert palette.number("r2") == before[2]
    assert palette.number("new") == before[0]


# On a real cluster


@pytest.mark.process
def test_the_plots_list_and_the_navigation_name_it() -> None:
    with cluster_of() as client:
        assert "Flame" not in get(client, "/status")
        client.register_plugin(Reports())
        plots = set(json.loads(get(client, "/individual-plots.json")).values())
        assert {"/individual-flame-curves", "/individual-flame-multiples"} <= plots
        for page in ("/status", "/flame"):
            text = get(client, page)
            assert text.count(">Flame</a>") == 1
            assert text.count(">Flame Curves</a>") == 1


@pytest.mark.process
def test_adding_it_again_does_nothing() -> None:
    with cluster_of(plugins=[Reports()]) as client:
        assert client.cluster.sync(_install, client.cluster.scheduler)
        client.register_plugin(Reports(), name="another")
        assert get(client, "/flame").count(">Flame</a>") == 1


async def _install(scheduler: Any) -> bool:
    return install(scheduler)


@pytest.mark.process
def test_without_a_dashboard_there_is_no_page() -> None:
    with cluster_of(dashboard=False, plugins=[Reports()]) as client:
        assert not install(client.cluster.scheduler)
        assert not mount(client.cluster.scheduler, {})
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(client, "/flame")
        client.submit(train, 0, key="call").result()
        assert "call" in client.cluster.scheduler.plugins["flame-reports"].store


@pytest.mark.process
def test_without_bokeh_there_is_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster_of() as client:
        monkeypatch.delitem(sys.modules, "bokeh")
        assert not install(client.cluster.scheduler)


@pytest.mark.process
def test_a_dashboard_is_built_when_it_is_looked_at() -> None:
    script = """
import sys, urllib.request
from dask_flame import FlameCluster
with FlameCluster(max=1, dashboard_address="127.0.0.1:0") as cluster:
    assert "bokeh" not in sys.modules
    for page in ("", "/flame", "/status", "/individual-flame-curves"):
        link = cluster.dashboard_link.removesuffix("/status") + page
        assert urllib.request.urlopen(link).status == 200, page
    assert "bokeh" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.process
def test_a_page_that_cannot_be_added_does_not_stop_reports(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def moved(scheduler: Any) -> bool:
        raise AttributeError("moved")

    monkeypatch.setattr(dashboard, "install", moved)
    with cluster_of() as client:
        client.register_plugin(Reports())
        client.submit(train, 0, key="call").result()
        assert "call" in client.cluster.scheduler.plugins["flame-reports"].store
    assert "The page /flame could not be added" in caplog.text


@pytest.mark.process
def test_what_is_relied_on_of_bokehs_server_is_there() -> None:
    """If this fails, bokeh's server has moved: see ``mount._serve``."""
    with cluster_of() as client:
        scheduler = client.cluster.scheduler
        (server,) = [
            a for a in scheduler.http_application.applications if isinstance(a, BokehTornado)
        ]
        assert isinstance(server.applications, dict)
        assert server.applications is server.applications
        assert "/flame" not in server.app_paths
        client.register_plugin(Reports())
        assert {"/flame", "/individual-flame-curves"} <= server.app_paths
        ours, theirs = server.applications["/flame"], server.applications["/status"]
        assert type(ours) is type(theirs)
        assert ours.io_loop is theirs.io_loop
        assert {type(h) for h in ours.application.handlers} == {
            type(h) for h in theirs.application.handlers
        }
        assert template_variables(scheduler)["pages"][1] == "flame"
        for path in ("/flame/metadata", "/flame/autoload.js?bokeh-autoload-element=x"):
            assert get(client, path)


# In a real browser


#: A point of a call's curve, in the coordinates of the window.
PLACE = """([name, key, point]) => {
  const view = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name(name));
  const box = view.canvas_view.el.getBoundingClientRect();
  const { data } = Bokeh.documents[0].get_model_by_name(`${name}-lines`);
  const i = data.key.indexOf(key);
  return [box.x + view.frame.x_scale.compute(data.xs[i][point]),
          box.y + view.frame.y_scale.compute(data.ys[i][point])];
}"""
#: What the page knows of each call's latest attempt.
CURVES = """() => [...(window.daskFlame?.calls.byId.values() ?? [])]
  .filter((call) => call.latest)
  .map((call) => [call, call.curve(daskFlame.calls.metric)])
  .map(([{ key, name, runner, state, attempt }, { steps, values }]) => ({
    key, name, runner, state, attempt, xs: [...steps.all], ys: [...values.all] }))"""
#: What is drawn of them: positions, as they are in the figure that is seen.
DRAWN = """() => ["flame", "flame-grid"].flatMap((name) => {
  const doc = Bokeh.documents[0];
  const seen = doc.get_model_by_name(name === "flame" ? "flame-charts" : name)?.visible;
  if (!seen) return [];
  const { data } = doc.get_model_by_name(`${name}-lines`);
  return data.key.map((key, i) => ({
    key, xs: [...data.xs[i]], ys: [...data.ys[i]], color: data.color[i],
    dash: data.dash?.[i], alpha: data.alpha[i], runner: data.runner[i] }));
})"""


#: Whether the other curves are covered, and the keys of those in front.
FRONT = """() => {
  const { strong, veil } = daskFlame.curves.shown[0].parts;
  return [veil.data.left.length > 0, [...strong.data.key]];
}"""
#: Whether the small charts are shown.
SMALL = "() => Bokeh.documents[0].get_model_by_name('flame-grid')?.visible ?? false"
#: Whether the vertical axis has exponents.
EXPONENTS = """() => {
  const [axis] = Bokeh.documents[0].get_model_by_name("flame").left;
  return axis.ticker.type === "FixedTicker" && axis.ticker.ticks.length > 1;
}"""


def curves(page: Page) -> dict[str, dict[str, Any]]:
    return {c["key"]: c for c in page.read(CURVES)}


def lines(page: Page) -> dict[str, dict[str, Any]]:
    return {c["key"]: c for c in page.read(DRAWN)}


def drawn(page: Page, said: Mapping[str, Mapping[str, list[float]]], metric: str = "loss") -> bool:
    """Whether the page draws every point of every call, and no other, and says they are done."""
    known, seen = curves(page), lines(page)
    return known.keys() == seen.keys() == said.keys() and all(
        c["xs"] == seen[key]["xs"] == list(range(len(said[key][metric])))
        and c["ys"] == seen[key]["ys"] == said[key][metric]
        and c["state"] == "done"
        for key, c in known.items()
    )


def choose(page: Page, **choices: Any) -> None:
    """Use the page's controls."""
    for name, value in choices.items():
        if isinstance(value, bool):
            page.do(lambda p, n=name, v=value: p.locator(f"input[name={n}]").set_checked(v))
        elif name in ("metric", "colors"):
            page.do(lambda p, n=name, v=value: p.locator(f"select[name={n}]").select_option(v))
        elif name in ("search", "smoothing"):
            page.do(lambda p, n=name, v=value: p.locator(f"input[name={n}]").fill(str(v)))
        else:
            page.do(lambda p, n=name, v=value: p.click(f"button[name={n}][value={v}]"))


@pytest.mark.browser
def test_before_during_and_after_a_run(
    client: Client, visit: Callable[[str], Page], tmp_path: Path
) -> None:
    flame = url(client, "/flame")
    before = visit(flame)
    before.shows("No reports yet: call dask_flame.report(step=..., loss=...) inside a task.")
    before.shows("workers", "2 idle", "Flame")
    assert curves(before) == {}

    half = Flag(tmp_path)
    futures = [client.submit(train, i, half, key=f"call {i}") for i in range(4)]
    wait_for(lambda: [len(c["xs"]) for c in curves(before).values()] == [20] * 4)
    during = visit(flame)
    wait_for(lambda: [len(c["xs"]) for c in curves(during).values()] == [20] * 4)
    assert {c["state"] for c in curves(during).values()} == {"running"}
    for page in (before, during):
        page.shows("2 busy", "0 of 4 done, 4 running")
        assert "No reports yet" not in page.text()

    half.set()
    said = {future.key: future.result() for future in futures}
    after = visit(flame)
    for page in (before, during, after):
        wait_for(lambda page=page: drawn(page, said))
        page.shows("best 0.025 at step 39 by call 0", "4 of 4 done", "2 idle")
    after.reload()
    wait_for(lambda: drawn(after, said))


@pytest.mark.browser
def test_the_first_points_are_there_within_a_second(
    client: Client, visit: Callable[[str], Page], tmp_path: Path
) -> None:
    """Of several tries the best, as the machine may be busy."""
    page = visit(url(client, "/flame"))
    page.shows("No reports yet")
    page.wait("() => window.daskFlame !== undefined")
    page.read("""() => {
      window.since = {};
      const look = () => {
        for (const call of daskFlame.calls.byId.values()) {
          const { key } = call;
          if (call.curve("loss").length && !(key in since)) since[key] = Date.now() / 1000;
        }
        requestAnimationFrame(look);
      };
      look();
    }""")
    delays = []
    for n in range(5):
        reported = client.submit(report_once, key=f"call {n}").result()
        wait_for(lambda n=n: f"call {n}" in page.read("() => since"))
        delays.append(page.read("() => since")[f"call {n}"] - reported)
    assert min(delays) < 1


@pytest.mark.browser
def test_metrics_and_scale_are_chosen(client: Client, visit: Callable[[str], Page]) -> None:
    page = visit(url(client, "/flame"))
    # The loss is chosen as soon as there is one, until the user has chosen.
    client.submit(only, "accuracy", key="first").result()
    page.shows("best 0.5 at step 0 by first")
    said = {k: client.submit(train, i, key=k).result() for i, k in enumerate("ab")}
    page.shows("best 0.025 at step 39 by a")
    assert page.do(lambda p: p.locator("select[name=metric]").input_value()) == "loss"
    wait_for(lambda: lines(page).keys() == said.keys())

    choose(page, metric="accuracy")
    said["first"] = {"accuracy": [0.5]}
    wait_for(lambda: drawn(page, said, "accuracy"))
    page.shows("best 0.9756 at step 39 by a", "higher is better")

    assert not page.read(EXPONENTS)
    choose(page, log=True)
    wait_for(lambda: page.read(EXPONENTS))
    client.submit(train, 2, key="c").result()
    wait_for(lambda: len(lines(page)) == 4)
    # What is not above zero has no logarithm.
    assert math.isnan(lines(page)["c"]["ys"][0])
    assert curves(page)["c"]["ys"][0] == -0.5
    assert page.do(lambda p: p.locator("select[name=metric]").input_value()) == "accuracy"
    choose(page, log=False)
    wait_for(lambda: not page.read(EXPONENTS))


@pytest.mark.browser
def test_time_smoothing_colours_and_search(client: Client, visit: Callable[[str], Page]) -> None:
    page = visit(url(client, "/flame"))
    said = {k: client.submit(train, i, key=k).result() for i, k in enumerate(["one", "two"])}
    wait_for(lambda: drawn(page, said))
    choose(page, x="seconds")
    wait_for(lambda: lines(page)["one"]["xs"][-1] < 30)
    seconds = lines(page)["one"]["xs"]
    assert 0 <= seconds[0] <= seconds[-1]
    assert seconds == sorted(seconds)
    page.wait(
        "() => Bokeh.documents[0].get_model_by_name('flame').below[0].axis_label"
        " == 'time since each call began'"
    )
    choose(page, x="steps")
    wait_for(lambda: drawn(page, said))

    choose(page, smoothing=0.5)
    wait_for(lambda: lines(page)["one"]["ys"] != said["one"]["loss"])
    mean, norm = 0.0, 0.0
    for value, smooth in zip(said["one"]["loss"], lines(page)["one"]["ys"], strict=True):
        mean, norm = 0.5 * mean + 0.5 * value, 0.5 * norm + 0.5
        assert smooth == pytest.approx(mean / norm)
    choose(page, smoothing=0)

    for by in ("call", "rank"):
        choose(page, colors=by)
        wait_for(lambda: len({line["color"] for line in lines(page).values()}) == 2)
    choose(page, search="tw")
    wait_for(lambda: lines(page).keys() == {"two"})
    page.shows("1 of 2 calls shown")
    choose(page, search="nothing like it")
    wait_for(lambda: not lines(page))
    page.shows("0 of 2 calls shown")
    choose(page, search="")
    wait_for(lambda: drawn(page, said))


@pytest.mark.browser
def test_a_chart_for_each_runner(client: Client, visit: Callable[[str], Page]) -> None:
    page = visit(url(client, "/flame"))
    where = {
        f"call {i}": client.submit(train_on, i, key=f"call {i}", workers=[i % 2]).result()
        for i in range(4)
    }
    wait_for(lambda: len(lines(page)) == 4)
    choose(page, colors="runner", view="grid")
    wait_for(lambda: page.read(SMALL))
    wait_for(lambda: len(lines(page)) == 4)
    shown = lines(page)
    assert {key: line["runner"] for key, line in shown.items()} == where
    page.shows("each chart: loss 0.025 to 4, step 0 to 39")
    cells = page.read("() => Bokeh.documents[0].get_model_by_name('flame-grid-cells').data")
    assert len(cells["left"]) == 2
    for i, runner in enumerate(sorted(set(where.values()))):
        for line in (line for line in shown.values() if line["runner"] == runner):
            assert all(cells["left"][i] <= x <= cells["right"][i] for x in line["xs"])
            assert all(cells["top"][i] <= y <= cells["bottom"][i] for y in line["ys"])
    titles = page.read("() => Bokeh.documents[0].get_model_by_name('flame-grid-titles').data.text")
    assert {str(name) for name in where.values()} <= set(titles)
    # Nothing is drawn again without a change.
    page.read("""async () => {
      window.redrawn = 0;
      Bokeh.documents[0].get_model_by_name("flame-grid-lines").change.connect(() => redrawn++);
      daskFlame.plan();
      await new Promise(requestAnimationFrame);
      await new Promise(requestAnimationFrame);
    }""")
    assert page.read("() => redrawn") == 0
    # The mouse finds a call in its cell.
    page.point(PLACE, ["flame-grid", "call 2", 20])
    page.shows("call 2loss")


@pytest.mark.browser
def test_values_that_are_not_finite_are_gaps(client: Client, visit: Callable[[str], Page]) -> None:
    page = visit(url(client, "/flame"))
    client.gather([client.submit(odd, key="odd"), client.submit(never, key="never")])
    page.shows("best 1 at step 4 by odd", "NaN")
    wait_for(lambda: len(lines(page)) == 2)
    ys = lines(page)["odd"]["ys"]
    assert [y == y for y in ys] == [False, True, False, False, True, False]
    y_range = (
        "() => { const r = Bokeh.documents[0].get_model_by_name('flame').y_range;"
        " return [r.start, r.end] }"
    )
    wait_for(lambda: page.read(y_range) == pytest.approx([0.95, 2.05]))


@pytest.mark.browser
def test_failed_and_retried_calls_are_marked(client: Client, visit: Callable[[str], Page]) -> None:
    page = visit(url(client, "/flame"))
    with pytest.raises(ValueError, match="7"):
        client.submit(fails, 7, key="bad").result()
    again = client.submit(fails, 8, key="again", retries=1)
    with pytest.raises(ValueError, match="8"):
        again.result()
    wait_for(lambda: curves(page).get("again", {}).get("attempt") == 2)
    page.shows("2 failed", "again attempt 2")
    page.point(PLACE, ["flame", "bad", 0])
    page.shows("failed: ValueError(7)")
    marks = "() => Bokeh.documents[0].get_model_by_name('flame-ends').data"
    wait_for(lambda: len(page.read(marks)["marker"]) == 3)
    assert set(page.read(marks)["marker"]) == {"x"}
    assert page.read(marks)["color"].count(BAD) == 3
    # The attempt before is there, behind the others.
    assert [line["dash"] for line in page.read(DRAWN)] == ["dotted", "solid", "solid"]


@pytest.mark.browser
def test_a_point_under_the_mouse_is_named(client: Client, visit: Callable[[str], Page]) -> None:
    page = visit(url(client, "/flame"))
    client.gather([client.submit(train, i, key=f"call {i}") for i in range(3)])
    page.shows("best 0.025 at step 39 by call 0")
    wait_for(lambda: len(lines(page)) == 3)
    runner = client.cluster.scheduler.plugins["flame-reports"].store.calls["call 2"].runner
    page.point(PLACE, ["flame", "call 2", 10])
    page.shows(
        "call 2loss 0.2727i=2", f"{runner} · done", "step 10, after", "last: accuracy 0.9268"
    )
    page.shows("best 0.075 at step 39")
    # Its curve is in front of the others, which are covered.
    wait_for(lambda: page.read(FRONT) == [True, ["call 0", "call 2"]])
    page.do(lambda p: p.mouse.move(2, 2))
    wait_for(lambda: "step 10, after" not in page.text())
    # So it is for a row of the ranking.
    page.do(lambda p: p.get_by_role("row", name="call 1").hover())
    wait_for(lambda: page.read(FRONT) == [True, ["call 0", "call 1"]])
    page.do(lambda p: p.mouse.move(2, 2))
    wait_for(lambda: page.read(FRONT) == [False, ["call 0"]])
    # All other curves were not drawn again for it.
    page.read("""() => {
      window.redrawn = 0;
      daskFlame.curves.shown[0].parts.lines.change.connect(() => redrawn++);
    }""")
    page.do(lambda p: p.get_by_role("row", name="call 2").hover())
    wait_for(lambda: page.read(FRONT) == [True, ["call 0", "call 2"]])
    assert page.read("() => redrawn") == 0
    choose(page, smoothing=0.5)
    wait_for(lambda: page.read("() => redrawn") == 1)


@pytest.mark.browser
def test_a_view_that_was_zoomed_stays(client: Client, visit: Callable[[str], Page]) -> None:
    page = visit(url(client, "/flame"))
    said = {"a": client.submit(train, 0, key="a").result()}
    wait_for(lambda: drawn(page, said))
    x_range = "Bokeh.documents[0].get_model_by_name('flame').x_range"
    page.read(f"() => {x_range}.setv({{ start: 10, end: 20 }})")
    page.shows("show all")
    said["b"] = client.submit(train, 1, None, 400, key="b").result()
    wait_for(lambda: len(lines(page)) == 2)
    assert page.read(f"() => [{x_range}.start, {x_range}.end]") == [10, 20]
    # Of what is outside, only what leads to the edge is drawn.
    wait_for(lambda: lines(page)["b"]["xs"] == list(range(9, 22)))
    page.do(lambda p: p.click("button[name=follow]"))
    wait_for(lambda: drawn(page, said))
    wait_for(lambda: page.read(f"() => {x_range}.end") > 399)


@pytest.mark.browser
def test_curves_alone(client: Client, visit: Callable[[str], Page]) -> None:
    page = visit(url(client, "/individual-flame-curves"))
    charts = visit(url(client, "/individual-flame-multiples"))
    for alone in (page, charts):
        alone.shows("No reports yet")
    said = {"a": client.submit(train, 0, key="a").result()}
    wait_for(lambda: drawn(page, said))
    wait_for(lambda: charts.read(SMALL) and len(lines(charts)) == 1)
    for alone in (page, charts):
        assert "workers" not in alone.text()
        assert "runner" not in [c.strip() for c in alone.text().split("best loss")]


@pytest.mark.browser
def test_what_a_connection_has_lost_comes_again(
    client: Client, visit: Callable[[str], Page]
) -> None:
    page = visit(url(client, "/flame"))
    said = {"a": client.submit(train, 0, key="a").result()}
    wait_for(lambda: drawn(page, said))
    # A payload that never came: the page goes on only as it says so.
    page.read("""() => {
      const [feed] = Bokeh.documents[0].get_model_by_name("flame-page").tags;
      feed.seen = -1;
      Bokeh.documents[0].event_manager.send_event({ event_name: "client_reconnected" });
    }""")
    said["b"] = client.submit(train, 1, key="b").result()
    wait_for(lambda: drawn(page, said))


@pytest.mark.browser
def test_light_and_dark(client: Client, visit: Callable[[str], Page]) -> None:
    client.submit(train, 0, key="a").result()
    ground = "() => getComputedStyle(document.body).backgroundColor"
    page = visit(url(client, "/flame?theme=dark"))
    wait_for(lambda: page.read("() => document.documentElement.dataset.flameTheme") == "dark")
    assert page.read(ground) == "rgb(20, 23, 28)"
    axis = """() => {
      const view = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name("flame"));
      return getComputedStyle(view.el).getPropertyValue("--bk-axis-line-color").trim();
    }"""
    wait_for(lambda: page.read(axis) == "#98A2B0")
    page.do(lambda p: p.click("button[name=theme]"))
    wait_for(lambda: page.read(axis) == "#6B7280")
    # The system's, where nobody has said another.
    system = visit(url(client, "/individual-flame-curves"), color_scheme="dark")
    wait_for(lambda: system.read("() => document.documentElement.dataset.flameTheme") == "dark")


@pytest.mark.browser
def test_five_hundred_curves(client: Client, visit: Callable[[str], Page]) -> None:
    client.gather(client.map(train, range(500), key=[f"call {i}" for i in range(500)]))
    page = visit(url(client, "/flame"))
    wait_for(lambda: len(lines(page)) == 500, within=60)
    page.shows("500 of 500 done", "best 0.025 at step 39 by call 0")
    assert page.read("() => document.documentElement.scrollWidth <= innerWidth")
    choose(page, search="call 499")
    wait_for(lambda: lines(page).keys() == {"call 499"})


@pytest.mark.browser
def test_names_are_not_markup(client: Client, visit: Callable[[str], Page]) -> None:
    evil = "<img src=x onerror=alert(1)>"
    page = visit(url(client, "/flame"))
    client.submit(only, evil, key=f"key{evil}").result()
    page.shows(f"key{evil}", evil)
    wait_for(lambda: len(lines(page)) == 1)
    page.point(PLACE, ["flame", f"key{evil}", 0])
    page.shows(f"name='{evil}'"[:30])


def scripted(page: Page, expression: str) -> Any:
    """What an expression is where the browser's part of the page is in scope."""
    folder = Path(dashboard.__file__).with_name("static")
    code = (folder / "calls.js").read_text()
    return page.read(f"() => {{ {code}\nreturn {expression} }}")


@pytest.mark.browser
def test_what_is_drawn_keeps_the_shape(visit: Callable[[str], Page]) -> None:
    page = visit("data:text/html,<p>nothing</p>")
    thousand = "Float64Array.from({ length: 10000 }, (_, i) => i)"
    wave = f"{thousand}.map((i) => i == 7003 ? 9 : i == 7005 ? -9 : Math.sin(i / 100))"
    kept = scripted(page, f"[...visible({thousand}, {wave}, 0, 1e9, true, 300)]")
    assert len(kept) <= 2 + 3 * 300
    assert kept == sorted(set(kept))
    assert (kept[0], kept[-1]) == (0, 9999)
    assert {7003, 7005} <= set(kept)
    zoomed = scripted(page, f"[...visible({thousand}, {wave}, 6990.5, 7010.5, true, 300)]")
    assert zoomed == list(range(6990, 7012))
    # Steps that go back are drawn all.
    back = "Float64Array.from([0, 1, 2, 1, 2, 3])"
    assert scripted(page, f"[...visible({back}, {back}, 2.5, 9, false, 300)]") == list(range(6))


@pytest.mark.browser
def test_numbers_are_short(visit: Callable[[str], Page]) -> None:
    page = visit("data:text/html,<p>nothing</p>")
    numbers = "[0, 0.025, 1234.56, 1e7, 0.00001234, -3, NaN, null, Infinity]"
    assert scripted(page, f"{numbers}.map(shown)") == [
        *("0", "0.025", "1,235", "1e+7", "1.23e-5", "-3", "NaN", "\N{EN DASH}", "Infinity")
    ]
    assert scripted(page, "[0.5, 59, 60, 75, 3700].map(duration)") == [
        *("0.5 s", "59 s", "1 min", "1 min 15 s", "1 h 1 min")
    ]


@pytest.mark.browser
def test_a_prefix_and_a_plugin_from_the_start(
    browser: Browser, visit: Callable[[str], Page]
) -> None:
    with cluster_of(http_prefix="/some/where", plugins=[Reports()]) as client:
        page = visit(url(client, "/some/where/flame"))
        said = {"a": client.submit(train, 0, key="a").result()}
        wait_for(lambda: drawn(page, said))
        page.read("() => { document.querySelector('a[href=\"flame\"]').click() }")
        page.wait("() => window.Bokeh && Bokeh.documents.length > 0")
        wait_for(lambda: drawn(page, said))
        page.close()


@pytest.mark.browser
def test_the_page_outlives_the_plugin(client: Client, visit: Callable[[str], Page]) -> None:
    client.submit(train, 0, key="a").result()
    page = visit(url(client, "/flame"))
    page.shows("1 of 1 done")
    client.unregister_scheduler_plugin("flame-reports")
    page.shows("No reports yet")


def boards_there() -> list[flame_page.Board]:
    """What the pages that were opened in this process hold, until Bokeh forgets their sessions."""
    return [o for o in gc.get_objects() if type(o) is flame_page.Board]


def heap(page: Page) -> float:
    """MB of the tab's heap that are in use."""

    def measure(p: Any) -> float:
        tools = p.context.new_cdp_session(p)
        tools.send("Performance.enable")
        tools.send("HeapProfiler.collectGarbage")
        metrics = tools.send("Performance.getMetrics")["metrics"]
        tools.detach()
        return float(next(m["value"] for m in metrics if m["name"] == "JSHeapUsedSize")) / 1e6

    return float(page.do(measure))


@pytest.mark.browser
@pytest.mark.slow
def test_a_long_run_fills_no_memory_and_a_page_that_was_closed_holds_none(
    visit: Callable[[str], Page], tmp_path: Path
) -> None:
    """A short form of ``benchmarks/page.py``."""
    end = Flag(tmp_path)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(cluster_of(4, plugins=[Reports(points=300)]))
        stack.callback(end.set)
        before_it = weakref.WeakSet(boards_there())
        page = visit(url(client, "/flame"))
        boards = weakref.WeakSet(b for b in boards_there() if b not in before_it)
        assert len(boards) == 1
        futures = client.map(report_on, [end] * 8, pure=False)
        store = client.cluster.scheduler.plugins["flame-reports"].store

        def made() -> int:
            calls = store.calls.values()
            return min((c.series["loss"].made for c in calls), default=0) if len(calls) == 8 else 0

        wait_for(lambda: made() > 5_000, within=60)
        wait_for(lambda: len(lines(page)) == 8)
        before = heap(page)
        wait_for(lambda: made() > 45_000, within=120)
        after = heap(page)
        end.set()
        # Above 6 MB if it were all that was reported meanwhile.
        assert after - before < 3
        said = dict(zip((f.key for f in futures), client.gather(futures), strict=True))
        for key, n in said.items():
            wait_for(lambda key=key, n=n: curves(page)[key]["xs"][-1] == n - 1)
            assert len(curves(page)[key]["xs"]) <= 600
        page.do(lambda p: p.goto("data:text/html,<p>nothing</p>"))
        # Bokeh forgets a page's session when it has been unused for a while.
        wait_for(lambda: gc.collect() is not None and not boards, within=90)


@pytest.mark.browser
def test_one_value_far_off_does_not_hide_the_others(
    client: Client, visit: Callable[[str], Page]
) -> None:
    page = visit(url(client, "/flame"))
    client.gather([client.submit(spread, key, key=key) for key in ("near", "far")])
    page.shows("1 curve goes out of sight", "show all")
    top = "() => Bokeh.documents[0].get_model_by_name('flame').y_range.end"
    wait_for(lambda: page.read(top) < 10)
    # It is drawn, all the same.
    wait_for(lambda: max(lines(page)["far"]["ys"]) == 1e9)
    page.do(lambda p: p.click("button[name=follow]"))
    wait_for(lambda: page.read(top) > 1e9)
    wait_for(lambda: "out of sight" not in page.text())


@pytest.mark.browser
def test_odd_names_and_huge_values_do_not_stop_the_page(
    client: Client, visit: Callable[[str], Page]
) -> None:
    page = visit(url(client, "/flame"))
    client.submit(odd_names, key="odd").result()
    client.submit(huge, key="huge").result()
    wait_for(lambda: {c["state"] for c in curves(page).values()} == {"done"})
    page.shows("2 of 2 done")
    assert page.do(lambda p: p.locator("select[name=metric]").input_value()) == "loss"
    ends = """() => {
      const { start, end } = Bokeh.documents[0].get_model_by_name("flame").y_range;
      return [start, end];
    }"""
    wait_for(lambda: page.read(ends) == pytest.approx([0.375, 3.125]))
    for name in ("", "constructor", "__proto__", "loss"):
        choose(page, metric=name)
        wait_for(lambda name=name: page.read("() => daskFlame.calls.metric") == name)


@pytest.mark.browser
def test_a_scheduler_that_is_gone_is_told_of(
    browser: Browser, visit: Callable[[str], Page]
) -> None:
    with cluster_of(1, plugins=[Reports()]) as client:
        page = visit(url(client, "/flame"))
        said = {"a": client.submit(train, 0, key="a").result()}
        wait_for(lambda: drawn(page, said))
    page.shows("the scheduler is not reached any more")
    assert drawn(page, said)
    page.wrong.clear()  # the browser's own word of it

"""The page /flame, in a real browser, shows what the calls reported."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from bokeh.server.tornado import BokehTornado
from browser_help import Browser, Page, cluster_of, get, url
from conftest import wait_for
from distributed import Client
from distributed.dashboard.scheduler import template_variables
from hypothesis import given
from hypothesis import strategies as st

from dask_flame import Reports, dashboard, report
from dask_flame.dashboard import install
from dask_flame.dashboard.look import BAD, COLOURS, DASHES, Palette
from dask_flame.dashboard.mount import mount
from dask_flame.dashboard.pools import Counts, WorkersAsPool, count, total
from dask_flame.dashboard.ranking import best, higher_is_better, label, labels, metrics, ranked
from dask_flame.reports import CallReports, Series

# Words and numbers


def call(key: str = "a", runner: str = "r0", **values: list[float]) -> CallReports:
    series = {
        name: Series(range(len(v)), v, [float(i) for i in range(len(v))])
        for name, v in values.items()
    }
    return CallReports(key, runner, "running", 1, 0.0, None, series)


def test_metrics_begin_with_the_loss() -> None:
    assert metrics([]) == []
    assert metrics([call(acc=[1.0], rate=[1.0]), call(loss=[1.0])]) == ["loss", "acc", "rate"]


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
    assert higher_is_better(name) is higher


def test_the_best_is_the_first_finite_extreme() -> None:
    series = call(loss=[math.nan, 3.0, -math.inf, 1.0, 5.0, 1.0]).series["loss"]
    assert best(series, higher=False) == (1.0, 3)
    assert best(series, higher=True) == (5.0, 4)
    assert best(call(loss=[math.nan]).series["loss"], higher=True) is None


def test_calls_without_the_metric_come_last() -> None:
    calls = [call("none", acc=[1.0]), call("bad", loss=[3.0]), call("good", loss=[2.0, 9.0])]
    rows = ranked(calls, "loss")
    assert [(r.call.key, r.best, r.at) for r in rows] == [
        ("good", 2.0, 0),
        ("bad", 3.0, 0),
        ("none", None, None),
    ]
    assert [r.call.key for r in ranked(calls, "acc")] == ["none", "bad", "good"]


def test_labels_are_short_and_their_own() -> None:
    token = "0123456789abcdef" * 2
    other = token[:-1] + "0"
    assert label(f"train-{token}") == "train-012345"
    assert label(f"train-{uuid.UUID(token)}-17") == "train-012345-17"
    assert label(("block", 0, 1)) == "block, 0, 1"
    keys = [f"train-{token}", f"train-{other}", "rate=0.1"]
    assert list(labels(keys).values()) == ["train-012345", keys[1], "rate=0.1"]


def test_a_runner_keeps_its_colour() -> None:
    palette = Palette()
    names = [f"r{i}" for i in range(len(COLOURS) * len(DASHES))]
    palette.assign(names[:3])
    before = [palette.colour(name) for name in names[:3]]
    palette.assign(names[:3][::-1] + names[3:])
    assert [palette.colour(name) for name in names[:3]] == before
    assert len({(palette.colour(n), palette.dash(n)) for n in names}) == len(names)
    palette.assign(["r2", "new"])
    assert palette.colour("r2") == before[2]
    assert palette.colour("new") == before[0]


def test_runners_are_counted() -> None:
    runners = [
        {"state": "booting", "busy": 0},
        {"state": "ready", "busy": 0},
        {"state": "ready", "busy": 2},
        {"state": "ending", "busy": 1},
        {"state": "draining", "busy": 2},
    ]
    counts = count(runners)
    assert counts == Counts(booting=1, busy=1, idle=1, ending=1, draining=1)
    assert (counts.ready, counts.asked) == (2, 3)


samples = st.lists(
    st.tuples(st.integers(0, 20), *[st.integers(0, 9)] * 4), max_size=8, unique_by=lambda s: s[0]
).map(sorted)


@given(st.lists(samples, max_size=3))
def test_histories_add_up_at_every_moment(histories: list[list[Any]]) -> None:
    summed = total(histories)
    assert [s[0] for s in summed] == sorted({s[0] for h in histories for s in h})

    def at(history: list[Any], now: float) -> tuple[int, ...]:
        return next((s[1:] for s in reversed(history) if s[0] <= now), (0, 0, 0, 0))

    for now in range(21):
        parts = [at(history, now) for history in histories]
        assert at(summed, now) == tuple(map(sum, zip((0, 0, 0, 0), *parts, strict=True)))


# On a real cluster


class Flag:
    """Raised in one thread or process and seen in another."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / uuid.uuid4().hex

    def set(self) -> None:
        self.path.touch()

    def wait(self) -> None:
        wait_for(self.path.exists, within=60)


def train(i: int, half: Flag | None = None, n: int = 40) -> dict[str, list[float]]:
    said: dict[str, list[float]] = {"loss": [], "accuracy": []}
    for step in range(n):
        if step == n // 2 and half is not None:
            half.wait()
        loss, accuracy = (i + 1) / (step + 1), 1 - (i + 1) / (step + 2)
        report(step=step, loss=loss, accuracy=accuracy)
        said["loss"].append(loss)
        said["accuracy"].append(accuracy)
    return said


def test_the_plots_list_and_the_navigation_name_it() -> None:
    with cluster_of() as client:
        assert "Flame" not in get(client, "/status")
        client.register_plugin(Reports())
        assert (
            "/individual-flame-curves" in json.loads(get(client, "/individual-plots.json")).values()
        )
        for page in ("/status", "/flame"):
            text = get(client, page)
            assert text.count(">Flame</a>") == 1
            assert text.count(">Flame Curves</a>") == 1


def test_adding_it_again_does_nothing() -> None:
    with cluster_of(plugins=[Reports()]) as client:
        assert client.cluster.sync(_install, client.cluster.scheduler)
        client.register_plugin(Reports(), name="another")
        assert get(client, "/flame").count(">Flame</a>") == 1


async def _install(scheduler: Any) -> bool:
    return install(scheduler)


def test_without_a_dashboard_there_is_no_page() -> None:
    with cluster_of(dashboard=False, plugins=[Reports()]) as client:
        assert not install(client.cluster.scheduler)
        assert not mount(client.cluster.scheduler, {})
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(client, "/flame")
        client.submit(train, 0, key="call").result()
        assert "call" in client.cluster.scheduler.plugins["flame-reports"].store


def test_without_bokeh_there_is_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster_of() as client:
        monkeypatch.delitem(sys.modules, "bokeh")
        assert not install(client.cluster.scheduler)


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


def test_workers_are_shown_as_a_pool() -> None:
    with cluster_of(2, plugins=[Reports()]) as client:

        async def state(pool: WorkersAsPool) -> dict[str, Any]:
            return pool()

        pool = WorkersAsPool(client.cluster.scheduler, interval=0)
        shown = client.cluster.sync(state, pool)
        (workers,) = shown["pools"]
        assert (workers["max"], workers["concurrency"], workers["demand"]) == (None, 2, 0)
        assert count(workers["runners"]) == Counts(booting=0, busy=0, idle=2, ending=0)
        assert [s[1:] for s in workers["history"]] == [(0, 0, 2, 0)]
        assert len(client.cluster.sync(state, pool)["pools"][0]["history"]) == 2


# In a real browser


PLACE = """([curve, point]) => {
  const doc = Bokeh.documents[0];
  const figure = doc.get_model_by_name("flame-linear");
  const data = doc.get_model_by_name("flame-curves").data;
  const find = (view) => view.model === figure ? view
    : (view.child_views ?? []).map(find).find((found) => found);
  const view = [...Bokeh.index.roots].map(find).find((found) => found);
  const box = view.canvas_view.el.getBoundingClientRect();
  const i = data.xs.length - 1 - curve;
  return [box.x + view.frame.x_scale.compute(data.xs[i][point]),
          box.y + view.frame.y_scale.compute(data.ys[i][point])];
}"""
CURVES = """() => {
  const source = Bokeh.documents[0].get_model_by_name("flame-curves");
  return source.data.key.map((key, i) => ({
    key, xs: Array.from(source.data.xs[i]), ys: Array.from(source.data.ys[i]),
    call: source.data.call[i], runner: source.data.runner[i], state: source.data.state[i],
  }));
}"""


def curves(page: Page) -> dict[str, dict[str, Any]]:
    return {c["key"]: c for c in page.read(CURVES)}


def drawn(page: Page, said: Mapping[str, Mapping[str, list[float]]], metric: str = "loss") -> bool:
    """Whether the page has every point of every call, and no other, and says they are done."""
    shown = curves(page)
    return shown.keys() == said.keys() and all(
        c["xs"] == list(range(len(said[key][metric])))
        and c["ys"] == said[key][metric]
        and c["state"] == "done"
        for key, c in shown.items()
    )


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
    assert [len(c["xs"]) for c in curves(during).values()] == [20] * 4
    assert {c["state"] for c in curves(during).values()} == {"running"}
    for page in (before, during):
        page.shows("2 busy", "demand 4", "4 calls, 4 running")
        assert "No reports yet" not in page.text()

    half.set()
    said = {future.key: future.result() for future in futures}
    after = visit(flame)
    assert drawn(after, said)
    for page in (before, during):
        wait_for(lambda page=page: drawn(page, said))
    for page in (before, during, after):
        page.shows("best 0.025 at step 39 by call 0", "4 calls, 0 running", "2 idle")
    after.reload()
    assert drawn(after, said)


def test_metrics_and_scale_are_chosen(client: Client, visit: Callable[[str], Page]) -> None:
    page = visit(url(client, "/flame"))
    # The loss is chosen as soon as there is one, until the user has chosen.
    client.submit(only, "accuracy", key="first").result()
    page.shows("best 0.5 at step 0 by first")
    said = {k: client.submit(train, i, key=k).result() for i, k in enumerate("ab")}
    page.shows("best 0.025 at step 39 by a")
    page.wait("() => Bokeh.documents[0].get_model_by_name('flame-metric').value == 'loss'")
    wait_for(lambda: drawn(page, said))

    page.read("() => { Bokeh.documents[0].get_model_by_name('flame-metric').value = 'accuracy' }")
    said["first"] = {"accuracy": [0.5]}
    wait_for(lambda: drawn(page, said, "accuracy"))
    page.shows("best 0.9756 at step 39 by a", "best accuracy")

    shown = """() => ["flame-linear", "flame-log"].map(
      (name) => Bokeh.documents[0].get_model_by_name(name).visible)"""
    assert page.read(shown) == [True, False]
    page.read("() => { Bokeh.documents[0].get_model_by_name('flame-log-scale').active = true }")
    wait_for(lambda: page.read(shown) == [False, True])
    client.submit(train, 2, key="c").result()
    wait_for(lambda: len(curves(page)) == 4)
    assert page.read(shown) == [False, True]
    assert page.read("() => Bokeh.documents[0].get_model_by_name('flame-metric').value") == (
        "accuracy"
    )


def only(name: str) -> None:
    report(**{name: 0.5})


def odd() -> None:
    for value in (math.nan, 2.0, math.inf, -math.inf, 1.0, math.nan):
        report(loss=value)


def never() -> None:
    report(loss=math.nan)


def test_values_that_are_not_finite_are_gaps(client: Client, visit: Callable[[str], Page]) -> None:
    page = visit(url(client, "/flame"))
    client.gather([client.submit(odd, key="odd"), client.submit(never, key="never")])
    page.shows("best 1 at step 4 by odd", "nan")
    wait_for(lambda: len(curves(page)) == 2)
    ys = curves(page)["odd"]["ys"]
    assert [y == y for y in ys] == [False, True, False, False, True, False]
    y_range = page.read(
        "() => { const r = Bokeh.documents[0].get_model_by_name('flame-linear').y_range;"
        " return [r.start, r.end] }"
    )
    assert all(math.isfinite(end) for end in y_range)


def test_a_point_under_the_mouse_is_named(client: Client, visit: Callable[[str], Page]) -> None:
    page = visit(url(client, "/flame"))
    client.gather([client.submit(train, i, key=f"call {i}") for i in range(3)])
    page.shows("best 0.025 at step 39 by call 0")
    runner = client.cluster.scheduler.plugins["flame-reports"].store.calls["call 2"].runner
    said = f"call: call 2runner: {runner}attempt: 1step: 10value: 0.27273"

    def named() -> bool:
        # Again and again, as fresh data takes a tooltip away.
        page.point(PLACE, [2, 10])
        return said in page.text()

    wait_for(named)


def test_curves_alone(client: Client, visit: Callable[[str], Page]) -> None:
    page = visit(url(client, "/individual-flame-curves"))
    page.shows("No reports yet")
    said = {"a": client.submit(train, 0, key="a").result()}
    wait_for(lambda: drawn(page, said))
    assert "workers" not in page.text()


def test_a_long_curve_keeps_its_ends_and_extremes(
    client: Client, visit: Callable[[str], Page]
) -> None:
    said = {
        key: client.submit(train, i, None, 3000, key=key).result()["loss"]
        for i, key in enumerate("abcdefghij")
    }
    page = visit(url(client, "/flame"))
    for key, curve in curves(page).items():
        assert 1000 < len(curve["xs"]) <= 2400
        assert (curve["xs"][0], curve["xs"][-1]) == (0, 2999)
        assert curve["ys"] == [said[key][int(x)] for x in curve["xs"]]


def test_pools_are_shown_and_nothing_in_them_is_markup(
    client: Client, visit: Callable[[str], Page]
) -> None:
    now = time.time()
    evil = "<img src=x onerror=alert(1)>"
    runners = [
        {"name": f"r{i}", "state": state, "busy": busy, "since": now}
        for i, (state, busy) in enumerate(
            [
                ("booting", 0),
                ("ready", 0),
                ("ready", 2),
                ("ready", 1),
                ("draining", 1),
                ("ending", 0),
            ]
        )
    ]
    history = [(now - 90 + i, i // 9, 1, i // 30, i // 45) for i in range(90)]

    def pools() -> dict[str, Any]:
        common = {"min": 0, "max": 8, "concurrency": 2, "history": history}
        return {
            "now": time.time(),
            "pools": [
                {"name": f"a{evil}", "demand": 7, "waiting": 3, "runners": runners, **common},
                {"name": "empty", "demand": 0, "waiting": 0, "runners": [], **common},
            ],
            "events": [
                {"at": now + i, "kind": f"boot{i}", "text": f"why{i} {evil}"} for i in range(3)
            ],
        }

    client.cluster.scheduler.plugins["flame-reports"].pools = pools
    client.submit(only, evil, key=f"key{evil}").result()
    page = visit(url(client, "/flame"))
    page.shows(
        f"a{evil}",
        "4 of 8 runners, 2 calls each · 1 draining · 1 ending",
        "2 busy",
        "1 booting",
        "demand 7 (3 waiting)",
        "0 of 8 runners",
        f"why2 {evil}",
        f"key{evil}",
        f"best {evil}",
    )
    text = page.text()
    assert text.index("boot2") < text.index("boot1") < text.index("boot0")
    window = "() => Bokeh.documents[0].get_model_by_name('flame-timeline').x_range.start"
    assert page.read(window) == -120


BARS = """() => {
  const data = Bokeh.documents[0].get_model_by_name("flame-boots").data;
  return Array.from(data.y, (y, i) => [data.runner[i], data.left[i], data.right[i]]);
}"""
BAR = """(i) => {
  const doc = Bokeh.documents[0];
  const figure = doc.get_model_by_name("flame-boot-bars");
  const data = doc.get_model_by_name("flame-boots").data;
  const find = (view) => view.model === figure ? view
    : (view.child_views ?? []).map(find).find((found) => found);
  const view = [...Bokeh.index.roots].map(find).find((found) => found);
  const box = view.canvas_view.el.getBoundingClientRect();
  return [box.x + view.frame.x_scale.compute((data.left[i] + data.right[i]) / 2),
          box.y + view.frame.y_scale.compute(data.y[i])];
}"""


def boot(n: int, *steps: tuple[str, float], ended: str = "", failed: bool = False) -> Any:
    return {
        "name": f"runner-{n}",
        "pool": "default",
        "at": time.time(),
        "steps": steps,
        "ended": ended,
        "failed": failed,
        "lasted": 3.0 if ended else 0.0,
    }


def test_boots_are_bars_of_their_phases(client: Client, visit: Callable[[str], Page]) -> None:
    evil = "<b onclick=alert(1)>"
    shown: list[Any] = []
    pool = {"name": "default", "min": 0, "max": 64, "concurrency": 1, "demand": 0, "waiting": 0}
    pool |= {"runners": [], "history": [(time.time(), 0, 0, 0, 0)]}
    state = {"now": time.time(), "pools": [pool], "events": []}
    plugin = client.cluster.scheduler.plugins["flame-reports"]
    plugin.pools = lambda: {**state, "boots": list(shown)}
    page = visit(url(client, "/flame"))
    page.shows("Boots none yet")
    assert page.read(BARS) == []

    up = [("accepted", 0.5), (evil, 1.0), ("registered", 2.0), ("first call", 300.0)]
    shown += [
        boot(1, *up),
        boot(2, ("accepted", 0.25), ended=f"exit code 1 {evil}", failed=True),
        boot(3, ended="not needed"),
    ]
    wait_for(lambda: len(page.read(BARS)) == 7)
    # The newest is first, and what a boot did after its last step is in the bar as well.
    assert page.read(BARS) == [
        ["runner-3", 0, 3],
        ["runner-2", 0, 0.25],
        ["runner-2", 0.25, 3],
        *[["runner-1", a, b] for a, b in [(0, 0.5), (0.5, 1), (1, 2), (2, 300)]],
    ]
    page.shows("Boots median 2.000 s · 1 failed", f"{evil} 0.500", "registered 1.000")
    get = "() => Bokeh.documents[0].get_model_by_name"
    ends = page.read(f"{get}('flame-boot-ends').data")
    assert list(ends["y"]) == [0, 1]
    assert ends["colour"][0] != ends["colour"][1] == BAD
    # Boots are to be compared, not the wait for a first call.
    assert page.read(f"{get}('flame-boot-bars').x_range.end") == pytest.approx(3.18)

    def named() -> bool:
        page.point(BAR, 4)
        return f"runner: runner-1phase: until {evil}: 0.500 sboot: accepted 0.500 s" in page.text()

    wait_for(named)
    shown[:] = [boot(n, ("registered", 1.0)) for n in range(64)]
    wait_for(lambda: len(page.read(BARS)) == 64)
    assert page.read(f"{get}('flame-boot-bars').height") < 200
    # Without pools, nothing is known of boots.
    plugin.pools = None
    wait_for(lambda: "Boots" not in page.text())


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


def test_the_page_outlives_the_plugin(client: Client, visit: Callable[[str], Page]) -> None:
    client.submit(train, 0, key="a").result()
    page = visit(url(client, "/flame"))
    page.shows("1 call, 0 running")
    client.unregister_scheduler_plugin("flame-reports")
    page.shows("No reports yet")

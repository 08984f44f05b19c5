"""What the page /flame shows before its scripts have started."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from distributed import Client

from dask_flame import report
from dask_flame.charts.colors import Palette
from dask_flame.dashboard.flame.feed import Feed, Wanted
from dask_flame.dashboard.flame.first import first_state
from dask_flame.dashboard.frame import deferred, started
from dask_flame.reports import CallReports, Series
from dask_flame.reports.runs import Run
from tests.support.browser_help import Browser, Page, browser, client, get, url, visit
from tests.support.waiting import wait_for

__all__ = ["browser", "client", "visit"]


def call(name: str, state: Any, *losses: float, **more: Any) -> CallReports:
    series = {"loss": Series(range(len(losses)), losses, [0.0] * len(losses))} if losses else {}
    about = {"function": "train", "label": f"rate={name}", "run": "r", **more}
    return CallReports(f"key-{name}", "runner-1", state, 1, 0.0, 1.0, series, **about)


def html(*calls: CallReports, asked: tuple[str, ...] = ()) -> str:
    runs = [Run("r", "train", 0.0, len(calls))]
    told = Feed(Palette()).next({c.key: c for c in calls}, runs, wanted=Wanted(("loss",)))
    return first_state(told, asked)


class _Texts(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def texts(source: str) -> str:
    return " ".join(" ".join(_Texts(source).found).split())


@pytest.mark.unit
def test_it_says_how_far_the_run_is_and_which_call_is_best() -> None:
    calls = [call("a", "running", 3, 2), call("b", "done", 3, 1, 2)]
    words = texts(html(*calls, call("c", "failed", 0.5, why="too large")))
    assert "1 of 3 done , 1 failed , 1 running" in words
    assert "best so far 1 at step 1 by rate=b" in words
    # The failed one is last, has no rank, and tells why.
    assert re.search(r"1 rate=b done 1 2 2 rate=a running 2 2 rate=c failed: too large 0.5", words)
    assert "so far" not in texts(html(call("b", "done", 3, 1), call("c", "done", 2)))


@pytest.mark.unit
@pytest.mark.parametrize("run", ["r", "unknown"])
def test_it_counts_calls_that_were_stopped(run: str) -> None:
    stopped = call("a", "cancelled", 3, why="CallStopped('a was stopped by', …", run=run)
    words = texts(html(stopped, call("b", "cancelled", 2, run=run), call("c", "done", 1)))
    assert "1 stopped , 1 cancelled" in words


@pytest.mark.unit
def test_it_has_a_curve_for_each_call_but_not_many_points() -> None:
    calls = [call(str(i), "done", *([float(i)] * 5000)) for i in range(64)]
    made = html(*calls)
    assert made.count("<path") == 64
    assert len(made) < 120_000
    assert html(call("a", "done", float("nan"))).count("<path") == 0


@pytest.mark.unit
@pytest.mark.parametrize("name", ["log", "filter", "view", "zoom"])
def test_curves_that_will_look_otherwise_are_left_out(name: str) -> None:
    made = html(call("a", "done", 1, 2), asked=("metric", name))
    assert "1 of 1 done" in texts(made)
    assert "<path" not in made
    assert "<table" not in made
    assert "<table" in html(call("a", "done", 1, 2), asked=("metric", "theme"))


@pytest.mark.unit
def test_names_are_no_html_and_can_be_sent() -> None:
    made = html(call("<script>alert(1)</script>\ud800\x1b[2J", "failed", 1, why="<b>&"))
    assert "script" not in _Texts(made).tags
    assert "alert(1)" in texts(made)
    made.encode()
    assert "\x1b" not in made


@pytest.mark.unit
def test_without_calls_there_is_nothing() -> None:
    assert first_state(None) == html() == ""


@pytest.mark.unit
def test_bokehs_scripts_wait_for_the_page() -> None:
    page = (
        '<script src="a/bokeh.min.js?v=1&amp;x=2"></script><script src="a/bokeh-mathjax.min.js">'
        '</script>\n<script>\nBokeh.set_log_level("info");\n</script>'
    )
    told = deferred(page)
    assert "<script src" not in told
    assert 'flameStart.load(["a/bokeh.min.js?v=1&x=2"])' in told
    assert 'flameStart.then(() => {\nBokeh.set_log_level("info");\n})' in told
    own = '<script type="application/json">{}</script><script>go()</script>'
    assert started(own).startswith('<script type="application/json">{}</script>')
    assert "flameStart.then(() => {go()})" in started(own)
    # With its code in the page there is nothing to wait for.
    whole = f"<script>{'x' * 5000}</script>"
    assert deferred(whole) == whole
    assert deferred(None) == ""


def train(rate: float) -> None:
    for step in range(3):
        report(step=step, loss=rate + step)


@pytest.mark.browser
def test_it_is_read_without_any_script_of_bokeh(
    client: Client, browser: Browser, visit: Callable[..., Page]
) -> None:
    client.gather(client.map(train, [0.5, 0.25], pure=False))
    wait_for(lambda: "2 of 2 done" in get(client, "/flame"), what="the end of both")

    def read() -> tuple[str, int, bool]:
        page = browser.chromium.new_page()
        try:
            page.route("**/*bokeh*.js*", lambda route: route.abort())
            page.goto(url(client, "/flame"))
            first = page.locator(".flame-first")
            box = first.bounding_box()
            return first.inner_text(), first.locator("path").count(), box["height"] > 300
        finally:
            page.close()

    words, curves, large = browser.do(read)
    assert "best 0.25 at step 0 by rate=0.25" in words
    assert "rate=0.5" in words
    assert curves == 2
    assert large
    # The page itself takes its place.
    page = visit(url(client, "/flame"))
    page.shows("best 0.25 at step 0 by rate=0.25")
    page.wait("() => !document.querySelector('.flame-first')")
    assert len(page.read("() => daskFlame.curves.shown[0].drawn")) == 2

"""The token of a dashboard in a real browser: its link opens the pages, and nothing else does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest
from distributed import Event

import dask_flame
from tests.support.browser_help import Browser, Page

pytestmark = pytest.mark.browser

#: The number of points of the longest curve, if there are more than a number.
GROWN = """(than) => {
  const data = window.Bokeh?.documents[0]?.get_model_by_name("flame-lines")?.data;
  const longest = Math.max(0, ...(data?.xs ?? []).map((xs) => xs.length));
  return longest > than ? longest : 0;
}"""


@pytest.fixture(autouse=True)
def _token() -> Iterator[None]:
    with dask.config.set({"flame.dashboard.token": "auto"}):
        yield


@pytest.fixture
def context(browser: Browser) -> Iterator[Any]:
    """A browser of a person, whose pages share cookies."""
    context = browser.do(browser.chromium.new_context)
    yield context
    browser.do(context.close)


def train(rate: float) -> None:
    Event("begun").set()
    while True:
        dask_flame.report(loss=rate)
        time.sleep(0.05)


def grows(page: Any) -> None:
    """Wait until there are curves on a page, and until they have grown further."""
    there = page.wait_for_function(GROWN, arg=5).json_value()
    page.wait_for_function(GROWN, arg=there + 5)


def test_the_link_opens_all_pages_and_a_call_is_stopped(
    flame: Any, visit: Callable[[str], Page]
) -> None:
    cluster, client = flame(max=1, dashboard_address="127.0.0.1:0")
    running = client.submit(train, 0.1)
    Event("begun", client=client).wait()
    address, _, token = cluster.flame_link.partition("?token=")
    page = visit(cluster.flame_link)
    page.do(grows)
    assert page.read("() => location.href") == address
    assert token not in page.read("() => document.documentElement.outerHTML")
    assert page.read("() => document.cookie") == ""
    # By the links of the page: ours, and Dask's.
    for name, path in (("Pools", "/pools"), ("Calls", "/flame"), ("Tasks", "/tasks")):
        page.do(lambda p, name=name: p.get_by_role("link", name=name, exact=True).click())
        page.do(lambda p, path=path: p.wait_for_url(f"**{path}"))
        page.wait("() => window.Bokeh && Bokeh.documents.length > 0")
    page.do(lambda p: p.goto(f"{address}?call={running.key}"))
    page.shows("stop this call")
    page.do(grows)
    page.do(lambda p: p.once("dialog", lambda dialog: dialog.accept()))
    page.do(lambda p: p.get_by_text("stop this call").click())
    with pytest.raises(dask_flame.CallStopped):
        running.result()


def test_dashboards_of_two_clusters_are_open_at_once(
    flame: Any, browser: Browser, context: Any
) -> None:
    pages, running = [], []
    clusters = [flame(max=1, dashboard_address="127.0.0.1:0") for _ in range(2)]
    for cluster, client in clusters:
        running.append(client.submit(train, 0.1))
        pages.append(browser.do(context.new_page))
        browser.do(pages[-1].goto, cluster.flame_link)
    for page in [*pages, *pages]:
        browser.do(grows, page)
        browser.do(page.reload)
    assert len({cookie["name"] for cookie in browser.do(context.cookies)}) == 2


def test_without_the_token_a_page_says_how_to_get_in(
    flame: Any, browser: Browser, context: Any, tmp_path: Path
) -> None:
    cluster, _ = flame(max=1, dashboard_address="127.0.0.1:0")
    address, _, token = cluster.dashboard_link.partition("?token=")
    page = browser.do(context.new_page)
    for path in (address, f"{address}?token={token}x"):
        answer = browser.do(page.goto, path)
        assert answer.status == 403
        assert "print(cluster.dashboard_link)" in browser.do(page.inner_text, "body")
    browser.do(page.screenshot, path=tmp_path / "refused.png")
    # A page of another origin cannot read it either, after the person has opened the dashboard.
    browser.do(page.goto, cluster.dashboard_link)
    other, _ = flame(max=1, dashboard_address="127.0.0.1:0")
    browser.do(page.goto, other.dashboard_link)
    host = address.removesuffix("/status").removeprefix("http://")
    opened = browser.do(
        page.evaluate,
        """(host) => new Promise((done) => {
          const socket = new WebSocket(`ws://${host}/flame/ws`, ["bokeh", "x.y"]);
          socket.onopen = () => done(true);
          socket.onerror = () => done(false);
        })""",
        host,
    )
    assert opened is False
    script = """async (host) => {
      const answer = await fetch(`http://${host}/flame/autoload.js?bokeh-autoload-element=1`,
        { credentials: "include" }).catch(() => null);
      return answer && answer.status;
    }"""
    assert browser.do(page.evaluate, script, host) in (None, 403)

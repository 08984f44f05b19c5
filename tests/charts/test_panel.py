"""A cluster as a notebook shows it: HTML, and a widget."""

from __future__ import annotations

import html
import html.parser
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from distributed import Client

from dask_flame import FlameCluster, Pool
from dask_flame.charts.panel import Head, duration, live, panel, same
from dask_flame.core.budget import checked_budget
from dask_flame.history.boots import Boot
from dask_flame.history.events import Event
from dask_flame.history.state import PoolSummary, RunnerSummary, Snapshot
from dask_flame.scaling.budget import Spending
from tests.support.browser_help import ARGUMENTS, CHROMIUM
from tests.support.waiting import wait_for

sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright

Flame = Callable[..., tuple[FlameCluster, Client]]
NOW = 1_700_000_000.0
HEAD = Head("mine", "local", "", {"dashboard": "http://127.0.0.1:1/status", "curves": ""})


def runner(name: str, state: str = "ready", busy: int = 0) -> RunnerSummary:
    return RunnerSummary(name, state, NOW - 5, busy)


def state(
    *runners: RunnerSummary,
    most: int = 4,
    waiting: int = 0,
    name: str = "default",
    events: Sequence[Event] = (),
) -> Snapshot:
    pool = PoolSummary(
        name,
        min=0,
        max=most,
        concurrency=1,
        idle_timeout=60.0,
        waiting=waiting,
        runner_seconds=90.0,
        runners=runners,
    )
    return Snapshot(NOW, [pool], events)


def shown(page: str) -> str:
    """The text that one reads, tags left out."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.partition("</style>")[2])).strip()


class _Balanced(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.unit
def test_the_budget_and_the_idle_timeout_that_a_pool_finds() -> None:
    budget = checked_budget("budget", "20 USD")
    calm = replace(state(), budget=Spending(budget, 5))
    assert "budget: 5.00 USD of 20 USD (25 %) spent" in shown(panel(HEAD, calm, []))
    assert 'class="trouble">' not in panel(HEAD, calm, [])
    low = replace(state(), budget=Spending(budget, 16))
    assert '<span class="trouble">budget: 16.00 USD of 20 USD (80 %)' in panel(HEAD, low, [])
    assert "budget" not in shown(panel(replace(HEAD, over="closed"), low, []))
    assert "budget" not in shown(panel(HEAD, state(), []))
    found = replace(state().pools[0], idle_timeout=240.0, idle_why='as a "boot" takes 240 s')
    page = panel(HEAD, Snapshot(NOW, [found]), [])
    assert 'title="as a &quot;boot&quot; takes 240 s">, idle for 240 s (auto)</span>' in page
    page = shown(panel(HEAD, state(), []))
    assert "idle for 60 s" in page
    assert "(auto)" not in page


@pytest.mark.unit
def test_each_runner_is_a_tile_and_each_kind_a_number() -> None:
    under_way = Boot("d", "default", NOW - 9, (("accepted", 0.1),))
    asked = Boot("e", "default", NOW - 3)
    page = panel(
        HEAD,
        state(
            runner("a", busy=1),
            runner("b"),
            runner("c", "draining", 1),
            runner("d", "booting"),
            runner("e", "booting"),
            runner("f", "ending"),
            most=8,
            waiting=1,
        ),
        [under_way, asked],
    )
    text = shown(page)
    for word in ("busy", "ready", "finishing", "booting", "asked for", "ending"):
        assert f"1 {word}" in text
    assert "0 to 8 runners, idle for 60 s" in text
    assert "1 call waits for a runner" in text
    assert "booting for 9 s: asked 1 → accepted 1 → registered" in text.replace("&#8594;", "→")
    tiles = page.partition('class="tiles"')[2].partition("</div>")[0]
    assert re.findall(r'i class="(\w+)"', tiles) == [
        *("busy", "ready", "draining", "booting", "asked", "ending", "free", "free"),
    ]
    assert "a: busy, in this state for 5 s" in tiles
    reader = _Balanced()
    reader.feed(page)
    assert reader.open == []


@pytest.mark.unit
def test_what_holds_up_a_boot_and_how_long_boots_took() -> None:
    came = (("accepted", 0.1), ("up", 0.3), ("registered", 0.4))
    done = Boot("a", "default", NOW - 99, came)
    stuck = Boot("b", "default", NOW - 70, came[:1], trouble="no <room>")
    text = shown(panel(HEAD, state(runner("b", "booting")), [done, stuck]))
    assert "asked &#8594; accepted 1 &#8594; up &#8594; registered" in text
    assert "1 held up: no &lt;room&gt;" in text
    assert "boots: median 0.400 s" in shown(panel(HEAD, state(runner("a")), [done]))


@pytest.mark.unit
def test_kinds_of_runner_are_told_apart() -> None:
    runners = [replace(runner(f"r-{n}"), kind=kind) for n, kind in enumerate(("H", "H", "A<b>"))]
    page = panel(HEAD, state(*runners), [])
    assert "2 of H, 1 of A<b>" in html.unescape(shown(page))
    assert "A<b>" not in page
    assert 'title="r-0 (H): ' in page
    assert " of H" not in shown(panel(HEAD, state(*runners[:2]), []))


@pytest.mark.unit
def test_many_runners_share_a_bar() -> None:
    page = panel(HEAD, state(*(runner(str(n), busy=n % 2) for n in range(1000)), most=4000), [])
    assert '<i class="busy" style="flex-grow:500"></i>' in page
    assert '<i class="free" style="flex-grow:3000"></i>' in page
    assert len(page) < 6_000


@pytest.mark.unit
def test_nothing_that_is_not_ours_is_html() -> None:
    bad = "<script>alert(1)</script>"
    told = state(runner(bad), name=bad, events=[Event(NOW, "boot", f"{bad}\nsecond line")])
    page = panel(Head(bad, bad, "", {"dashboard": f'"{bad}'}), told, [])
    assert "<script" not in page
    assert "second line</div>" not in page


@pytest.mark.unit
def test_a_cluster_that_is_over_says_why() -> None:
    text = shown(panel(Head("mine", "local", "closed: max_lifetime=2 h"), state(), []))
    assert "closed: max_lifetime=2 h" in text
    assert "runners" not in text


@pytest.mark.unit
@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0 s"), (99, "99 s"), (100, "1 min 40 s"), (7322, "2 h 02 min")]
)
def test_durations(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@pytest.mark.unit
def test_a_panel_says_when_it_was_so() -> None:
    page = panel(HEAD, state(runner("a")), [])
    written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOW))
    assert f"as of {written}" in shown(page).replace("not updated since ", "")
    later = panel(HEAD, replace(state(runner("a")), now=NOW + 60), [])
    assert "idle for 60 s" in later
    assert page != later
    # Nothing else has changed, except for how long a runner has been in its state.
    assert same(page, later.replace("for 65 s", "for 5 s"))
    assert not same(page, panel(HEAD, state(runner("b")), []))
    assert "as of" not in panel(Head("mine", "local", "closed"), state(), [])


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_on_a_phone(scheme: Any) -> None:
    page = panel(
        Head("a-name-of-a-cluster-that-is-longer-than-others", "kubernetes", "", HEAD.links),
        state(
            *(runner(f"r{n}", busy=n % 2) for n in range(20)),
            runner("b", "booting"),
            most=100,
            waiting=12_345,
            events=[Event(NOW, "trouble", "0/3 nodes are available: " + "Insufficient" * 20)],
        ),
        [Boot("b", "default", NOW - 70, (("accepted", 0.1),), trouble="no-room-" * 20)],
    )
    # ipywidgets puts the page into a flexible box.
    body = f'<body style="margin:0"><div style="display:flex"><div>{live("mine", page)}</div></div>'
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            window = chromium.new_page(viewport={"width": 320, "height": 800}, color_scheme=scheme)
            window.set_content(body.replace("<div><div", '<div style="flex-grow:1"><div'))
            wide = window.evaluate(
                """() => [...document.querySelectorAll("*")]
                .filter((e) => e.scrollWidth > e.clientWidth && getComputedStyle(e).display
                    !== "inline" && e.clientWidth)
                .map((e) => e.className)"""
            )
            assert wide == []
            right = window.evaluate(
                """() => Math.max(...[...document.querySelectorAll(".flame-panel, .flame-panel *")]
                .map((e) => e.getBoundingClientRect().right))"""
            )
            assert 300 < right <= 320
        finally:
            chromium.close()


@pytest.mark.process
def test_the_widget_follows_the_pool_and_changes_it(flame: Flame) -> None:
    pytest.importorskip("ipywidgets")
    cluster, client = flame(pools={"cpu": Pool(max=2), "gpu": Pool(max=1)})
    root = cluster._widget()
    assert cluster._widget() is root
    page, buttons = root.children
    pool, low, high, resize, end, really, said = buttons.children
    assert shown(page.value).count("no runner") == 2
    future = client.submit(abs, -1)
    wait_for(lambda: "1 ready" in shown(page.value))
    assert future.result() == 1

    pool.value = "gpu"
    assert (low.value, high.value) == (0, 1)
    high.value = 3
    resize.click()
    assert cluster.pools["gpu"].max == 3
    assert "0 to 3 runners from now on" in said.value
    wait_for(lambda: "0 to 3 runners" in shown(page.value))
    low.value = 9
    resize.click()
    assert "min=9" in said.value
    assert cluster.pools["gpu"].min == 0

    end.click()
    assert (really.layout.display, end.description) == (None, "Keep it")
    end.click()
    assert really.layout.display == "none"
    end.click()
    really.click()
    assert cluster.status.name == "closed"
    assert "closed" in shown(page.value)
    assert resize.disabled
    assert buttons.layout.display == "none"
    assert shown(cluster._repr_html_()).endswith(shown(page.value)[-20:])
    root.close_all()


@pytest.mark.process
def test_a_widget_of_a_cluster_that_was_closed_says_so(flame: Flame) -> None:
    pytest.importorskip("ipywidgets")
    cluster, _ = flame(max=2)
    page, buttons = cluster._widget().children
    cluster.close()
    assert "closed" in shown(page.value)
    assert all(button.disabled for button in buttons.children[:-1])
    assert buttons.layout.display == "none"


@pytest.mark.process
def test_it_degrades_to_html_and_to_text(flame: Flame, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("IPython")
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    cluster, _ = flame(max=2)
    assert not InteractiveShell.initialized()
    bundles: list[Any] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: bundles.append(data))
    with capture_output():
        cluster._ipython_display_()
    assert bundles[0]["text/plain"] == repr(cluster)
    assert "0 to 2 runners" in bundles[0]["text/html"]


@pytest.mark.process
@pytest.mark.asyncio
async def test_one_that_was_never_started_can_be_shown() -> None:
    cluster = FlameCluster(max=1, asynchronous=True, dashboard_address=None, name="never")
    assert "never" in cluster._repr_html_()
    await cluster.close()

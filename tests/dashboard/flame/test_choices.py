"""The page /flame tells the story of a run: several metrics, states, choices that are kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from distributed import Client, Event

import dask_flame
from dask_flame import Reports
from dask_flame.charts.colors import CALL_LINES
from tests.dashboard.flame.choices_calls import dies, fails, held, many, three
from tests.dashboard.flame.page_calls import Flag, train
from tests.dashboard.flame.test_page import choose, curves, lines
from tests.support.browser_help import Browser, Page, cluster_of, get, url
from tests.support.paths import free_port
from tests.support.waiting import wait_for

pytestmark = pytest.mark.browser

#: The metrics whose charts are visible, with the keys of the curves in each.
CHARTS = """() => daskFlame.curves.shown.map((chart) => {
  const { figure, lines } = chart.parts;
  return [figure.left[0].axis_label, figure.visible, [...lines.data.key].sort()];
})"""
QUERY = "() => location.search"
DRAWER = '[data-flame="drawer"]'


def check(page: Page, menu: str, value: str, wanted: bool = True) -> None:
    """Use a check box of a menu."""

    def click(p: Any) -> None:
        details = p.locator(f"details[data-flame={menu}]")
        if details.get_attribute("open") is None:
            details.locator("summary").click()
        details.locator(f'input[value="{value}"]').set_checked(wanted)

    page.do(click)


def test_several_metrics_side_by_side(client: Client, visit: Callable[..., Page]) -> None:
    client.gather([client.submit(train, i, key=k) for i, k in enumerate("ab")])
    page = visit(url(client, "/flame"))
    page.shows("lower is better")
    wait_for(lambda: page.read(CHARTS) == [["loss", True, ["a", "b"]]])
    check(page, "also", "accuracy")
    both = [["loss", True, ["a", "b"]], ["accuracy", True, ["a", "b"]]]
    wait_for(lambda: page.read(CHARTS) == both)
    # The other metric ranks now, and is the first chart.
    choose(page, metric="accuracy")
    wait_for(lambda: page.read(CHARTS) == both[::-1])
    page.shows("higher is better", "best 0.9756 at step 39 by a")
    # All charts have the same horizontal axis.
    ends = """() => daskFlame.curves.shown.map(({ figure }) => {
      const { start, end } = figure.x_range;
      return [start, end];
    })"""
    one, other = page.read(ends)
    assert one == other
    check(page, "also", "loss", wanted=False)
    wait_for(lambda: page.read(CHARTS) == both[1:])


def test_calls_without_reports_are_on_the_page(
    client: Client, visit: Callable[..., Page], tmp_path: Any
) -> None:
    page = visit(url(client, "/flame"))
    page.shows("No reports yet")
    half = Flag(tmp_path)
    running = [client.submit(train, i, half, key=f"run {i}") for i in range(4)]
    wait_for(lambda: len(curves(page)) == 4)
    # Dask sends such calls to its workers at once; they are not told apart from those that run.
    waiting = [client.submit(train, i, key=f"later {i}") for i in range(4)]
    bad = client.submit(fails, False, key="bad", priority=10)
    page.shows("9 running")
    assert "No reports yet" not in page.text()
    half.set()
    wait_for(lambda: bad.status == "error")
    client.gather([*running, *waiting])
    page.shows("8 of 9 done, 1 failed", "too large")


def test_only_failures_are_rows_with_a_reason(client: Client, visit: Callable[..., Page]) -> None:
    page = visit(url(client, "/flame"))
    futures = client.map(fails, [False] * 3, pure=False)
    wait_for(lambda: all(future.status == "error" for future in futures))
    page.shows("0 of 3 done, 3 failed", "too large", "No call has reported a number")
    assert "No reports yet" not in page.text()


def test_choices_are_in_the_address_and_survive_a_reload(
    client: Client, visit: Callable[..., Page]
) -> None:
    client.gather([client.submit(train, i, key=f"call {i}") for i in range(3)])
    page = visit(url(client, "/flame"))
    wait_for(lambda: len(lines(page)) == 3)
    assert page.read(QUERY) == ""
    choose(page, metric="accuracy", colors="runner", log=True, x="seconds", search="call")
    choose(page, smoothing=0.5)
    check(page, "also", "loss")
    page.read("() => daskFlame.choose({ pinned: ['call 1'] })")
    wait_for(lambda: "pin=call+1" in page.read(QUERY))
    zoomed = """() => {
      const { x_range } = Bokeh.documents[0].get_model_by_name("flame");
      return [x_range.start, x_range.end];
    }"""
    wait_for(lambda: len(page.read(CHARTS)) == 2)
    page.read("""() => Bokeh.documents[0].get_model_by_name("flame").x_range.setv(
      { start: 0, end: 0.001 })""")
    wait_for(lambda: "zoom=" in page.read(QUERY))
    before = page.read("() => JSON.stringify(daskFlame.options)")
    address = page.read("() => location.href")
    page.reload()
    for again in (page, visit(address)):
        wait_for(lambda again=again: len(lines(again)) == 3)
        assert again.read("() => JSON.stringify(daskFlame.options)") == before
        assert [name for name, *_ in again.read(CHARTS)] == ["accuracy", "loss"]
        wait_for(lambda again=again: again.read(zoomed) == [0, 0.001])
        assert again.do(lambda p: p.locator("input[name=search]").input_value()) == "call"
        assert again.do(lambda p: p.locator("select[name=colors]").input_value()) == "runner"
    # The first choices again: nothing is left in the address.
    page.do(lambda p: p.click("button[name=follow]"))
    wait_for(lambda: "zoom=" not in page.read(QUERY))


@pytest.mark.parametrize(
    "query",
    ["zoom=1,x", "view=no&color=&smooth=7", "metric=none&run=gone", "call=gone&zoom=1,2,3", "pin="],
)
def test_an_address_that_is_wrong_is_ignored(
    client: Client, visit: Callable[..., Page], query: str
) -> None:
    client.submit(train, 0, key="a").result()
    page = visit(url(client, f"/flame?{query}"))
    page.shows("best 0.025 at step 39 by a", "1 of 1 done")
    wait_for(lambda: lines(page).keys() == {"a"})


def test_a_page_is_loaded_again_when_its_driver_comes_back(
    browser: Browser, visit: Callable[..., Page]
) -> None:
    port = free_port()
    with cluster_of(1, port, plugins=[Reports()]) as client:
        client.submit(train, 0, key="before").result()
        page = visit(f"http://127.0.0.1:{port}/flame?metric=accuracy&color=rank")
        page.shows("1 of 1 done")
    page.shows("the scheduler is not reached any more")
    with cluster_of(1, port, plugins=[Reports()]) as client:
        client.submit(train, 0, key="after").result()
        # Unlike others, this wait goes on while the page is loaded.
        page.wait("() => window.daskFlame?.calls.latest().some((a) => a.key === 'after')")
        wait_for(lambda: curves(page).keys() == {"after"})
        assert page.read(QUERY) == "?metric=accuracy&color=rank"
        assert page.read("() => daskFlame.calls.drawn") == ["accuracy"]
        assert "not reached" not in page.text()
        page.wrong.clear()  # the browser's own word of what it could not reach
        page.close()


def test_calls_have_colors_of_their_own(client: Client, visit: Callable[..., Page]) -> None:
    client.gather([client.submit(train, i, key=f"call {i}") for i in range(20)])
    page = visit(url(client, "/flame?theme=light"))
    wait_for(lambda: len(lines(page)) == 20)
    looks = {(line["color"], line["dash"]) for line in lines(page).values()}
    assert looks == {(line["light"], line["dash"]) for line in CALL_LINES[:20]}
    choose(page, colors="runner")
    wait_for(lambda: len({line["color"] for line in lines(page).values()}) == 2)


def test_a_drawer_has_all_of_a_call(client: Client, visit: Callable[..., Page]) -> None:
    page = visit(url(client, "/flame"))
    bad = client.submit(fails, True, key="bad")
    wait_for(lambda: bad.status == "error")
    wait_for(lambda: "bad" in curves(page))
    page.read("() => daskFlame.choose({ open: 'bad' })")
    page.shows("why it failed", "ValueError('too large')", "reportsTrue", "last 1, best 1")
    assert page.do(lambda p: p.locator(DRAWER).get_attribute("aria-label")) == "call bad"
    assert "call=bad" in page.read(QUERY)
    # There is nothing to stop, and nothing that was printed.
    assert "stop this call" not in page.text()
    assert "printed" not in page.text()
    page.do(lambda p: p.keyboard.press("Escape"))
    wait_for(lambda: "why it failed" not in page.text())
    assert page.read(QUERY) == ""


def test_runs_are_chosen_and_counted(client: Client, visit: Callable[..., Page]) -> None:
    with dask_flame.run("first"):
        client.gather([client.submit(train, i, key=f"first {i}") for i in range(3)])
    with dask_flame.run("second"):
        client.gather([client.submit(train, i, key=f"second {i}") for i in range(2)])
    page = visit(url(client, "/flame"))
    page.shows("5 of 5 done", "all runs")
    ids = page.read("() => Object.fromEntries(daskFlame.calls.runs.map((r) => [r.name, r.id]))")
    check(page, "runs", ids["second"])
    page.shows("2 of 2 done")
    wait_for(lambda: lines(page).keys() == {"second 0", "second 1"})
    check(page, "runs", ids["first"])
    page.shows("5 of 5 done", "all runs")
    page.reload()
    wait_for(lambda: len(lines(page)) == 5)


def test_thinned_curves_are_said_to_be(client: Client, visit: Callable[..., Page]) -> None:
    client.submit(many, key="many").result()
    page = visit(url(client, "/flame"))
    page.shows(" of 20,000 points")
    n = page.read("() => [...daskFlame.calls.byId.values()][0].curve('loss').length")
    assert f"{n:,} of 20,000 points" in page.text()


def test_the_keyboard_reaches_every_control(client: Client, visit: Callable[..., Page]) -> None:
    client.gather([client.submit(train, i, key=f"call {i}") for i in range(3)])
    page = visit(url(client, "/flame"))
    wait_for(lambda: len(lines(page)) == 3)

    def walk(p: Any) -> set[str]:
        found = set()
        for _ in range(80):
            p.keyboard.press("Tab")
            found.add(
                p.evaluate("""() => {
                  let at = document.activeElement;
                  while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
                  return at?.name || at?.getAttribute("aria-label") || at?.tagName || "";
                }""")
            )
        return found

    found = page.do(walk)
    assert {"metric", "view", "colors", "log", "smoothing", "x", "search", "theme"} <= found
    assert any(name.startswith("more metrics") for name in found)
    # A menu opens, and closes, by keyboard.
    page.do(lambda p: p.locator("details[data-flame=also] summary").focus())
    page.do(lambda p: p.keyboard.press("Enter"))
    page.do(lambda p: p.keyboard.press("Tab"))
    page.do(lambda p: p.keyboard.press("Space"))
    wait_for(lambda: [name for name, *_ in page.read(CHARTS)] == ["loss", "accuracy"])
    page.do(lambda p: p.keyboard.press("Escape"))
    assert page.do(lambda p: p.locator("details[data-flame=also]").get_attribute("open")) is None


def test_one_entry_in_dasks_bar_leads_to_both_pages(
    client: Client, visit: Callable[..., Page]
) -> None:
    for path in ("/status", "/flame", "/pools"):
        bar = get(client, path).partition('class="dropdown"')[0]
        assert (bar.count(">Flame</a>"), bar.count(">Pools</a>")) == (1, 0)
    page = visit(url(client, "/flame"))
    page.do(lambda p: p.get_by_role("link", name="Pools", exact=True).click())
    page.wait("() => location.pathname === '/pools' && window.Bokeh?.documents.length")
    page.do(lambda p: p.get_by_role("link", name="Calls", exact=True).click())
    page.wait("() => location.pathname === '/flame' && window.Bokeh?.documents.length")


def test_failed_calls_are_one_click_away(client: Client, visit: Callable[..., Page]) -> None:
    client.submit(train, 1, key="good").result()
    for i in range(2):
        client.submit(fails, True, key=f"bad {i}").exception()
    page = visit(url(client, "/flame"))
    page.shows("1 of 3 done, 2 failed")
    failed = "button[name=failed]"
    assert "bad 0: ValueError('too large')" in page.do(
        lambda p: p.locator(failed).get_attribute("title")
    )
    page.do(lambda p: p.click(failed))
    wait_for(lambda: lines(page).keys() == {"bad 0", "bad 1"})
    assert "filter=state%3Afailed" in page.read(QUERY)
    page.do(lambda p: p.click(failed))
    wait_for(lambda: len(lines(page)) == 3)
    assert page.read(QUERY) == ""


def test_a_choice_is_answered_before_all_charts_are_drawn(
    client: Client, visit: Callable[..., Page]
) -> None:
    client.gather(client.map(three, range(4), pure=False))
    page = visit(url(client, "/flame?metric=loss&metric=accuracy&metric=speed"))
    page.wait("() => window.daskFlame")
    wait_for(lambda: [len(keys) for *_, keys in page.read(CHARTS)] == [4, 4, 4])
    # The number of charts with an exponential axis after each frame.
    frames = page.read("""async () => {
      const found = [];
      daskFlame.choose({ log: true });
      for (let i = 0; i < 12; i++) {
        await new Promise(requestAnimationFrame);
        const log = (f) => f.left[0].ticker.type === "FixedTicker";
        found.push(daskFlame.curves.figures.filter(log).length);
      }
      return found;
    }""")
    assert frames[0] <= 1
    assert [n for i, n in enumerate(frames) if n not in frames[:i] and n] == [1, 2, 3]
    # Drawing that is asked for in each frame keeps no chart from its turn.
    page.read("""async () => {
      for (let i = 0; i < 12; i++) {
        daskFlame.choose({ search: i % 2 ? "i<3" : "i<2" });
        await new Promise(requestAnimationFrame);
      }
    }""")
    wait_for(lambda: [len(keys) for *_, keys in page.read(CHARTS)] == [3, 3, 3])


def test_a_view_is_shown_again_without_a_new_layout(
    client: Client, visit: Callable[..., Page]
) -> None:
    client.gather([client.submit(train, i, key=f"call {i}") for i in range(3)])
    page = visit(url(client, "/flame"))
    wait_for(lambda: len(lines(page)) == 3)
    seen = """() => Object.fromEntries(["flame-charts", "flame-grid"].map((name) => {
      const model = Bokeh.documents[0].get_model_by_name(name);
      const el = model && Bokeh.index.find_one(model)?.el;
      return [name, Boolean(el) && el.checkVisibility({ visibilityProperty: true })];
    }))"""
    choose(page, view="grid")
    wait_for(lambda: page.read(seen) == {"flame-charts": False, "flame-grid": True})
    page.read("""() => {
      window.arranged = 0;
      const root = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name("flame-page"));
      const { compute_layout } = root;
      root.compute_layout = (...args) => (arranged++, compute_layout.apply(root, args));
    }""")
    choose(page, view="curves")
    wait_for(lambda: page.read(seen) == {"flame-charts": True, "flame-grid": False})
    choose(page, view="grid")
    wait_for(lambda: page.read(seen) == {"flame-charts": False, "flame-grid": True})
    assert page.read("() => arranged") == 0


def test_a_failed_call_is_not_the_best(client: Client, visit: Callable[..., Page]) -> None:
    futures = client.map(dies, range(3), pure=False)
    wait_for(lambda: all(future.done() for future in futures))
    page = visit(url(client, "/flame"))
    page.shows("2 of 3 done, 1 failed", "best 2 at step 0 by i=1")
    assert page.read("() => daskFlame.curves.shown[0].leader.name") == "i=1"

    def rows() -> Any:
        return page.do(lambda p: p.locator("tbody tr:not(.space)").all_inner_texts())

    # For a moment, the table that is shown first is there as well.
    wait_for(lambda: len(rows()) == 3)
    assert [re.findall(r"^\s*(\d*)", text)[0] for text in rows()] == ["1", "2", ""]
    assert "i=0" in rows()[2]
    assert page.do(lambda p: p.locator("td.best").all_inner_texts()) == ["2"]


def test_while_calls_run_ranks_are_so_far(client: Client, visit: Callable[..., Page]) -> None:
    go = Event("go", client=client)
    futures = client.map(held, range(3), pure=False)
    page = visit(url(client, "/flame"))
    page.shows("best so far 1 at step 0 by i=0", "so far#")
    go.set()
    client.gather(futures)
    wait_for(lambda: "so far" not in page.text(), what="the end of all calls on the page")

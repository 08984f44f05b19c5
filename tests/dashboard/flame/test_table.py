"""The table of the page /flame and the charts of parameters, in a real browser."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from distributed import Client

from dask_flame import Reports, report
from tests.support.browser_help import Browser, Page, browser, cluster_of, url, visit
from tests.support.waiting import wait_for

__all__ = ["browser", "visit"]

pytestmark = pytest.mark.browser

RATES = (0.001, 0.01, 0.1, 1.0)
CASES = [(rate, act, seed) for rate in RATES for act in ("relu", "tanh") for seed in (1, 2)]


def value_of(rate: float, act: str, seed: int) -> float:
    """Return the best loss of a call: the rate 0.01 with relu and the first seed has the least."""
    away = abs(RATES.index(rate) - 1) + (rate == 0.1) / 20
    return round(away + (act == "tanh") / 4 + seed / 100, 4)


def train(rate: float, act: str, seed: int) -> None:
    for step in range(5):
        loss = value_of(rate, act, seed) + (4 - step)
        report(step=step, loss=loss, accuracy=1 - loss / 10)
        if rate == 1.0 and step == 2:
            raise ArithmeticError("the loss is too large")
    report(step=5, loss=value_of(rate, act, seed) + 0.5, accuracy=0.25)


@pytest.fixture(scope="module")
def client(browser: Browser) -> Iterator[Client]:
    with cluster_of(2) as client:
        client.register_plugin(Reports())
        futures = client.map(train, *zip(*CASES, strict=True), pure=False)
        wait_for(lambda: all(future.done() for future in futures), within=60)
        yield client


@pytest.fixture
def page(client: Client, visit: Callable[..., Page]) -> Page:
    page = visit(url(client, "/flame"), viewport={"width": 1600, "height": 900})
    # All calls have ended, as the page knows it.
    page.wait("""() => window.daskFlame?.calls.latest().length === 16
      && daskFlame.calls.latest().every((a) => ["done", "failed"].includes(a.state))""")
    page.wait("() => daskFlame.calls.parameters.length === 3")
    rows(page, 16)
    return page


def rows(page: Page, n: int) -> list[list[str]]:
    """Wait until the table has so many rows, and return their texts."""
    script = """(n) => {
      const root = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name("flame-ranking"));
      const place = root.shadow_el ?? root.el.shadowRoot;
      const found = [...place.querySelectorAll("tbody tr:not(.space)")];
      return found.length === n
        && found.map((tr) => [...tr.children].map((cell) => cell.ariaLabel ?? cell.textContent));
    }"""
    found: list[list[str]] = page.do(lambda p: p.wait_for_function(script, arg=n).json_value())
    return found


def heads(page: Page) -> list[str]:
    return page.do(lambda p: p.locator("thead th").all_inner_texts())


def column(page: Page, n: int, head: str) -> list[str]:
    texts = [" ".join(text.split()).removesuffix(" ▴").removesuffix(" ▾") for text in heads(page)]
    at = texts.index(head)
    return [row[at] for row in rows(page, n)]


def names(page: Page, n: int) -> list[str]:
    return column(page, n, "call")


def drawn(page: Page, name: str = "flame-lines") -> list[str]:
    return page.read(f"() => Bokeh.documents[0].get_model_by_name('{name}').data.key")


def asked(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlparse(page.read("() => location.href")).query)


def call(rate: float, act: str, seed: int) -> str:
    return f"rate={rate:g}, act={act}, seed={seed}"


def press(page: Page, *keys: str) -> None:
    page.do(lambda p: p.locator("table[aria-rowcount]").focus())
    for key in keys:
        page.do(lambda p, key=key: p.keyboard.press(key))


def test_parameters_results_and_reasons_are_columns(page: Page) -> None:
    assert [" ".join(text.split()) for text in heads(page)] == [
        "# ▴", "call", "state", "best ↓ loss", "last loss", "best ↑ accuracy", "last accuracy",
        "rate", "act", "seed", "step", "duration", "runner",
    ]  # fmt: skip
    assert names(page, 16)[0] == call(0.01, "relu", 1)
    ordered = sorted(CASES, key=lambda case: value_of(*case) + 2 * (case[0] == 1.0))
    assert names(page, 16) == [call(*case) for case in ordered]
    assert column(page, 16, "best ↓ loss")[0] == f"{value_of(0.01, 'relu', 1):g}"
    assert column(page, 16, "last loss")[0] == f"{value_of(0.01, 'relu', 1) + 0.5:g}"
    assert column(page, 16, "rate")[0] == "0.01"
    states = zip(column(page, 16, "state"), column(page, 16, "rate"), strict=True)
    reasons = {state for state, rate in states if rate == "1"}
    assert reasons == {"failed: the loss is too large"}


def test_it_is_sorted_by_mouse_and_keyboard(page: Page) -> None:
    def order() -> list[str]:
        return page.do(
            lambda p: p.locator("thead th[aria-sort]:not([aria-sort=none])").all_inner_texts()
        )

    page.do(lambda p: p.click("th >> text=accuracy >> nth=0"))
    wait_for(lambda: names(page, 16)[0] == call(0.01, "relu", 1))
    assert " ".join(order()[0].split()) == "best ↑ accuracy ▾"
    page.do(lambda p: p.locator("thead th button", has_text="seed").focus())
    page.do(lambda p: p.keyboard.press("Enter"))
    wait_for(lambda: column(page, 16, "seed") == ["1"] * 8 + ["2"] * 8)
    page.do(lambda p: p.keyboard.press("Enter"))
    wait_for(lambda: column(page, 16, "seed") == ["2"] * 8 + ["1"] * 8)
    assert asked(page) == {"sort": ["p:seed"], "descending": ["1"]}
    page.reload()
    rows(page, 16)
    wait_for(lambda: column(page, 16, "seed") == ["2"] * 8 + ["1"] * 8)
    page.do(lambda p: p.click("thead th button >> text=seed"))
    wait_for(lambda: asked(page) == {})


def test_expressions_choose_calls_and_wrong_ones_are_explained(page: Page) -> None:
    search = page.do(lambda p: p.locator("input[name=search]"))
    page.do(lambda p: search.fill("rate<0.1 act=relu -seed=2"))
    assert set(names(page, 2)) == {call(0.001, "relu", 1), call(0.01, "relu", 1)}
    wait_for(lambda: len(drawn(page)) == 2)
    page.do(lambda p: search.fill("state:failed loss>1"))
    rows(page, 4)
    page.do(lambda p: search.fill("rat>1"))
    page.shows("nothing is called rat")
    rows(page, 16)
    page.do(lambda p: search.fill("rate>x"))
    page.shows("x is no number")
    page.do(lambda p: search.fill(""))
    wait_for(lambda: "x is no number" not in page.text())


def test_curves_are_hidden_and_pinned_by_keys_and_mouse(page: Page) -> None:
    wait_for(lambda: len(drawn(page)) == 16)
    last = names(page, 16)[-1]
    press(page, "End", "p")
    wait_for(lambda: names(page, 16)[0] == last)
    press(page, "Home", "ArrowDown", "h")
    wait_for(lambda: len(drawn(page)) == 15)
    page.shows("unpin 1", "show 1 hidden")
    assert set(asked(page)) == {"pin", "hide"}
    page.do(lambda p: p.click("button[aria-label='hide the curve'] >> nth=3"))
    wait_for(lambda: len(drawn(page)) == 14)
    page.do(lambda p: p.click("button[name=unhide]"))
    wait_for(lambda: len(drawn(page)) == 16)
    page.do(lambda p: p.click("button[name=unpin]"))
    wait_for(lambda: names(page, 16)[-1] == last)
    press(page, "Home", "Enter")
    wait_for(lambda: asked(page).get("call") is not None)


def test_columns_are_chosen_in_a_menu(page: Page) -> None:
    page.do(lambda p: p.click("button[name=columns]"))
    page.do(lambda p: p.uncheck("label:has-text('last loss') input"))
    page.do(lambda p: p.check("label:has-text('attempt') input"))
    wait_for(lambda: len(heads(page)) == 13)
    texts = [" ".join(text.split()) for text in heads(page)]
    assert "last loss" not in texts
    assert texts[-1] == "attempt"
    page.do(lambda p: p.keyboard.press("Escape"))
    assert page.do(lambda p: p.locator(".menu#flame-columns").is_hidden())
    page.reload()
    wait_for(lambda: "attempt" in heads(page))


def test_groups_have_means_spreads_and_bands(page: Page) -> None:
    page.do(lambda p: p.select_option("select[name=group]", "over:seed"))
    found = names(page, 8)
    assert found[0] == "rate=0.01, act=relu"
    pair = [value_of(0.01, "relu", seed) for seed in (1, 2)]
    best = column(page, 8, "best ↓ loss")[0]
    assert best == f"{sum(pair) / 2:g} ± {0.01 / 2**0.5:.2g}"
    assert column(page, 8, "state")[0] == "2 done"
    bands = "() => Bokeh.documents[0].get_model_by_name('flame-bands').data"
    wait_for(lambda: len(page.read(bands)["xs"]) == 8)
    means = [
        list(ys)
        for ys in page.read("""() => [...
      Bokeh.documents[0].get_model_by_name('flame-lines').data.ys].map((ys) => [...ys])""")
    ]
    assert len(means) == 8
    expected = [sum(pair) / 2 + (4 - step) for step in range(5)] + [sum(pair) / 2 + 0.5]
    assert any(ys == pytest.approx(expected) for ys in means)
    press(page, "Home", "ArrowRight")
    assert names(page, 10)[1:3] == [call(0.01, "relu", 1), call(0.01, "relu", 2)]
    press(page, "ArrowLeft")
    rows(page, 8)
    page.do(lambda p: p.select_option("select[name=group]", "rate"))
    assert {name.partition(",")[0] for name in names(page, 4)} == {
        "rate=0.001", "rate=0.01", "rate=0.1", "rate=1",
    }  # fmt: skip


def test_csv_is_downloaded(page: Page, tmp_path: Path) -> None:
    def download(p: Any) -> None:
        with p.expect_download() as found:
            p.click("button[name=csv]")
        found.value.save_as(tmp_path / "calls.csv")

    page.do(download)
    with open(tmp_path / "calls.csv", newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert len(read) == 16
    assert read[0]["call"] == call(0.01, "relu", 1)
    assert float(read[0]["best loss"]) == value_of(0.01, "relu", 1)
    assert {row["why"] for row in read if row["state"] == "failed"} == {
        "ArithmeticError('the loss is too large')"
    }


MANY = """() => {
  const { calls, plan } = daskFlame;
  const [first] = calls.latest();
  for (let i = 0; i < 1000; i++) {
    const row = { ...first, id: 1e6 + i, place: 1e6 + i, key: `k${i}`, name: `call number ${i}`,
      parameters: [["rate", i]], metrics: [["loss", 10 + i, 1, 10 + i, 1, 1]] };
    const attempt = new first.constructor();
    attempt.take(row);
    calls.byId.set(row.id, attempt);
  }
  plan();
}"""


def test_of_many_calls_only_what_is_seen_is_rendered(page: Page) -> None:
    page.read(MANY)
    page.wait("""() => daskFlame.calls.byId.size >= 1016""")

    def rendered() -> int:
        return page.do(lambda p: p.locator("tbody tr:not(.space)").count())

    wait_for(lambda: 16 < rendered() < 80)
    press(page, "End")
    wait_for(lambda: page.do(lambda p: p.locator("tbody tr >> text=call number 999").is_visible()))
    assert rendered() < 80
    assert page.do(lambda p: p.locator("table[role=grid]").get_attribute("aria-rowcount")) == "1017"


def box(page: Page, part: str) -> dict[str, float]:
    return page.do(lambda p: p.locator(f"[data-flame={part}] canvas").bounding_box())


def axis(page: Page, i: int) -> dict[str, float]:
    return page.do(lambda p: p.locator("[data-flame=parallel] .axis").nth(i).bounding_box())


def drag(page: Page, x: float, top: float, bottom: float) -> None:
    def do(p: Any) -> None:
        p.mouse.move(x, top)
        p.mouse.down()
        p.mouse.move(x, (top + bottom) / 2)
        p.mouse.move(x, bottom, steps=3)
        p.mouse.up()

    page.do(do)


def test_axes_of_parameters_choose_calls(page: Page) -> None:
    page.do(lambda p: p.click("button[name=view][value=parameters]"))
    page.do(lambda p: p.wait_for_selector("[data-flame=parallel] .axis >> nth=3"))
    titles = page.do(lambda p: p.locator("[data-flame=parallel] .axis").all_inner_texts())
    assert titles == ["rate", "act", "seed", "loss ↓"]
    # The lower half of the axis of the rate, which is logarithmic: 0.001 and 0.01.
    whole, rate = box(page, "parallel"), axis(page, 0)
    x = rate["x"] + rate["width"] / 2
    middle = whole["y"] + 44 + (whole["height"] - 44 - 22) / 2
    drag(page, x, middle, whole["y"] + whole["height"] - 12)
    assert {name.partition(",")[0] for name in names(page, 8)} == {"rate=0.001", "rate=0.01"}
    (text,) = asked(page)["filter"]
    assert text.startswith("rate>=0.001 rate<=0.03")
    # A click on the axis takes the range away.
    page.do(lambda p: p.mouse.click(x, middle))
    rows(page, 16)
    # By keyboard.
    page.do(lambda p: p.locator("[data-flame=parallel] .axis button").nth(1).focus())
    page.do(lambda p: p.keyboard.press("Enter"))
    page.do(lambda p: p.keyboard.press("Space"))
    assert {name.split(", ")[1] for name in names(page, 8)} == {"act=tanh"}
    page.do(lambda p: p.keyboard.press("Escape"))
    page.do(lambda p: p.locator("[data-flame=parallel] .axis button").nth(0).focus())
    page.do(lambda p: p.keyboard.press("Enter"))
    page.do(lambda p: p.keyboard.type("0.05"))
    page.do(lambda p: p.keyboard.press("Tab"))
    rows(page, 4)
    assert asked(page)["filter"] == ["act=tanh rate>=0.05"]


def test_points_of_parameters_are_calls(page: Page) -> None:
    page.do(lambda p: p.click("button[name=view][value=parameters]"))
    page.do(lambda p: p.wait_for_selector("[data-flame=scatter] canvas"))
    label = page.do(lambda p: p.locator("[data-flame=scatter] canvas").get_attribute("aria-label"))
    assert label.startswith("loss of 16 calls against rate, act, seed; best: rate=0.01, act=relu")
    area = box(page, "scatter")

    names = "rows => rows.map((tr) => tr.querySelector('.call').ariaLabel)"

    def focused() -> list[str]:
        """Move over the points of the best calls in the first panel until one is found."""
        for i in range(12, int(area["width"] / 3), 2):
            place = area["x"] + 52 + i, area["y"] + area["height"] - 74
            page.do(lambda p, place=place: p.mouse.move(*place))
            found: list[str] = page.do(lambda p: p.locator("tbody tr.focus").evaluate_all(names))
            if found:
                return found
        return []

    found = focused()
    assert found
    assert set(found) <= {call(0.01, "relu", 1), call(0.01, "relu", 2)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_edge_shows_that_there_are_more_columns(
    client: Client, visit: Callable[..., Page], scheme: str
) -> None:
    page = visit(url(client, "/flame"), color_scheme=scheme)
    rows(page, 16)
    for width in (320, 768, 1000, 1400, 2560):
        page.do(lambda p, width=width: p.set_viewport_size({"width": width, "height": 800}))
        for end in (False, True):
            page.do(
                lambda p, end=end: p.locator(".scroll:has(table)").evaluate(
                    "(node, end) => (node.scrollLeft = end ? 1e6 : 0)", end
                )
            )
            wait_for(lambda: page.do(_edge), what=f"the edge at {width} px, end: {end}")


def _edge(p: Any) -> bool:
    """Return whether a sign is at the right edge exactly if there is more beyond it."""
    found: bool = p.evaluate("""() => {
      const root = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name("flame-ranking"));
      const place = root.shadow_el ?? root.el.shadowRoot;
      const [scroll, more] = [".whole > .scroll", ".more"].map((name) => place.querySelector(name));
      const beyond = scroll.scrollWidth - scroll.clientWidth - scroll.scrollLeft > 1;
      const [a, b] = [scroll.getBoundingClientRect(), more.getBoundingClientRect()];
      const there = more.checkVisibility() && Math.abs(b.right - (a.left + scroll.clientWidth)) < 2
        && b.height > 100;
      return beyond === there;
    }""")
    return found

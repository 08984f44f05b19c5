"""The pages at any width, in light and dark, for people who use a keyboard or a screen reader."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from distributed import Client

from dask_flame import report
from tests.support.browser_help import Page, url
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.browser

AXE = ROOT / "scripts/javascript/node_modules/axe-core/axe.min.js"
WIDTHS = (320, 768, 1000, 1400, 2560)
#: What is wrong for readers, seriously, with the elements in question.
CHECK = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations
    .filter(({ impact }) => ["serious", "critical"].includes(impact))
    .map(({ id, nodes }) => [id, ...nodes.map(({ target, html }) => `${target}: ${html}`)]);
}"""
#: Controls that are outside of the page, or lie below something else when they are scrolled to.
HIDDEN = """async () => {
  const roots = [document];
  const controls = [];
  for (const root of roots) {
    for (const element of root.querySelectorAll("*")) {
      if (element.shadowRoot) roots.push(element.shadowRoot);
      const control = element.matches("select, input, button, summary, nav a, .navbar a");
      if (control) controls.push(element);
    }
  }
  const wrong = [];
  for (const element of controls) {
    if (!element.checkVisibility({ visibilityProperty: true })) continue;
    // The table scrolls by itself, below its first columns.
    if (element.closest(".dropdown-content, .menu, table")) continue;
    element.scrollIntoView({ block: "nearest", inline: "nearest" });
    await new Promise(requestAnimationFrame);
    const box = element.getBoundingClientRect();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    let found = document.elementFromPoint(x, y);
    while (found?.shadowRoot?.elementFromPoint(x, y)) {
      const inner = found.shadowRoot.elementFromPoint(x, y);
      if (inner === found) break;
      found = inner;
    }
    if (!found || !(element.contains(found) || found.contains(element))) {
      wrong.push([element.outerHTML.slice(0, 120), found?.outerHTML.slice(0, 120), x, y]);
    }
  }
  return wrong;
}"""


def train(i: int) -> None:
    for step in range(20):
        report(step=step, loss=(i + 1) / (step + 1), accuracy=1 - (i + 1) / (step + 2))
    if i == 2:
        raise ValueError("too large")


def run(client: Client) -> None:
    futures = client.map(train, range(4), pure=False)
    wait_for(lambda: all(future.done() for future in futures))


@pytest.mark.skipif(not AXE.exists(), reason="npm ci --prefix scripts/javascript")
@pytest.mark.parametrize(
    ("theme", "widths"),
    [
        ("light", (1000,)),
        pytest.param("light", WIDTHS, marks=pytest.mark.slow),
        pytest.param("dark", WIDTHS, marks=pytest.mark.slow),
    ],
)
def test_axe_finds_nothing_serious(
    client: Client, visit: Callable[..., Page], theme: str, widths: tuple[int, ...]
) -> None:
    run(client)
    for path in ("flame?metric=loss&metric=accuracy&", "flame?view=parameters&", "pools?"):
        page = visit(url(client, f"/{path}theme={theme}"))
        if path.startswith("flame"):
            page.shows("3 of 4 done")
        page.do(lambda p: p.add_script_tag(path=str(AXE)))
        for width in widths:
            page.do(lambda p, w=width: p.set_viewport_size({"width": w, "height": 800}))
            assert page.read(CHECK) == [], (path, width)


@pytest.mark.parametrize("path", ["/flame", "/flame?view=grid", "/flame?view=parameters", "/pools"])
def test_every_control_is_seen_and_not_covered(
    client: Client, visit: Callable[..., Page], path: str
) -> None:
    run(client)
    page = visit(url(client, path))
    if path != "/pools":
        page.shows("3 of 4 done")
    for width in (320, 500, 780, 801, 900, 1000, 1190, 1400, 2560):
        page.do(lambda p, w=width: p.set_viewport_size({"width": w, "height": 700}))
        page.wait("""() => Math.abs(
          document.querySelector(".navbar").getBoundingClientRect().bottom
          + 4 - parseFloat(getComputedStyle(document.body).paddingTop)) <= 1""")
        page.read("() => scrollTo(0, 0)")
        assert page.read(HIDDEN) == [], width
        wide = page.read("() => document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, width

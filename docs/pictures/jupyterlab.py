"""Take a picture of JupyterLab with a FlameCluster in Dask's sidebar, from a real run.

    python jupyterlab.py jupyterlab.png

A server is started with deploy/jupyterlab/labextension.yaml. In its sidebar "+ NEW" is clicked,
then "<>" for a client in the notebook, and the buttons of our plots.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from playwright.sync_api import Frame, Page, sync_playwright
from shoot import ARGUMENTS, shrink

from dask_flame.testing.lab import jupyterlab

FACTORY = Path(__file__).parents[2] / "deploy" / "jupyterlab" / "labextension.yaml"
#: In pixels as the page counts them, and how many of the picture's each of them is.
WIDTH, HEIGHT, SCALE = 1720, 1044, 0.82
#: How much of the width between the sidebars the notebook has.
SHARE = 0.56
CELLS = (
    """
import math, random, time
from dask_flame import report, watch

def train(rate):
    random.seed(rate)
    floor = 0.1 + 0.25 * abs(math.log10(rate / 0.06))
    for step in range(200):
        time.sleep(0.12)  # where training would be
        noise = random.gauss(0, 0.015)
        report(step=step, loss=floor + 2 * math.exp(-rate * step * 2) + noise)
        if rate > 0.2 and step == 80:
            raise ValueError("diverged")
""",
    """
rates = [0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3]
futures = client.map(train, rates, key=[f"rate={rate}" for rate in rates])
watch(futures)
""",
)
CURVES = "() => window.daskFlame?.calls.byId.size >= 8"
#: How long the curves grow before the picture is taken, in milliseconds.
GROW = 15_000


def main(output: str) -> None:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        sys.exit(
            "no chromium on the path; name it: CHROMIUM=/usr/bin/chromium python jupyterlab.py …"
        )
    with (
        TemporaryDirectory() as folder,
        jupyterlab(Path(folder), dask_config=FACTORY.read_text()) as lab,
        sync_playwright() as driver,
    ):
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        nbformat.write(notebook, lab.work / "tune.ipynb")
        chromium = driver.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        page = chromium.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE
        )
        page.set_default_timeout(120_000)
        page.goto(lab.page("tune.ipynb"))
        page.get_by_text("| Idle").wait_for()
        _take(page, output)
        chromium.close()
    shrink(output)


def _take(page: Page, output: str) -> None:
    page.locator('[data-id="dask-dashboard-launcher"]').click()
    page.locator(".dask-DaskClusterManager .jp-Toolbar").get_by_text("New").click()
    page.locator(".dask-ClusterListingItem-code").click()
    page.get_by_text('Client("flame://').wait_for()
    _do(page, "docmanager:save")
    _open_plots(page)
    _do(page, "notebook:run-all-cells")
    _frame(page).wait_for_function(CURVES)
    page.get_by_text("Number of Workers: 8").wait_for()
    page.wait_for_timeout(GROW)
    for shown in (".jp-OutputArea img[src^='data:image/svg']", ".dask-ClusterListingItem"):
        # Not by playwright, which would wait for a picture that is replaced all the time.
        page.evaluate("shown => document.querySelector(shown).scrollIntoView(false)", shown)
    page.mouse.move(WIDTH / 2, 5)
    page.wait_for_timeout(700)
    page.screenshot(path=output)


def _do(page: Page, command: str) -> None:
    """Have JupyterLab do a command of its palette."""
    page.evaluate("command => void jupyterapp.commands.execute(command)", command)


def _open_plots(page: Page) -> None:
    """Have the curves beside the notebook, and below them the runners, if they have a plot."""
    plots = page.locator(".dask-DashboardListing-item button")
    plots.get_by_text("Flame Curves", exact=True).wait_for()
    names = {plot.get_attribute("value") for plot in plots.all()}
    for name in ("Flame Curves", "Flame Runners"):
        if name in names:
            plots.get_by_text(name, exact=True).click()
            page.locator(".lm-TabBar-tabLabel").get_by_text(name, exact=True).wait_for()
    page.evaluate(
        """() => {
          const shell = jupyterapp.shell;
          const [notebook, curves, runners] = Array.from(shell.widgets('main'));
          shell.add(curves, 'main', {mode: 'split-right', ref: notebook.id});
          if (runners) shell.add(runners, 'main', {mode: 'split-bottom', ref: curves.id});
          shell.activateById(notebook.id);
        }"""
    )
    page.wait_for_timeout(1000)
    main = page.locator("#jp-main-dock-panel").bounding_box()
    handle = page.locator(".lm-DockPanel-handle[data-orientation=horizontal]:visible").first
    at = handle.bounding_box()
    assert main is not None
    assert at is not None
    y = at["y"] + 12  # by the tabs: what is in the panel would take the mouse for its own
    page.mouse.move(at["x"] + at["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(main["x"] + SHARE * main["width"], y, steps=5)
    page.mouse.up()


def _frame(page: Page) -> Frame:
    """The page with the curves, which is in a page of JupyterLab's."""
    for _ in range(600):
        for frame in page.frames:
            if frame.url.endswith("/individual-flame-curves"):
                return frame
        page.wait_for_timeout(200)
    raise TimeoutError("the plot of the curves was not opened")


if __name__ == "__main__":
    main(*sys.argv[1:])

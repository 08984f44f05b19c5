"""Take pictures of ``examples/video_summary.ipynb`` in JupyterLab, and of the page of its pools.

    python video.py FOLDER

``video-summary.png`` shows the strips while they fill up, ``video-summary-panel.png`` the panel of
the cluster at that time, ``video-summary-done.png`` the strips when all films are summed up, and
``video-summary-pools.png`` the page /pools 20 seconds later, when idle runners have ended.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from playwright.sync_api import Page, sync_playwright
from shoot import ARGUMENTS, shrink

from dask_flame.testing.lab import jupyterlab

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WIDTH, HEIGHT = 1240, 1080
#: Whether some stills are described and others not.
SOME = """() => {
  const tiles = [...document.querySelectorAll(".jp-OutputArea img[alt]")];
  const waiting = tiles.filter(({ alt }) => alt === "not yet described").length;
  return tiles.length - waiting >= 5;
}"""
DONE = """() => [...document.querySelectorAll(".jp-OutputArea")]
  .some(({ innerText }) => /^writer: .* of runners/m.test(innerText))"""
#: Scroll to the strips: to the name of the first film.
STRIPS = """() => [...document.querySelectorAll(".jp-OutputArea b")]
  .find(({ innerText }) => /[.]mp4$/.test(innerText)).scrollIntoView()"""
#: Scroll to the panel of the cluster, with its three pools.
PANEL = """() => document.querySelector(".jp-OutputArea b").scrollIntoView()"""
#: Whether the page of the pools has drawn the lives of their runners.
LIVES = """() => {
  const doc = window.Bokeh && Bokeh.documents[0];
  const lives = doc && doc.get_model_by_name("pools-lives");
  return lives && lives.get_length() > 4;
}"""


def main(folder: str) -> None:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        sys.exit("no chromium on the path; name it: CHROMIUM=/usr/bin/chromium python video.py …")
    with (
        TemporaryDirectory() as scratch,
        jupyterlab(Path(scratch), within=300) as lab,
        sync_playwright() as pw,
    ):
        shutil.copy(EXAMPLES / "video_summary.py", lab.work)
        notebook = nbformat.read(EXAMPLES / "video_summary.ipynb", as_version=4)
        notebook.cells = [cell for cell in notebook.cells if cell["id"] != "close"]
        link = "print('see', cluster.dashboard_link)"
        notebook.cells.append(nbformat.v4.new_code_cell(link))
        nbformat.write(notebook, lab.work / "films.ipynb")
        chromium = pw.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(900_000)
        page.goto(lab.page("films.ipynb"))
        page.get_by_text("| Idle").wait_for()
        for command in ("application:toggle-left-area", "notebook:run-all-cells"):
            page.evaluate("command => void jupyterapp.commands.execute(command)", command)
        page.wait_for_function(SOME)
        _take(page, STRIPS, Path(folder, "video-summary.png"))
        _take(page, PANEL, Path(folder, "video-summary-panel.png"))
        page.wait_for_function(DONE)
        _take(page, STRIPS, Path(folder, "video-summary-done.png"))
        said = page.get_by_text("see http").first.inner_text()
        pools = said.split()[1].replace("/status", "/pools")
        page.wait_for_timeout(20_000)  # until idle runners have ended
        page.set_viewport_size({"width": 1400, "height": 900})
        page.goto(pools)
        page.wait_for_function(LIVES)
        page.wait_for_timeout(1500)
        _save(page, Path(folder, "video-summary-pools.png"))
        chromium.close()


def _take(page: Page, place: str, picture: Path) -> None:
    page.evaluate(place)
    page.wait_for_timeout(1500)
    _save(page, picture)


def _save(page: Page, picture: Path) -> None:
    page.screenshot(path=str(picture))
    shrink(str(picture))


if __name__ == "__main__":
    main(*sys.argv[1:])

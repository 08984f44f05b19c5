"""JupyterLab's Dask sidebar starts a FlameCluster and shows its plots; its buttons work there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from dask_flame.core.processes import MARK
from dask_flame.testing import marked_processes
from dask_flame.testing.lab import Lab, jupyterlab
from tests.support.browser_help import ARGUMENTS, CHROMIUM
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipywidgets")
pytest.importorskip("jupyterlab", reason="pip install jupyterlab")
pytest.importorskip("dask_labextension", reason="pip install dask-labextension")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

# A page of JupyterLab with plots of Dask takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(900)

FACTORY = ROOT / "deploy" / "jupyterlab" / "labextension.yaml"

_TOKEN = "DASK_FLAME_TEST_LAB"

TRAIN = """
import time
from dask_flame import FlameCluster, report, watch
from dask.distributed import Client
from pathlib import Path

def train(rate, on):
    for step in range(10_000):
        report(step=step, loss=rate / (step + 1))
        time.sleep(0.05)
        if step > 20 and Path(on).exists():
            return rate
"""
RUN = """
futures = client.map(train, [0.1, 0.2], on=str(Path("enough").absolute()), key=["low", "high"])
watch(futures)
"""
PANEL = """
cluster = FlameCluster(max=1, dashboard_address=None)
client = Client(cluster)
cluster
"""
#: What `watch` shows.
PICTURE = "img[src^='data:image/svg']"
#: Curves that a page of Bokeh's shows, by their names, with how many points they have.
CURVES = """() => {
  const source = window.Bokeh?.documents[0]?.get_model_by_name("flame-lines");
  return Object.fromEntries((source?.data.key ?? []).map((k, i) => [k, source.data.xs[i].length]));
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"no browser at {CHROMIUM}; name one: CHROMIUM=/path/to/chromium pytest")
    with _marked(), jupyterlab(tmp_path_factory.mktemp("lab"), dask_config=_factory()) as lab:
        yield lab


@pytest.fixture
def lab(server: Lab) -> Iterator[Lab]:
    yield server
    end_all(server)


def end_all(server: Lab) -> None:
    """End the kernels and the clusters that a test has started there."""
    for path in ("api/kernels", "dask/clusters"):
        for there in server.ask(path):
            server.ask(f"{path}/{there['id']}", "DELETE")


@pytest.fixture
def page() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        context = chromium.new_context(viewport={"width": 1400, "height": 1400})
        page = context.new_page()
        page.set_default_timeout(180_000)
        try:
            yield page
        finally:
            chromium.close()


@contextlib.contextmanager
def _marked() -> Iterator[None]:
    """What is started has a token of ours in its environment."""
    with mock.patch.dict(os.environ, {_TOKEN: uuid.uuid4().hex}):
        try:
            yield
        finally:
            for process in ours():
                process.kill()


def _factory(**settings: Any) -> str:
    """Our configuration of the extension, with a port of the dashboard that is free."""
    factory = yaml.safe_load(FACTORY.read_text())
    factory["labextension"]["factory"]["kwargs"]["dashboard_address"] = "127.0.0.1:0"
    return str(yaml.safe_dump({**factory, "flame": settings}))


def ours() -> list[Any]:
    return marked_processes(os.environ[_TOKEN], variable=_TOKEN)


def of_clusters() -> list[int]:
    """The processes that belong to runners."""
    found = []
    for process in ours():
        with contextlib.suppress(Exception):
            if MARK in process.environ():
                found.append(process.pid)
    return found


def open_notebook(page: Any, lab: Lab, *cells: str) -> None:
    """Show a notebook with a kernel that is ready."""
    name = f"{uuid.uuid4().hex}.ipynb"
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c.strip()) for c in cells], metadata=metadata
    )
    nbformat.write(notebook, lab.work / name)
    page.goto(lab.page(name))
    page.get_by_text("| Idle").wait_for()


def do(page: Any, command: str) -> None:
    """Have JupyterLab do a command of its palette."""
    page.evaluate("command => void jupyterapp.commands.execute(command)", command)


def curves(page: Any) -> dict[str, int]:
    """What the panel with our plot shows, which is a page in the page."""
    (frame,) = (f for f in page.frames if f.url.endswith("/individual-flame-curves"))
    return dict(frame.evaluate(CURVES))


def wait_for_frames(page: Any, what: Callable[[list[str]], bool]) -> None:
    """Wait for the addresses of the pages that panels show."""
    deadline = time.monotonic() + 60
    while not what(there := [frame.url for frame in page.frames]):
        assert time.monotonic() < deadline, there
        page.wait_for_timeout(200)


def grown(page: Any, than: int, within: float = 120) -> int:
    """Wait until each curve in the panel has more points; returns how many the longest has."""
    deadline = time.monotonic() + within
    found: dict[str, int] = {}
    while True:
        # The page in the page may just be coming.
        with contextlib.suppress(playwright.Error, ValueError):
            found = curves(page)
            if set(found) == {"low", "high"} and min(found.values()) > than:
                return max(found.values())
        assert time.monotonic() < deadline, (found, [f.url for f in page.frames])
        page.wait_for_timeout(200)


@pytest.mark.browser
def test_the_sidebar_starts_shows_and_ends_a_cluster(lab: Lab, page: Any) -> None:
    open_notebook(page, lab, TRAIN, RUN)
    page.locator('[data-id="dask-dashboard-launcher"]').click()
    page.locator(".dask-DaskClusterManager .jp-Toolbar").get_by_text("New").click()
    listed = page.locator(".dask-ClusterListingItem")
    listed.wait_for()
    said = listed.inner_text()
    assert said.startswith("FlameCluster ")
    for words in ("Number of Workers: 0", "Minimum Workers: 0", "Maximum Workers: 8"):
        assert words in said
    assert "SCALE" in said
    assert "SHUTDOWN" in said

    # A client for the notebook that is open.
    listed.locator(".dask-ClusterListingItem-code").click()
    page.get_by_text('Client("flame://127.0.0.1:/').wait_for()
    (lab.work / "enough").unlink(missing_ok=True)
    do(page, "notebook:run-all-cells")
    page.locator(PICTURE).wait_for()
    page.get_by_text("Number of Workers: 2").wait_for()

    # Though nobody has looked at the dashboard yet.
    plots = page.locator(".dask-DashboardListing-item button")
    plots.get_by_text("Flame Curves", exact=True).click()
    assert {"Flame Curves", "Task Stream"} <= {plot.get_attribute("value") for plot in plots.all()}
    grown(page, grown(page, 5))
    assert len(of_clusters()) >= 2

    listed.get_by_text("SHUTDOWN").click()
    listed.wait_for(state="detached")
    assert lab.ask("dask/clusters") == []
    wait_for(lambda: not of_clusters(), what="the end of all runners")


@pytest.mark.browser
def test_a_dashboard_with_a_token_is_shown_by_its_link(tmp_path: Path, page: Any) -> None:
    token = {"token": "auto"}
    with _marked(), jupyterlab(tmp_path / "lab", dask_config=_factory(dashboard=token)) as lab:
        open_notebook(page, lab, TRAIN, RUN)
        page.locator('[data-id="dask-dashboard-launcher"]').click()
        page.locator(".dask-DaskClusterManager .jp-Toolbar").get_by_text("New").click()
        listed = page.locator(".dask-ClusterListingItem")
        listed.locator(".dask-ClusterListingItem-code").click()
        page.get_by_text('Client("flame://127.0.0.1:/').wait_for()
        do(page, "notebook:run-all-cells")
        page.locator(PICTURE).wait_for()
        link = listed.get_by_role("link")
        shown, _, token = str(link.get_attribute("href")).partition("?token=")
        (port,) = re.findall(r":(\d+)/status", shown)
        assert token

        # Through jupyter-server-proxy, whose prefix the page keeps.
        proxied = page.context.new_page()
        prefix = f"{lab.address}proxy/{port}"
        assert proxied.goto(f"{prefix}/flame").status == 403
        assert proxied.goto(f"{prefix}/flame?token={token}").status == 200
        assert proxied.url == f"{prefix}/flame"
        there = proxied.wait_for_function(f"() => Math.max(0, ...Object.values(({CURVES})()))")
        more = f"() => Math.max(0, ...Object.values(({CURVES})())) > {there.json_value() + 5}"
        proxied.wait_for_function(more)
        # Which has set a cookie of this host: the sidebar's own proxy passes it on.
        listed.click()
        page.locator(".dask-DashboardListing-item button").get_by_text("Flame Curves").click()
        grown(page, grown(page, 5))

        # By the link, as it may be typed, in another browser.
        page.context.clear_cookies(name=re.compile("dask-flame-"))
        typed = page.get_by_placeholder("DASK DASHBOARD URL")
        typed.fill(f"{shown}?token={token}")
        typed.press("Enter")
        # The panel was one of the other address.
        wait_for_frames(page, lambda there: not any("/individual-" in url for url in there))
        page.locator(".dask-DashboardListing-item button").get_by_text("Flame Curves").click()
        plot = f"http://127.0.0.1:{port}/individual-flame-curves"
        wait_for_frames(page, lambda there: plot in there)
        grown(page, grown(page, 5))
        assert token not in lab.log.read_text()
        end_all(lab)


@pytest.mark.browser
def test_buttons_work_beside_the_cell_that_runs(lab: Lab, page: Any) -> None:
    open_notebook(page, lab, TRAIN, PANEL, RUN)
    (lab.work / "enough").unlink(missing_ok=True)
    do(page, "notebook:run-all-cells")
    panel = page.locator(".flame-panel")
    panel.get_by_text("1 call waits for a runner").wait_for()
    page.locator(PICTURE).wait_for()
    most = page.get_by_label("max")
    most.fill("2")
    most.press("Tab")
    page.get_by_role("button", name="Resize").click()
    panel.get_by_text("2 busy").wait_for()
    assert page.get_by_text("[*]:").count() == 1

    page.get_by_role("button", name="End cluster").click()
    page.get_by_role("button", name="End it").click()
    panel.get_by_text("closed").wait_for()
    page.get_by_role("button", name="Resize").wait_for(state="hidden")
    wait_for(lambda: not of_clusters(), what="the end of all runners")


def shown(page: Any) -> list[str]:
    """Return the text of the outputs that can be seen."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll(".jp-OutputArea-child")]
        .filter((e) => e.offsetHeight).map((e) => e.innerText)"""
    )
    return found


def kill_kernel(lab: Lab) -> None:
    (there,) = lab.ask("api/kernels")
    (kernel,) = (p for p in ours() if any(there["id"] in word for word in p.cmdline()))
    kernel.kill()


def opacity(page: Any, part: str) -> str:
    """Opacity of a part of the panel; empty while the panel replaces it."""
    found: str = page.evaluate(
        "part => getComputedStyle(document.querySelector(`.flame-live .${part}`)).opacity", part
    )
    return found


@pytest.mark.browser
def test_the_panel_says_that_its_kernel_is_gone_and_a_saved_one_is_html(
    lab: Lab, page: Any
) -> None:
    open_notebook(page, lab, TRAIN, PANEL.replace("max=1", "min=1, max=1"))
    do(page, "notebook:run-all-cells")
    page.locator(".flame-live").get_by_text("1 ready").wait_for()
    (live,) = shown(page)
    assert "Resize" in live
    # Its opacity says that the live one is live.
    wait_for(lambda: opacity(page, "since") == "0")
    do(page, "docmanager:save")
    wait_for(lambda: any("flame-saved" in p.read_text() for p in lab.work.glob("*.ipynb")))

    kill_kernel(lab)
    wait_for(lambda: opacity(page, "since") == "1")
    assert "not updated since 20" in shown(page)[0]
    assert opacity(page, "now") == "0.45"

    page.reload()
    page.locator(".flame-panel .saved").wait_for()
    page.get_by_text("Error displaying widget").wait_for(state="hidden")
    (saved,) = shown(page)
    assert "as of 20" in saved
    assert "not updated since" not in saved


@pytest.mark.process
def test_a_server_that_is_killed_leaves_no_runner(tmp_path: Path) -> None:
    with _marked(), jupyterlab(tmp_path / "lab", dask_config=_factory()) as lab:
        made = lab.ask("dask/clusters", "PUT")
        # What "SCALE" in the sidebar asks for.
        lab.ask(f"dask/clusters/{made['id']}", "PATCH", {"workers": 2})
        wait_for(lambda: lab.ask("dask/clusters")[0]["workers"] == 2, 60, "two runners")
        assert len(of_clusters()) >= 2
        os.kill(lab.process.pid, signal.SIGKILL)
        wait_for(lambda: not ours(), what="the end of all that it has started")

"""JupyterLab lists an application, attaches to it, and survives its end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dask_flame.testing.lab import Lab, jupyterlab
from tests.support import exposed as support
from tests.support.browser_help import ARGUMENTS, CHROMIUM
from tests.support.exposed import exposed
from tests.support.waiting import wait_for

pytest.importorskip("jupyterlab", reason="pip install jupyterlab")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

CARD = ".jp-LauncherCard[title='shop (attached)']"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"no browser at {CHROMIUM}; name one: CHROMIUM=/path/to/chromium pytest")
    # As if it was in etc/jupyter of the environment.
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(support.CONFIGURATION))
    with (
        support.own_sockets(tmp_path / "sockets"),
        support.installed(tmp_path / "site"),
        jupyterlab(tmp_path / "lab", within=120) as lab,
    ):
        yield lab


@pytest.fixture
def page() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = chromium.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(180_000)
        try:
            yield page
        finally:
            chromium.close()


def listed(lab: Lab) -> set[str]:
    specs = lab.ask("api/kernelspecs")["kernelspecs"].values()
    return {one["spec"]["display_name"] for one in specs} - {"Python 3 (ipykernel)"}


def type_and_run(page: Any, code: str) -> None:
    page.keyboard.type(code)
    page.keyboard.press("Shift+Enter")


@pytest.mark.browser
def test_a_notebook_is_attached_from_the_launcher(lab: Lab, page: Any, tmp_path: Path) -> None:
    assert listed(lab) == set()
    with exposed(tmp_path) as shop:
        assert listed(lab) == {"shop (attached)"}
        page.goto(f"{lab.address}lab?token={lab.token}")
        page.locator(CARD).first.click()
        page.get_by_text("shop (attached) | Idle").wait_for()
        page.locator(".jp-Notebook .cm-content").first.click()
        page.keyboard.type("till.")
        page.keyboard.press("Tab")
        page.locator(".jp-Completer code", has_text="open_since").wait_for()
        page.keyboard.press("Escape")
        type_and_run(page, "total")
        page.locator(".jp-OutputArea-output", has_text="12.5").wait_for()
        type_and_run(page, "'pid', __import__('os').getpid()")
        page.get_by_text(f"('pid', {shop.pid})").wait_for()

        # Its end is said where the last output is, and the next cell says it, too.
        shop.kill()
        said = page.get_by_text(f"shop (process {shop.pid}) has ended")
        said.first.wait_for()
        type_and_run(page, "till")
        said.nth(1).wait_for()
    assert listed(lab) == set()

    with exposed(tmp_path) as another:
        page.evaluate("() => void jupyterapp.commands.execute('notebook:restart-kernel')")
        page.locator(".jp-Dialog").get_by_role("button", name="Confirm Kernel Restart").click()
        page.get_by_text("shop (attached) | Idle").wait_for()
        page.locator(".jp-Notebook .cm-content").last.click()
        type_and_run(page, "'another', __import__('os').getpid()")
        page.get_by_text(f"('another', {another.pid})").wait_for()

        # A kernel that is killed has detached, and Jupyter does not start it again by itself.
        (kernel,) = lab.ask("api/kernels")
        (process,) = (
            one
            for one in psutil.Process(lab.process.pid).children(recursive=True)
            if any(kernel["id"] in word for word in one.cmdline())
        )
        process.kill()
        wait_for(lambda: another.detached(1))
        wait_for(lambda: lab.ask("api/kernels") == [], what="the end of the kernel")
        assert another.process.poll() is None
    assert "restarting kernel" not in lab.log.read_text()

"""Take a picture of JupyterLab attached to a running application, with completion in it.

    python attach_jupyterlab.py attach-jupyterlab.png

An application runs in a process of its own: a shop whose threads sell. In JupyterLab's launcher
"shop (attached)" is clicked, two cells are run, and names of a live object are completed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Page, sync_playwright
from shoot import ARGUMENTS, shrink

from dask_flame.testing.lab import jupyterlab

#: In pixels as the page counts them, and how many of the picture's each of them is.
WIDTH, HEIGHT, SCALE = 1060, 560, 1.3
APPLICATION = '''
import itertools, threading, time
from collections import Counter
from dataclasses import dataclass, field
import dask_flame

@dataclass
class Checkout:
    """Takes what customers put into their baskets."""
    sold: Counter = field(default_factory=Counter)
    queue_length: int = 0
    slow_orders: list = field(default_factory=list)

    def sell(self, good: str, count: int = 1) -> None:
        """Book a sale."""
        self.sold[good] += count

    def cancel_order(self, number: int, *, refund: bool = True) -> None:
        """Cancel an order."""

checkout = Checkout()

def serve() -> None:
    for good in itertools.cycle(["tea", "milk", "tea", "sugar", "tea", "lemon"]):
        checkout.sell(good)
        time.sleep(0.01)

threading.Thread(target=serve, name="checkout-1", daemon=True).start()
dask_flame.expose("shop")
print("ready", flush=True)
input()
'''
CELLS = (
    "# inside the process of the shop, while it sells\ncheckout.sold.most_common(3)",
    "import os, threading\nos.getpid(), [thread.name for thread in threading.enumerate()][:2]",
)
TYPED = "checkout."


def main(output: str) -> None:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        sys.exit(
            "no chromium on the path; name it: CHROMIUM=/usr/bin/chromium python "
            "attach_jupyterlab.py …"
        )
    with (
        TemporaryDirectory() as folder,
        _application(Path(folder)),
        jupyterlab(Path(folder) / "lab") as lab,
        sync_playwright() as driver,
    ):
        chromium = driver.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        page = chromium.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE
        )
        page.set_default_timeout(120_000)
        page.goto(f"{lab.address}lab?token={lab.token}")
        _take(page, output)
        chromium.close()
    shrink(output)


@contextmanager
def _application(folder: Path) -> Iterator[None]:
    program = folder / "shop.py"
    program.write_text(APPLICATION)
    with subprocess.Popen(
        [sys.executable, str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            process.kill()


def _take(page: Page, output: str) -> None:
    page.locator(".jp-LauncherCard[title='shop (attached)']").first.click()
    page.get_by_text("shop (attached) | Idle").wait_for()
    page.evaluate("() => void jupyterapp.commands.execute('application:toggle-left-area')")
    page.locator(".jp-Notebook .cm-content").first.click()
    for number, cell in enumerate(CELLS, 1):
        page.keyboard.insert_text(cell)
        page.keyboard.press("Shift+Enter")
        page.locator(".jp-OutputPrompt", has_text=f"[{number}]:").wait_for()
    page.keyboard.type(TYPED)
    page.keyboard.press("Tab")
    page.locator(".jp-Completer code", has_text="slow_orders").wait_for()
    page.wait_for_timeout(700)
    page.screenshot(path=output)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Take a picture of a page, when it shows what it should.

    python shoot.py URL OUTPUT [--width 1400] [--height 900] [--wait JAVASCRIPT] …

``--wait`` is an expression that is true in the page when it is ready. By default the picture is
taken when the page /flame has drawn at least one curve.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence

from PIL import Image
from playwright.sync_api import sync_playwright

CURVES = "() => window.daskFlame?.calls.byId.size > 0"
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def shoot(
    url: str,
    output: str,
    *,
    width: int = 1400,
    height: int = 900,
    wait: str = CURVES,
    click: Sequence[str] = (),
    timeout: float = 60,
    browser: str | None = None,
) -> None:
    """Open `url`, wait until the expression `wait` is true there, and save a picture.

    Parameters
    ----------
    url : str
    output : str
        A file whose name ends in .png.
    width, height : int
        Of the window, in pixels.
    wait : str
        A JavaScript expression or function without arguments.
    click : sequence of str
        What is clicked at then, as CSS selectors, before the picture is taken.
    timeout : float
        Most seconds to wait.
    browser : str, optional
        Chromium's executable; by default $CHROMIUM, or the one on the path.
    """
    path = browser or os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        sys.exit("no chromium on the path; name it: CHROMIUM=/usr/bin/chromium python shoot.py …")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            page = chromium.new_page(viewport={"width": width, "height": height})
            page.goto(url, timeout=timeout * 1000)
            page.wait_for_function(wait, timeout=timeout * 1000)
            for selector in click:
                page.click(selector)
            # What the page has just received is drawn in the next frames.
            page.wait_for_timeout(800)
            page.screenshot(path=output)
        finally:
            chromium.close()
    shrink(output)


def shrink(picture: str) -> None:
    """Save a picture anew with 256 colours: a third of the bytes, and no colour one would miss."""
    with Image.open(picture) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("output")
    parser.add_argument("--width", type=int, default=1400)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--wait", default=CURVES, metavar="JAVASCRIPT")
    parser.add_argument("--click", action="append", default=[], metavar="SELECTOR")
    parser.add_argument("--timeout", type=float, default=60, metavar="SECONDS")
    options = parser.parse_args()
    shoot(**vars(options))


if __name__ == "__main__":
    main()

"""Record the page of the curves during a real run, as the moving picture of the README.

    python moving.py FOLDER [PHOTOGRAPHS]

24 variants of the network of ``pages.py`` are trained on 24 runners; some of them diverge. The page
is photographed from the first curve until the last runner has gone, and ``flame-moving.gif`` shows
this in about ten seconds. It begins with the finished page for a moment, because some viewers show
nothing but the first frame. PHOTOGRAPHS is a folder that gets the photographs; if it has some, the
picture is made of those, without a run.
"""

from __future__ import annotations

import base64
import io
import itertools
import os
import sys
from pathlib import Path

from dask.distributed import Client, Future
from pages import train
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from shoot import ARGUMENTS

from dask_flame import FlameCluster

VARIANTS = list(itertools.product([0.003, 0.02, 0.1, 0.8], [16, 64, 192], [0.0, 0.9]))
WIDTH, HEIGHT = 1120, 660
DRAWN = "() => [...(window.daskFlame?.calls.byId.values() ?? [])].some((call) => call.step > 0)"
#: Frames of the run, and for how long each is shown, in milliseconds.
FRAMES, SHOWN = 50, 150
#: How long the finished page is shown at the beginning and at the end, in milliseconds.
FIRST, LAST = 700, 2_000
COLORS = 128


def record(page: Page, cluster: FlameCluster, futures: list[Future]) -> list[bytes]:
    """Photograph the page until all calls have ended, and for as long as a runner is there."""
    chromium = page.context.new_cdp_session(page)
    # A screenshot of Playwright takes longer, as the cores are busy with the run.
    how = {"format": "png", "optimizeForSpeed": True}

    def photograph() -> bytes:
        return base64.b64decode(chromium.send("Page.captureScreenshot", how)["data"])

    found = []
    while cluster.runners or any(future.status == "pending" for future in futures):
        found.append(photograph())
        page.wait_for_timeout(50)
    page.wait_for_timeout(1_500)
    return [*found, photograph()]


def chosen(photographs: list[bytes]) -> list[Image.Image]:
    """Return as many photographs as are shown, at equal distances among those that differ."""
    different = [picture for picture, _ in itertools.groupby(photographs)]
    last = len(different) - 1
    places = sorted({round(last * i / (FRAMES - 1)) for i in range(FRAMES)})
    return [Image.open(io.BytesIO(different[place])).convert("RGB") for place in places]


def save(frames: list[Image.Image], path: Path) -> None:
    """Save a moving picture whose frames share one palette, so that equal places stay equal."""
    several = [frames[len(frames) * i // 4] for i in range(1, 4)]
    together = Image.new("RGB", (WIDTH, HEIGHT * len(several)))
    for i, frame in enumerate(several):
        together.paste(frame, (0, HEIGHT * i))
    palette = together.quantize(COLORS, dither=Image.Dither.NONE)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [FIRST, *[SHOWN] * (len(small) - 1), LAST]
    small[-1].save(path, save_all=True, append_images=small, duration=durations, loop=0)


def run() -> list[bytes]:
    browser = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    with (
        FlameCluster(
            max=len(VARIANTS),
            idle_timeout="3s",
            preload=["numpy", "sklearn.datasets"],
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
        sync_playwright() as playwright,
    ):
        chromium = playwright.chromium.launch(executable_path=browser, args=list(ARGUMENTS))
        page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(300_000)
        page.goto(cluster.flame_link + "?metric=loss&log=1")
        page.wait_for_function("() => window.daskFlame !== undefined")
        futures = client.map(train, *zip(*VARIANTS, strict=True))
        page.wait_for_function(DRAWN)
        found = record(page, cluster, futures)
        chromium.close()
    return found


def main(folder: str, photographs: str = "") -> None:
    kept = [path.read_bytes() for path in sorted(Path(photographs).glob("*.png"))]
    found = kept if photographs and kept else run()
    if photographs and not kept:
        for i, picture in enumerate(found):
            Path(photographs, f"{i:04}.png").write_bytes(picture)
    save(chosen(found), Path(folder, "flame-moving.gif"))


if __name__ == "__main__":
    main(*sys.argv[1:])

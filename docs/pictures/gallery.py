"""Take the pictures of docs/gallery.md from real runs of the examples.

python gallery.py FOLDER bert
python gallery.py FOLDER sweep
python gallery.py FOLDER transcode FILM...
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Error, sync_playwright
from shoot import ARGUMENTS, shoot, shrink

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
#: Eight small variants, of which some are stopped; the page stays for the picture.
SMALL = (
    "--variants 8 --runners 2 --samples 200 --steps 24 --eval-every 4 --max-length 24 "
    "--depths 1,2 --early-stop --linger 600"
)
#: The share of the calls that have ended is at least this.
ENDED = """() => {{
  const calls = window.daskFlame?.calls.latest() ?? [];
  const ended = calls.filter(({{ state }}) => !["running", "waiting"].includes(state));
  return calls.length > 5 && ended.length >= {share} * calls.length;
}}"""


@contextmanager
def example(name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    started = time.monotonic()
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            print(f"{time.monotonic() - started:.0f} s", flush=True)
            process.terminate()
            print(process.communicate()[0])


def link_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://\S+/flame\S*", line):
            return found[0]
    raise SystemExit("the example has printed no link")


def bert(picture: str) -> None:
    with TemporaryDirectory() as out, example("bert_tuning.py", *SMALL.split(), "--out", out) as it:
        shoot(link_of(it), picture, wait=ENDED.format(share=1), timeout=1_800, width=1900)


def sweep(picture: str) -> None:
    with example("sweep.py") as it:
        shoot(link_of(it), picture, wait=ENDED.format(share=0.5), timeout=1_800)


def transcode(picture: str, films: Sequence[str]) -> None:
    """Upload the films, and take a picture when all but the last one have their thumbnails."""
    path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    done = f"() => document.querySelectorAll('.strip').length >= {len(films) - 1}"
    with example("transcode.py", "--port", "8137"), sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        page = chromium.new_page(viewport={"width": 1180, "height": 760})
        while True:
            try:
                page.goto("http://127.0.0.1:8137/")
                break
            except Error:
                time.sleep(0.2)
        page.set_input_files("input", films)
        page.wait_for_function(done, timeout=300_000)
        page.wait_for_timeout(4_000)
        page.screenshot(path=picture)
        chromium.close()
    shrink(picture)


def main(folder: str, which: str, *films: str) -> None:
    picture = str(Path(folder, f"gallery-{which}.png"))
    if which == "transcode":
        transcode(picture, films)
    else:
        {"bert": bert, "sweep": sweep}[which](picture)


if __name__ == "__main__":
    main(*sys.argv[1:])

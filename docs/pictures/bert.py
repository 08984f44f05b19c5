"""Take a picture of the page of the curves from a real run of ``examples/bert_tuning.py``.

    python bert.py FOLDER [OPTIONS of bert_tuning.py]

Twelve small variants are trained on two runners. ``flame-bert.png`` is taken when half of them have
ended.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from shoot import shoot

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/bert_tuning.py"
SMALL = "--variants 12 --runners 2 --samples 400 --steps 80 --eval-every 4 --max-length 48"
#: Whether half of the calls have ended, while others run.
HALF = """() => {
  const calls = window.daskFlame?.calls.latest() ?? [];
  const done = calls.filter(({ state }) => state === "done");
  return calls.length > 5 && 2 * done.length >= calls.length;
}"""


def main(folder: str, *options: str) -> None:
    with TemporaryDirectory() as out:
        command = [sys.executable, str(EXAMPLE), *SMALL.split(), "--out", out, *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as example:
            assert example.stdout is not None
            for line in example.stdout:
                print(line, end="", flush=True)
                if found := re.search(r"Live curves.*: (\S+)", line):
                    query = "?metric=accuracy&metric=loss"
                    picture = str(Path(folder, "flame-bert.png"))
                    shoot(found[1] + query, picture, wait=HALF, timeout=1_800)


if __name__ == "__main__":
    main(*sys.argv[1:])

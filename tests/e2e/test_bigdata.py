"""The benchmark of large results, short, over real processes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

# Run from where it lies, as a script.
from tests.support.paths import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import bigdata

pytestmark = pytest.mark.process

SCRIPT = Path(bigdata.__file__)


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_measures_both_in_turn() -> None:
    row = "after its runner"
    said = run("--sizes", "1MB", "--rows", row, "--rounds", "1", "--repeats", "1", "--no-touch")
    cells = said.splitlines()[-1].strip("| ").split(" | ")
    assert cells[0] == f"{row}, 0.95 MiB"
    numbers = [float(n) for n in re.findall(r"[\d.]+", " ".join(cells[1:]))]
    assert len(numbers) == 9
    assert min(numbers) >= 0
    assert min(numbers[:2]) > 0


def test_the_ratio_is_that_of_the_medians() -> None:
    found = {
        "flame": [(1.0, 2.0, 2**20), (9.0, 4.0, 2**21), (2.0, 3.0, 2**22)],
        "dask": [(4.0, 6.0, 2**23)] * 3,
    }
    seconds, memory = ["2.0000", "4.0000", "1.0000, 4.0000", "3.00, 6.00"], "2.00 MiB, 8.00 MiB"
    cells = ["result, 0.95 MiB", *seconds, memory, "0.50"]
    assert bigdata.line("result", 10**6, found) == f"| {' | '.join(cells)} |"


def test_it_says_what_it_does() -> None:
    assert "--sizes" in run("--help")

"""The benchmark of Slurm, short, on real daemons."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tests.support.slurm_world import why_impossible

pytestmark = pytest.mark.process


def test_it_measures_and_finds_what_is_left() -> None:
    if why := why_impossible():
        pytest.skip(f"no Slurm: {why}")
    short = ["--calls", "2", "--seconds", "1", "--turns", "1", "--left-after", "60"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "slurm.py"), *short],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cells = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", done.stdout, re.MULTILINE))
    assert float(cells["2 calls of 1 s from zero, s"]) > 1
    # The first may have done both before the second had booted.
    assert cells["runners that took calls"] in {"1", "2"}
    assert cells["jobs left 60 s after kill -9"] == "0"

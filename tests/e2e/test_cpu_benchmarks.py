"""The benchmarks of CPU time, short."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.process


def _printed(name: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / name), *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_steps_of_a_call_take_time() -> None:
    said = _printed("steps.py", "--rounds", "2", "--calls", "20")
    figures = dict(re.findall(r"^(\w+): ([\d.]+) us$", said, re.MULTILINE))
    assert figures.keys() == {"steps", "write", "read"}
    assert all(float(figure) > 0 for figure in figures.values())


def test_two_versions_are_compared_in_turns() -> None:
    words = ["--rounds", "2", "--calls", "20", "--only", "map", "--base", str(ROOT)]
    said = _printed("cpu.py", *words)
    rows = re.findall(r"^\| map \| (\w+) \| ([\d.]+) .*\| ([\d.]+) \|", said, re.MULTILINE)
    assert [who for who, *_ in rows] == ["driver", "runners", "both"]
    assert all(float(figure) > 0 for _, *figures in rows for figure in figures)


def test_an_import_that_is_left_out_saves_modules() -> None:
    said = _printed("imports.py", "--rounds", "1", "--only", "numpy,all of these")
    rows = re.findall(r"^\| ([\w ]+) \| (\d+) \| \d+ \| [\d.]+ \| (\d+) \|$", said, re.MULTILINE)
    modules = {name: int(count) for name, _, count in rows}
    assert modules["all of these"] < modules["numpy"] < modules["nothing"]
    assert all(int(milliseconds) > 0 for _, milliseconds, _ in rows)

"""The benchmark of pods, short, on the fake Kubernetes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytest.importorskip("aiohttp")
pytest.importorskip("kr8s")

pytestmark = pytest.mark.process

SCRIPT = ROOT / "benchmarks" / "kubernetes.py"


def test_it_measures_and_says_what_it_does_not(tmp_path: Path) -> None:
    short = ["--calls", "2", "--seconds", "0.5", "--wave", "3", "--left-after", "0"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--fake", *short, "--json", str(tmp_path / "found")],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no real cluster's" in done.stdout
    assert "KubeCluster is not measured" in done.stdout
    cells = dict(re.findall(r"^\| ([^|]+) \| [^|]* \| ([\d.]+) \|$", done.stdout, re.MULTILINE))
    assert float(cells["2 calls of 0.5 s from zero"]) > 0.5
    assert float(cells["from call to 2 registered"]) > 0
    assert float(cells["pods made, in a wave of 3"]) > 0
    steps = [float(cells[f"boot: {s}, median"]) for s in ("accepted", "started", "registered")]
    assert steps == sorted(steps)
    found = json.loads((tmp_path / "found").read_text())["flame"]
    # The watchdog's Job and pod, a Secret, two runners.
    assert found["there"] >= 5


def test_a_real_cluster_needs_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DASK_FLAME_TEST_IMAGE", raising=False)
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2
    assert "--image" in done.stderr

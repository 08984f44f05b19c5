"""The benchmark of runners over SSH, in its short form."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tests.support.ssh_hosts import missing

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.mark.skipif(bool(missing()), reason=missing() or "it is there")
def test_the_benchmark_over_ssh_runs() -> None:
    pytest.importorskip("asyncssh")
    words = ["--calls", "2", "--seconds", "0.1", "--rounds", "1", "--wait", "60", "--only", "flame"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "ssh.py"), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = {line[:20].strip(): line[20:].split() for line in done.stdout.splitlines()}
    assert float(rows["results again"][0]) > 0.1
    assert rows["left"] == ["0.00"]

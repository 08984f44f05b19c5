"""The example with BERT, whose variants are trained on three hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends.ssh.hosts.calls import shares
from tests.support.paths import ROOT
from tests.support.ssh_hosts import NAMES, SshHosts
from tests.support.waiting import wait_for

# Three imports of torch, on as many cores as this machine has.
pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_the_example_trains_on_three_hosts(hosts: SshHosts, tmp_path: Path) -> None:
    places = shares(*NAMES, cpus=1)
    small = "--variants 3 --runners 3 --cpus 1 --samples 60 --steps 2 --eval-every 2 --depths 1"
    path = os.pathsep.join(p for p in (str(ROOT), *sys.path) if p)
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "examples" / "bert_tuning.py"), *small.split()),
            *("--backend", "ssh", "--out", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "DASK_FLAME__SSH__HOSTS": str(places)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [len(result["accuracies"]) for result in results.values()] == [1, 1, 1]
    wait_for(lambda: not hosts.left())

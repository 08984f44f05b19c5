"""A script without a guard makes no second cluster in the processes that its calls spawn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

SCRIPT = """
import multiprocessing

from dask.distributed import Client
from dask_flame import FlameCluster

print("begin", __name__, flush=True)


def square(x):
    print("square", x * x, flush=True)


def spawn(x):
    child = multiprocessing.get_context("spawn").Process(target=square, args=(x,))
    child.start()
    child.join()
    return child.exitcode


if GUARD:
    with FlameCluster(max=1, dashboard_address=None) as cluster, Client(cluster) as client:
        print("exit code", client.submit(spawn, 3).result(timeout=60))
"""


@pytest.mark.parametrize("guard", ['__name__ == "__main__"', "True"])
def test_a_script_whose_calls_spawn(guard: str, tmp_path: Path) -> None:
    guarded = guard != "True"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("GUARD", guard))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    out = done.stdout + done.stderr
    assert out.count("begin __m") == 2, out
    assert ("square 9" in out, "exit code 0" in out) == (guarded, guarded)
    refused = "Put the lines that make the cluster and use it under if __name__ =="
    assert (refused in out) == (not guarded), out

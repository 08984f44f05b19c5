"""Whatever ends a runner's main thread, and however many threads end it, nothing of it is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from dask_flame.core.processes import MARK
from dask_flame.testing import marked_processes
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the environment of processes"),
]

_CHILD = "[sys.executable, '-c', 'import time; time.sleep(600)']"


def runner(code: str, folder: Path, **streams: Any) -> subprocess.Popen[bytes]:
    """Start a runner that executes this code in place of a worker's."""
    script = "import os, subprocess, sys, threading\nfrom pathlib import Path\n"
    script += "from dask_flame.runner import __main__ as life, start\n"
    script += code
    script += "\nstart.run = run\nlife.live(0, {os.getppid()})"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, MARK: f"{folder.name}/1/runner-1", "PYTHONPATH": path},
        **streams,
    )
    launch_config = {
        "path": [],
        "cwd": "",
        "directory": str(folder / "supervisor" / "runner-1"),
        "shutdown_timeout": 5.0,
    }
    assert process.stdin is not None
    process.stdin.write(json.dumps(launch_config).encode() + b"\n")
    process.stdin.flush()
    return process


def left(folder: Path) -> list[psutil.Process]:
    return marked_processes(f"{folder.name}/1/runner-1", variable=MARK)


def test_an_error_that_cannot_be_printed_ends_it_with_its_processes(tmp_path: Path) -> None:
    """The reader of its output has died: its driver and its supervisor were killed."""
    read, write = os.pipe()
    code = f"""
def run(*_):
    subprocess.Popen({_CHILD})
    Path({str(tmp_path / "started")!r}).touch()
    raise ValueError("the scheduler is gone")
"""
    os.close(read)
    process = runner(code, tmp_path, stdout=write, stderr=write)
    os.close(write)
    try:
        assert process.wait(60) == 1
        assert (tmp_path / "started").exists()
        wait_for(lambda: not left(tmp_path), what="its processes have ended")
    finally:
        end(process, tmp_path)


def test_two_threads_that_end_it_do_not_stop_each_other(tmp_path: Path) -> None:
    """The leash breaks while the worker ends because the scheduler is gone."""
    # The process that cleans up is forked by the leash's thread. Meanwhile the main thread ends
    # too, and what another runner of the same supervisor has left is still there.
    code = f"""
forked, fork = threading.Event(), os.fork

def slow():
    pid = fork()
    if pid:
        forked.set()
        threading.Event().wait(3)  # until the other thread has had its chance
    else:
        Path({str(tmp_path / "forked")!r}).touch()
        threading.Event().wait(1)
    return pid

def run(*_):
    Path({str(tmp_path / "started")!r}).touch()
    forked.wait()
    return 0

os.fork = slow
"""
    process = runner(code, tmp_path)
    other = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        start_new_session=True,
        env={**os.environ, MARK: f"{tmp_path.name}/1/runner-2"},
    )
    try:
        wait_for((tmp_path / "started").exists)
        assert process.stdin is not None
        process.stdin.close()
        wait_for((tmp_path / "forked").exists)
        assert other.wait(60) == -9
        process.wait(60)
        wait_for(lambda: not left(tmp_path), what="its processes have ended")
    finally:
        end(process, tmp_path)
        other.kill()
        other.wait()


def end(process: subprocess.Popen[bytes], folder: Path) -> None:
    for one in left(folder):
        one.kill()
    if process.stdin is not None:
        process.stdin.close()
    process.kill()
    process.wait()

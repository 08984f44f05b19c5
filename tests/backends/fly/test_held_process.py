"""A program that a driver runs beside it ends with the driver, whatever ends the driver."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

#: Keeps running when it is asked to end.
_STUBBORN = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('up', flush=True)\ntime.sleep(600)"
)
_PARENT = """
import subprocess, sys, time
held = [sys.executable, "-m", "dask_flame.backends.fly.held_process", sys.executable, "-c"]
process = subprocess.Popen([*held, sys.argv[1]], stdin=subprocess.PIPE)
time.sleep(600)
"""


@pytest.mark.parametrize("stubborn", [False, True])
def test_the_program_ends_when_its_parent_is_killed(stubborn: bool) -> None:
    code = _STUBBORN if stubborn else "import time\nprint('up', flush=True)\ntime.sleep(600)"
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, code], stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        started = psutil.Process(parent.pid).children(recursive=True)
        assert len(started) == 2
    finally:
        parent.kill()
        parent.communicate()
    wait_for(lambda: not any(process.is_running() for process in started))


@pytest.mark.parametrize(
    ("program", "code"), [([sys.executable, "-c", "exit(3)"], 3), (["/no/such/program"], 127)]
)
def test_its_exit_code_is_that_of_the_program(program: list[str], code: int) -> None:
    held = [sys.executable, "-m", "dask_flame.backends.fly.held_process", *program]
    process = subprocess.Popen(held, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.wait(60) == code
    process.communicate()

"""The fixture that fails a test which leaves something behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dask_flame.testing import nothing_left
from dask_flame.testing.leaks import _abandoned_shared_memory

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is Linux's"),
]

_HOLDS_A_SEMAPHORE = """
import multiprocessing, multiprocessing.resource_tracker, os, signal
lock = multiprocessing.get_context("spawn").Lock()
print("sem." + lock._semlock.name.lstrip("/"), flush=True)
"""
# Its tracker is killed as well, so that nobody is left to remove the semaphore.
_AND_DIES = """
os.kill(multiprocessing.resource_tracker._resource_tracker._pid, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_semaphore_without_a_process_is_named() -> None:
    program = [sys.executable, "-c", _HOLDS_A_SEMAPHORE + _AND_DIES]
    with pytest.raises(AssertionError, match=r"shared memory /dev/shm/sem\.mp-"), nothing_left(0.1):
        left = subprocess.run(program, stdout=subprocess.PIPE, text=True)
    Path("/dev/shm", left.stdout.strip()).unlink()


def test_a_semaphore_that_a_process_holds_is_left_alone() -> None:
    program = [sys.executable, "-c", _HOLDS_A_SEMAPHORE + "input()"]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        semaphore = Path("/dev/shm", holder.stdout.readline().strip())
        assert semaphore.exists()
        assert str(semaphore) not in _abandoned_shared_memory()
        holder.communicate("\n")


def test_processes_of_a_program_that_owns_them_are_left_alone() -> None:
    with subprocess.Popen(
        ["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None

        def start() -> None:
            shell.stdin.write("sleep 60 & echo $!\n")  # type: ignore[union-attr]
            shell.stdin.flush()  # type: ignore[union-attr]
            shell.stdout.readline()  # type: ignore[union-attr]

        with nothing_left(0.1, owners=("bash",)):
            start()
        with pytest.raises(AssertionError, match="sleep 60"), nothing_left(0.1):
            start()
        shell.communicate("kill %1 %2\n")

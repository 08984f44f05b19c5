"""The fixture that fails a test which leaves something behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dask_flame.testing import leaks, marked_processes, nothing_left
from dask_flame.testing.leaks import _abandoned_shared_memory
from tests.support.waiting import wait_for

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
        assert str(semaphore) not in map(str, _abandoned_shared_memory())
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


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


@contextlib.contextmanager
def semaphore_held() -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A semaphore that a process holds, whose tracker is killed already; it is removed after."""
    first, told = _HOLDS_A_SEMAPHORE.strip().rsplit("\n", 1)
    kill_tracker = _AND_DIES.strip().splitlines()[0]
    # In this order: a tracker that lives would remove the semaphore.
    program = [sys.executable, "-c", "\n".join([first, kill_tracker, told, "input()"])]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        path = Path("/dev/shm", holder.stdout.readline().strip())
        try:
            yield path, holder
        finally:
            holder.kill()
            path.unlink(missing_ok=True)


def test_a_semaphore_of_another_is_named_when_its_process_dies_in_the_body() -> None:
    with semaphore_held() as (path, holder):
        with nothing_left(0.1):
            assert path.exists()
        with pytest.raises(AssertionError, match=str(path)), nothing_left(0.1):
            end(holder)


def test_what_was_left_before_is_blamed_on_no_later_body_and_hides_nothing() -> None:
    with semaphore_held() as (old, holder):
        end(holder)
        for _ in range(2):
            with nothing_left(0.1):
                assert old.exists()
        with semaphore_held() as (new, second):
            with pytest.raises(AssertionError) as caught, nothing_left(0.1):
                end(second)
            assert str(new) in str(caught.value)
            assert str(old) not in str(caught.value)


def test_memory_that_a_process_holds_is_looked_for_there_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with semaphore_held() as (path, holder):
        assert str(path) not in map(str, _abandoned_shared_memory())
        read: list[str] = []

        def recorded(process: str) -> set[tuple[int, int]]:
            read.append(process)
            return mapped(process)

        mapped = leaks._mapped
        monkeypatch.setattr(leaks, "_mapped", recorded)
        of = path.stat()
        monkeypatch.setattr(leaks, "_PATTERNS", (path.name,))
        assert _abandoned_shared_memory() == set()
        assert read == [str(holder.pid)]
        end(holder)
        assert _abandoned_shared_memory() == {leaks._Shared(str(path), of.st_dev, of.st_ino)}
        known = _abandoned_shared_memory()
        read.clear()
        assert _abandoned_shared_memory(known) == known
        assert not read


def test_a_process_is_found_by_the_beginning_of_its_mark_wherever_it_went(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    # Its parent has ended, and it has a session of its own.
    script = f"setsid sleep 60 >/dev/null 2>&1 & echo $! > {tmp_path / 'pid'}"
    environment = os.environ | {"A_MARK": f"{mark}-1", "ANOTHER": f"A_MARK={mark}-2"}
    subprocess.run(["bash", "-c", script], env=environment, check=True)
    (found,) = marked_processes(f"{mark}-", variable="A_MARK")
    try:
        assert marked_processes(f"{mark}-2", variable="A_MARK") == []
        assert marked_processes("A_MARK", variable="ANOTHER") == [found]
        assert marked_processes(mark, variable="MARK") == []
    finally:
        found.kill()
    wait_for(lambda: not marked_processes(mark, variable="A_MARK"))


def test_a_leak_is_blamed_on_the_body_that_left_it() -> None:
    left: list[subprocess.Popen[bytes]] = []
    with pytest.raises(AssertionError, match="sleep 61"), nothing_left(0.1):
        left.append(subprocess.Popen(["sleep", "61"]))
    with nothing_left(0.1):
        pass
    with pytest.raises(AssertionError) as caught, nothing_left(0.1):
        left.append(subprocess.Popen(["sleep", "62"]))
    assert "sleep 62" in str(caught.value)
    assert "sleep 61" not in str(caught.value)
    for process in left:
        process.kill()
        process.wait()

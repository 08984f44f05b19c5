"""Processes that are looked at from outside: the tree, and a process that does not answer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dask_flame.attached.looking import outside
from dask_flame.attached.looking.outside import stacks_of
from dask_flame.attached.looking.processes import processes
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

#: Holds the interpreter in a loop of C, as `int ** int` does.
_HELD = "import sys; print('begun', flush=True); 7 ** (7 ** 99)"


@pytest.fixture
def held() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", _HELD, "--password", "hunter2-hunter2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_the_tree_has_the_command_without_its_secrets(held: subprocess.Popen[bytes]) -> None:
    found = processes("shop")
    child = next(each for each in found if each.pid == held.pid)
    assert (child.parent, child.depth) == (os.getpid(), 1)
    assert "--password" in child.command
    assert "hunter2" not in f"{found!r}{found._repr_html_()}"


def test_a_process_that_holds_its_interpreter_is_read_from_outside(
    held: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without py-spy only what the system knows; with one that answers, the lines."""
    monkeypatch.setattr(outside, "_program", lambda: None)
    found = stacks_of(held.pid, "runner-3", why="it does not answer")
    assert found.how == "system"
    assert "it does not answer" in found.note
    assert "pip install py-spy" in found.note
    busy = wait_for(
        lambda: [t for t in stacks_of(held.pid).threads if t.state.startswith("runs, ")]
    )
    assert "% of a processor" in busy[0].state
    program = tmp_path / "py-spy"
    program.write_text("#!/bin/sh\necho 'Error: Permission denied (os error 13)' >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(outside, "_program", lambda: str(program))
    assert "py-spy says: Error: Permission denied" in stacks_of(held.pid).note


def test_py_spy_reads_the_lines(held: subprocess.Popen[bytes]) -> None:
    if outside._program() is None:
        pytest.skip("py-spy is not installed")
    found = stacks_of(held.pid, "runner-3")
    if found.how != "py-spy":
        pytest.skip(f"py-spy may not look here: {found.note}")
    assert found.threads[0].lines[-1].function == "<module>"
    assert "holds the interpreter" in found.threads[0].state


def test_a_process_that_is_gone_is_an_error(held: subprocess.Popen[bytes]) -> None:
    held.kill()
    held.wait()
    wait_for(lambda: not psutil.pid_exists(held.pid))
    with pytest.raises(ProcessLookupError, match=f"no process {held.pid}"):
        stacks_of(held.pid)

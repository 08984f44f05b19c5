"""Look at a process that does not answer, from another one (all places).

A process whose interpreter is held by code in C, or that is suspended, cannot look at itself.
py-spy reads its memory, where it is installed and may. Otherwise there is only what the operating
system knows.
"""

from __future__ import annotations

import json
import linecache
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from dask_flame.attached.looking.stacks import source_text
from dask_flame.attached.looking.tables import shortened
from dask_flame.attached.looking.values import Line, Stacks, ThreadStack
from dask_flame.core.redaction import veiled

#: Seconds for py-spy.
_WITHIN = 10.0
#: Seconds over which the use of the processor is measured.
_MEASURED = 0.2
_STATES = {"R": "runs", "S": "waits", "D": "waits for a disk", "T": "suspended", "t": "traced"}


def stacks_of(pid: int, process: str = "", *, why: str = "") -> Stacks:
    """Return what a process of this machine executes, without its help.

    Parameters
    ----------
    pid : int
    process : str
        Its name, to show.
    why : str
        Why it is not asked itself.

    Returns
    -------
    Stacks
        With lines if py-spy could read them; its ``note`` says if not, and why.

    Raises
    ------
    ProcessLookupError
        There is no such process.
    """
    found, failure = _by_py_spy(pid)
    said = [why] if why else []
    if found is not None:
        return Stacks(process, pid, time.time(), found, how="py-spy", note="; ".join(said))
    said.append(f"its lines cannot be read: {failure}")
    return Stacks(process, pid, time.time(), _by_system(pid), how="system", note="; ".join(said))


def _program() -> str | None:
    """Return the path of py-spy, also if the environment of this Python is not on ``PATH``."""
    beside = Path(sysconfig.get_path("scripts")) / "py-spy"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("py-spy")


def _by_py_spy(pid: int) -> tuple[tuple[ThreadStack, ...] | None, str]:
    """Return the threads, or why py-spy cannot read them."""
    program = _program()
    if program is None:
        return None, "py-spy is not installed here; write pip install py-spy"
    command = [program, "dump", "--json", "--nonblocking", "--pid", str(pid)]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=_WITHIN, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"py-spy does not answer: {type(error).__name__}"
    if answer.returncode:
        words = answer.stderr.decode("utf-8", "replace").split()
        said = shortened(veiled(" ".join(words)), 300)
        may = "" if sys.platform != "linux" or os.geteuid() == 0 else _MAY
        return None, f"py-spy says: {said}{may}"
    try:
        threads = [_thread(each) for each in json.loads(answer.stdout)]
    except (ValueError, KeyError, TypeError) as error:
        return None, f"the answer of py-spy cannot be read: {type(error).__name__}"
    threads.sort(key=lambda t: (t.idle, t.name != "MainThread", t.name))
    return tuple(threads), ""


#: Without the right to trace, py-spy can read only processes that it has started.
_MAY = (
    " (kernel.yama.ptrace_scope=1, or a container without the capability SYS_PTRACE, forbids to "
    "look at processes; root may)"
)


def _thread(told: Mapping[str, Any]) -> ThreadStack:
    lines = tuple(
        Line(frame["filename"], int(frame["line"]), frame["name"], _source(frame))
        for frame in reversed(told["frames"])
    )
    holds = " and holds the interpreter" if told["owns_gil"] else ""
    return ThreadStack(
        name=told["thread_name"] or f"thread {told['thread_id']}",
        ident=int(told["thread_id"]),
        native=told["os_thread_id"],
        lines=lines,
        idle=not told["active"] and not told["owns_gil"],
        state=f"runs{holds}" if told["active"] or holds else "",
    )


def _source(frame: Mapping[str, Any]) -> str:
    text = linecache.getline(frame["filename"], int(frame["line"])).strip()
    return source_text(text)


def _by_system(pid: int) -> tuple[ThreadStack, ...]:
    """Return the threads as the operating system knows them."""
    try:
        process = psutil.Process(pid)
        before = {t.id: t.user_time + t.system_time for t in process.threads()}
        time.sleep(_MEASURED)
        after = {t.id: t.user_time + t.system_time for t in process.threads()}
    except psutil.NoSuchProcess:
        raise ProcessLookupError(f"there is no process {pid}") from None
    except psutil.AccessDenied:
        return ()
    found = []
    for id, used in after.items():
        share = max(0.0, used - before.get(id, used)) / _MEASURED
        name, state = _of_task(pid, id)
        shown = f"{state}, {100 * share:.0f} % of a processor"
        found.append(ThreadStack(name or f"thread {id}", id, id, (), state=shown))
    return tuple(found)


def _of_task(pid: int, id: int) -> tuple[str, str]:
    """Return the name of a thread, and whether it runs (Linux)."""
    try:
        text = Path(f"/proc/{pid}/task/{id}/stat").read_text(errors="replace")
    except OSError:
        return "", "?"
    name, _, rest = text.partition("(")[2].rpartition(")")
    return name, _STATES.get(rest.split()[0], "?")

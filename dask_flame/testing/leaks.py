"""Find leaks of a test: processes, threads, sockets, directories and shared memory (tests)."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from dask_flame.core.processes import MARK

#: Threads that live as long as the process: thread pools shared by distributed and tornado.
_SHARED = (
    "Dask-Offload",
    "Dask-Callback",
    "asyncio_",
    "TCP-Executor",
    "ThreadPoolExecutor",
    "Profile",
    "Shuffle",
)


@dataclass(frozen=True)
class Leaks:
    """Leaks found by :func:`nothing_left`, as lines of text; false if there are none."""

    lines: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.lines)

    def __str__(self) -> str:
        return "left behind:\n" + "\n".join(self.lines)


#: Set in the environment of a watched test, so that the processes that it starts can be found.
_WATCHED = "DASK_FLAME_WATCHED"


def marked_processes(value: str, *, variable: str = MARK) -> list[psutil.Process]:
    """Return the processes of this machine with a mark in their environment.

    By default, ``"<cluster>-"`` finds the processes of a cluster's runners. All processes that a
    runner starts inherit the mark, so processes with another parent are found as well.

    Parameters
    ----------
    value : str
        Prefix of the environment variable's value.
    variable : str, optional
        Name of the environment variable. By default the mark of runners.

    Returns
    -------
    list of psutil.Process
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mark = process.environ().get(variable)
            if mark and mark.startswith(value) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextlib.contextmanager
def nothing_left(within: float = 5.0, *, owners: Collection[str] = ()) -> Iterator[None]:
    """Fail if the body leaves something behind.

    It looks for processes, threads, listening sockets, scratch directories, and named semaphores or
    shared memory that no living process has open.

    Parameters
    ----------
    within : float, default 5.0
        Seconds to wait for things that are ending.
    owners : collection of str, optional
        Names of programs that own the processes that they start, such as a browser's.

    Raises
    ------
    AssertionError
        Something is left; the message lists it, with the stacks of threads.
    """
    token = uuid.uuid4().hex
    before = _state(owners=owners)
    outer = os.environ.get(_WATCHED)
    os.environ[_WATCHED] = token
    try:
        yield
    finally:
        if outer is None:
            del os.environ[_WATCHED]
        else:
            os.environ[_WATCHED] = outer
    deadline = time.monotonic() + within
    while leaks := _compare(before, _state(token, owners)):
        if time.monotonic() > deadline:
            raise AssertionError(str(leaks))
        time.sleep(0.05)


_State = dict[str, dict[object, str]]


def _state(token: str = "", owners: Collection[str] = ()) -> _State:
    me = psutil.Process()
    processes: dict[object, str] = {}
    # No process has a token before it is set.
    marked = marked_processes(token, variable=_WATCHED) if token else []
    for process in {*me.children(recursive=True), *marked}:
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and not _is_owned(process, owners):
                processes[(process.pid, process.create_time())] = " ".join(process.cmdline())
    stacks = sys._current_frames()
    threads: dict[object, str] = {
        thread.ident: thread.name + "\n" + "".join(traceback.format_stack(stacks[thread.ident]))
        for thread in threading.enumerate()
        if not thread.name.startswith(_SHARED) and thread.ident in stacks
    }
    listening: dict[object, str] = {
        connection.laddr: "listens"
        for connection in me.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    scratch: dict[object, str] = dict.fromkeys(
        Path(tempfile.gettempdir()).glob("dask-flame-*"), "folder"
    )
    return {
        "process": processes,
        "thread": threads,
        "socket": listening,
        "folder": scratch,
        "shared memory": dict.fromkeys(_abandoned_shared_memory(), "no process has it open"),
    }


def _is_owned(process: psutil.Process, owners: Collection[str]) -> bool:
    return bool(owners) and any(parent.name() in owners for parent in process.parents())


def _abandoned_shared_memory() -> set[str]:
    """Return the files of multiprocessing and loky in /dev/shm that no process has mapped.

    Tests run in parallel, and the name of a file does not identify its owner: a file in use is
    assumed to belong to another test.
    """
    there = {}
    for pattern in ("sem.mp-*", "sem.loky-*", "psm_*"):
        for path in Path("/dev/shm").glob(pattern):
            with contextlib.suppress(OSError):
                of = path.stat()
                there[of.st_dev, of.st_ino] = str(path)
    if there:
        for maps in Path("/proc").glob("[0-9]*/maps"):
            with contextlib.suppress(OSError):
                # Compare device and inode: a semaphore is created under another name, which its map
                # shows.
                for line in maps.read_text().splitlines():
                    if "/dev/shm/" in line:
                        _, _, _, device, inode, *_ = line.split()
                        major, minor = (int(part, 16) for part in device.split(":"))
                        there.pop((os.makedev(major, minor), int(inode)), None)
    return {path for path in there.values() if os.path.exists(path)}


def _compare(before: _State, now: _State) -> Leaks:
    return Leaks(
        tuple(
            f"{kind} {key}: {text}"
            for kind, things in now.items()
            for key, text in things.items()
            if key not in before[kind] and key != os.getpid()
        )
    )

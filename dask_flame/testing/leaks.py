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
    for process in _perhaps_marked(f"{variable}={value}".encode()):
        with contextlib.suppress(psutil.Error):
            mark = process.environ().get(variable)
            if mark and mark.startswith(value) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _perhaps_marked(text: bytes) -> Iterator[psutil.Process]:
    """Yield the processes whose environment may contain this text; on Linux no others."""
    if sys.platform != "linux":
        yield from psutil.process_iter()
        return
    # Tests look often, and psutil's objects take longer than to read the environments.
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError, psutil.Error):
                if text in _read(f"/proc/{name}/environ"):
                    yield psutil.Process(int(name))


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


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
    _long_abandoned.update(before["shared memory"])
    known = before["shared memory"].keys()
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
    while leaks := _compare(before, _state(token, owners, known)):
        if time.monotonic() > deadline:
            raise AssertionError(str(leaks))
        time.sleep(0.05)


_State = dict[str, dict[object, str]]


@dataclass(frozen=True)
class _Shared:
    """A file in /dev/shm."""

    path: str
    device: int
    inode: int

    def __str__(self) -> str:
        return self.path


def _state(
    token: str = "", owners: Collection[str] = (), known: Collection[object] | None = None
) -> _State:
    """Describe what there is; shared memory that is `known` as abandoned may be left out."""
    abandoned = _abandoned_shared_memory(_long_abandoned if known is None else known)
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
        "shared memory": dict.fromkeys(abandoned, "no process has it open"),
    }


def _is_owned(process: psutil.Process, owners: Collection[str]) -> bool:
    return bool(owners) and any(parent.name() in owners for parent in process.parents())


#: Files that multiprocessing and loky make in /dev/shm.
_PATTERNS = ("sem.mp-*", "sem.loky-*", "psm_*")
#: Abandoned files of /dev/shm that were there before a body, as their names, devices and inodes.
_long_abandoned: set[object] = set()
#: A process that had a file of /dev/shm mapped when it was last looked for.
_holders: dict[tuple[int, int], str] = {}


def _abandoned_shared_memory(known: Collection[object] = ()) -> set[_Shared]:
    """Return the files of multiprocessing and loky in /dev/shm that no process has mapped.

    Tests run in parallel, and the name of a file does not identify its owner: a file in use is
    assumed to belong to another test.

    Parameters
    ----------
    known : collection, optional
        Abandoned files, which are returned without a look at the processes, if they are there.
    """
    there: dict[tuple[int, int], _Shared] = {}
    for pattern in _PATTERNS:
        for path in Path("/dev/shm").glob(pattern):
            with contextlib.suppress(OSError):
                of = path.stat()
                there[of.st_dev, of.st_ino] = _Shared(str(path), of.st_dev, of.st_ino)
    abandoned = {file for file in there.values() if file in known}
    looked_for = {key for key, file in there.items() if file not in abandoned}
    # To read the maps of all processes takes longer than most tests: first those that had one.
    likely = dict.fromkeys(_holders[key] for key in looked_for if key in _holders)
    for processes in (likely, (n for n in os.listdir("/proc") if n.isdecimal())):
        for process in processes:
            if not looked_for:
                break
            with contextlib.suppress(OSError):
                for key in looked_for & _mapped(process):
                    _holders[key] = process
                    looked_for.discard(key)
    abandoned |= {there[key] for key in looked_for}
    return {file for file in abandoned if os.path.exists(file.path)}


def _mapped(process: str) -> set[tuple[int, int]]:
    """Return the devices and inodes of the files in /dev/shm that a process has mapped."""
    found = set()
    maps = _read(f"/proc/{process}/maps")
    # Compare device and inode: a semaphore is created under another name, which its map shows.
    for line in maps.splitlines() if b"/dev/shm/" in maps else ():
        if b"/dev/shm/" in line:
            _, _, _, device, inode, *_ = line.split()
            major, minor = (int(part, 16) for part in device.split(b":"))
            found.add((os.makedev(major, minor), int(inode)))
    return found


def _compare(before: _State, now: _State) -> Leaks:
    return Leaks(
        tuple(
            f"{kind} {key}: {text}"
            for kind, things in now.items()
            for key, text in things.items()
            if key not in before[kind] and key != os.getpid()
        )
    )

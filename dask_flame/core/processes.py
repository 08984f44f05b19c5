"""The mark that a runner's processes carry, and the ways to find and end them (driver, runner).

A runner's processes are found in three ways, because each misses some: its process group, the tree
below it, and, for those that left both, an environment variable that they have inherited.

What another process sees of that variable is what this one was started with. A process that is
forked from a template has been started with the template's, whose mark is a row of dots: it writes
its own over them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

#: The environment variable: ``<cluster>-<random>/<guard>/<runner>``, filled up with dots perhaps.
#: The guards of a cluster are numbered: what a dead one has left is none of the next one's.
MARK = "DASK_FLAME_RUNNER"
#: Under this name is shown what modules print while they are imported once for many runners.
PRELOAD = "preload"
_DOT = "."
#: What the mark of a template is: longer than any runner's.
NO_MARK = _DOT * 250


def below(pid: int) -> list[int]:
    """Processes that descend from this one."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


def everywhere() -> list[int]:
    """All processes of this machine."""
    import psutil

    return list(psutil.pids())


def within_reach() -> list[int]:
    """Where orphans of what this process started can be: below it, if it is their subreaper."""
    return below(os.getpid()) if sys.platform == "linux" else everywhere()


def kill(pids: Iterable[int]) -> None:
    """Kill these processes, as far as they are there."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def kill_group(pid: int) -> None:
    """Kill the process group that this process leads, or led."""
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def mark_of(process: psutil.Process) -> str:
    """The mark that a process carries; empty where it carries none.

    Raises
    ------
    psutil.Error
        If the process is gone, or somebody else's.
    """
    return str(process.environ().get(MARK, "")).rstrip(_DOT)


def carries(pid: int, mark: str) -> bool:
    """Whether this process carries this mark.

    Parameters
    ----------
    pid : int
    mark : str
        A runner's, or one that ends with ``/``: that of all runners of a cluster.
    """
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        carried = mark_of(psutil.Process(pid))
        return carried == mark or (mark.endswith("/") and carried.startswith(mark))
    return False


def of_guard(mark: str) -> str:
    """Return what the marks of all runners begin with that have the same guard as this one's."""
    guard, slash, _ = mark.rpartition("/")
    return guard + slash if slash else mark


def names_in(mark: str) -> tuple[str, str]:
    """Return the cluster and the runner that a mark names; empty where it names none."""
    cluster, _, rest = mark.partition("/")
    return (cluster, rest.rpartition("/")[2]) if rest else ("", "")


def room() -> int | None:
    """The address at which this process shows its mark, if that is a row of dots (Linux)."""
    return _where(NO_MARK)


def hide() -> bool:
    """Let this process carry no mark any more in the eyes of others; whether that was possible.

    Only on Linux, and not where the environment that others see was written over.
    """
    if sys.platform != "linux":
        return False
    # A runner that was forked has filled up the room for its mark with dots.
    mark = os.environ.get(MARK, "")
    with contextlib.suppress(OSError):
        for shown in (mark.ljust(len(NO_MARK), _DOT), mark):
            if (place := _where(shown)) is not None:
                ctypes.memset(place, ord(_DOT), len(shown))
                return True
    return False


def _where(mark: str) -> int | None:
    """The address at which this process shows this mark, if it does."""
    start, end = _places()[2:]
    shown = b"\0" + ctypes.string_at(start, end - start) if start else b""
    at = shown.find(f"\0{MARK}={mark}\0".encode())
    return None if at < 0 else start + at + len(MARK) + 1


def rewrite(mark: str) -> None:
    """Let this process carry this mark in the eyes of all others, in place of dots (Linux).

    Raises
    ------
    ValueError
        If there are not as many dots.
    """
    place = room()
    if place is None or len(mark) > len(NO_MARK):
        raise ValueError(f"there is no room for the mark {mark!r}")
    ctypes.memmove(place, mark.ljust(len(NO_MARK), _DOT).encode(), len(NO_MARK))


def rename(name: str) -> None:
    """Let this process's command line be ``dask-flame`` and a name, as far as it fits (Linux)."""
    start, end = _places()[:2]
    if start:
        command = f"dask-flame\0{name}".encode()[: end - start - 1]
        ctypes.memmove(start, command.ljust(end - start, b"\0"), end - start)


def _places() -> tuple[int, ...]:
    """Where command line and environment begin and end that others see, in this process's memory.

    Fields 48 to 51 of ``/proc/self/stat``, see proc_pid_stat(5); zeros where that is kept secret.
    """
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return tuple(map(int, fields[45:49]))

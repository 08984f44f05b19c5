"""Mark the processes of a runner, find them and end them (driver, runner).

A runner's processes are found in three ways, because each misses some: its process group, the tree
below it, and, for processes that left both, an environment variable that they inherited.

Other processes see the environment with which a process was started. A process forked from a
template was started with the template's, where the mark is a row of dots, and overwrites the dots
with its own mark.

Anybody can start a process with such a mark. A mark is believed only of processes of this user and
this container, and a signal goes to exactly the process that was looked at, because its number may
be another's by then: as root it would be anybody's.
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
    from psutil import Process

#: The environment variable: ``<cluster>-<random>/<supervisor>/<runner>``, with dots as padding.
#: The supervisors of a cluster are numbered, so that a new one ignores processes of a dead one.
MARK = "DASK_FLAME_RUNNER"
#: Name under which output is shown of modules that are imported once for many runners.
PRELOAD = "preload"
_DOT = "."
#: The mark of a template: longer than any runner's.
NO_MARK = _DOT * 250


def below(pid: int) -> list[Process]:
    """Return the descendants of this process."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return psutil.Process(pid).children(recursive=True)
    return []


def found(pids: Iterable[int]) -> list[Process]:
    """Return those of these processes that exist."""
    import psutil

    there = []
    for pid in pids:
        with contextlib.suppress(psutil.Error, OSError):
            there.append(psutil.Process(pid))
    return there


def everywhere() -> list[Process]:
    """Return all processes of this machine."""
    import psutil

    return found(psutil.pids())


def orphan_candidates() -> list[Process]:
    """Return the processes among which orphans of this process's children can be.

    On Linux these are its descendants, because it is their subreaper.
    """
    return below(os.getpid()) if sys.platform == "linux" else everywhere()


def send(process: Process, number: int) -> bool:
    """Send a signal to exactly this process, even if its id is reused; return whether it was."""
    import psutil

    descriptor = None
    try:
        # Not on macOS, and not in older kernels.
        with contextlib.suppress(AttributeError, OSError):
            # From here on, the descriptor refers to this process even if its id is reused.
            descriptor = os.pidfd_open(process.pid)
        if not process.is_running():
            return False
        if descriptor is None:
            process.send_signal(number)
        else:
            signal.pidfd_send_signal(descriptor, number)
    except (psutil.Error, OSError):
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


def kill(processes: Iterable[Process]) -> None:
    """Kill these processes, if they exist."""
    for process in processes:
        send(process, signal.SIGKILL)


def kill_group(pid: int) -> None:
    """Kill the process group of a process that was not reaped, or whose group has members left."""
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def is_mine(process: Process) -> bool:
    """Return whether a process is of this user, and in the same container as this one.

    Raises
    ------
    psutil.Error, OSError
        If the process has ended, or its namespaces may not be read.
    """
    if process.uids().real != os.getuid():
        return False
    return _namespace(process.pid) == _namespace(os.getpid())


def _namespace(pid: int) -> str:
    """Return the pid namespace of a process, which differs between containers."""
    return os.readlink(f"/proc/{pid}/ns/pid") if sys.platform == "linux" else ""


def mark_of(process: Process) -> str:
    """Return the mark of a process; empty if it has none.

    Raises
    ------
    psutil.Error
        If the process has ended, or belongs to another user.
    """
    return str(process.environ().get(MARK, "")).rstrip(_DOT)


def carries(process: Process, mark: str) -> bool:
    """Return whether this process is of this user, and has this mark.

    Parameters
    ----------
    process : psutil.Process
    mark : str
        A runner's mark, or a prefix that ends with ``/``, for all runners with that prefix.
    """
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        carried = mark_of(process)
        same = carried == mark or (mark.endswith("/") and carried.startswith(mark))
        return same and is_mine(process)
    return False


def supervisor_prefix(mark: str) -> str:
    """Return the common prefix of the marks of all runners of the same supervisor."""
    supervisor, slash, _ = mark.rpartition("/")
    return supervisor + slash if slash else mark


def names_in(mark: str) -> tuple[str, str]:
    """Return the cluster and the runner named by a mark; empty strings if there are none."""
    cluster, _, rest = mark.partition("/")
    return (cluster, rest.rpartition("/")[2]) if rest else ("", "")


def mark_address() -> int | None:
    """Return the address of this process's visible mark, if it is a row of dots (Linux)."""
    return _address_of(NO_MARK)


def hide_mark() -> bool:
    """Remove this process's mark from its environment as others see it; return whether it worked.

    Only on Linux, and not if that environment has been overwritten.
    """
    if sys.platform != "linux":
        return False
    # A forked runner's mark is padded with dots.
    mark = os.environ.get(MARK, "")
    with contextlib.suppress(OSError):
        for shown in (mark.ljust(len(NO_MARK), _DOT), mark):
            if (place := _address_of(shown)) is not None:
                ctypes.memset(place, ord(_DOT), len(shown))
                return True
    return False


def _address_of(mark: str) -> int | None:
    """Return the address of this visible mark in this process, if it is there."""
    start, end = _memory_bounds()[2:]
    shown = b"\0" + ctypes.string_at(start, end - start) if start else b""
    at = shown.find(f"\0{MARK}={mark}\0".encode())
    return None if at < 0 else start + at + len(MARK) + 1


def write_mark(mark: str) -> None:
    """Write this mark over the dots in this process's visible environment (Linux).

    Raises
    ------
    ValueError
        If there are not enough dots.
    """
    place = mark_address()
    if place is None or len(mark) > len(NO_MARK):
        raise ValueError(f"there is no room for the mark {mark!r}")
    ctypes.memmove(place, mark.ljust(len(NO_MARK), _DOT).encode(), len(NO_MARK))


def set_command_line(name: str) -> None:
    """Set this process's command line to ``dask-flame`` and a name, as far as it fits (Linux)."""
    start, end = _memory_bounds()[:2]
    if start:
        command = f"dask-flame\0{name}".encode()[: end - start - 1]
        ctypes.memmove(start, command.ljust(end - start, b"\0"), end - start)


def _memory_bounds() -> tuple[int, ...]:
    """Return the bounds of this process's visible command line and environment, in memory.

    Fields 48 to 51 of ``/proc/self/stat``, see proc_pid_stat(5); zeros if access is denied.
    """
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return tuple(map(int, fields[45:49]))

"""Leave alone the processes that remove shared memory of ended processes (driver, runner).

Python's ``multiprocessing`` and joblib's loky register their shared memory with a separate process,
a resource tracker; torch has a manager for named shared memory. Each of them removes what is left
once its users have ended, and then ends. Nothing else knows these names. Therefore trackers are
not killed with the other processes of a runner: they end by themselves, at once. A process that
only looks like a tracker is killed after a while.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dask_flame.core.processes import below, carries, everywhere, is_mine, kill, kill_group, send

if TYPE_CHECKING:
    from psutil import Process

#: Seconds that trackers have for their clean-up: it takes milliseconds on an idle machine. Less
#: than the time for which a driver waits for its supervisor.
WITHIN = 5.0
_PAUSE = 0.01
#: Parts of the command lines of trackers.
_TRACKERS = ("resource_tracker import main", "torch_shm_manager")


def is_tracker(process: Process) -> bool:
    """Return whether this process removes the shared memory of ended processes."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return any(t in word for word in process.cmdline() for t in _TRACKERS)
    return False


def kill_but_trackers(processes: Iterable[Process]) -> tuple[int, set[Process]]:
    """Kill these processes, if they exist, except trackers.

    Returns
    -------
    int
        Number of processes killed.
    set of psutil.Process
        The trackers among them.
    """
    killed, spared = 0, set()
    for process in processes:
        if is_tracker(process):
            spared.add(process)
        else:
            killed += send(process, signal.SIGKILL)
    return killed, spared


def end_group(leader: int) -> set[Process]:
    """Kill the group that this process leads or led, except trackers; return the trackers.

    If the leader was reaped, its number, and so that of its group, may be another's by now.
    """
    members = [process for process in everywhere() if _group(process.pid) == leader]
    own = [process for process in members if _is_own(process)]
    # At once, so that none of them starts another meanwhile.
    if own and len(own) == len(members) and not any(map(is_tracker, own)):
        kill_group(leader)
        return set()
    return kill_but_trackers(own)[1]


def _is_own(process: Process) -> bool:
    """Return whether a process is of this user, or came from this one and is of another."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return is_mine(process) or process in below(os.getpid())
    return False


def end_marked(mark: str, processes: Iterable[Process]) -> set[Process]:
    """Kill those of these processes that have a mark, except trackers; return the trackers.

    This process is left alone.

    Parameters
    ----------
    mark : str
        As for :func:`dask_flame.core.processes.carries`.
    processes : iterable of psutil.Process
    """
    return _kill_marked(mark, processes)[1]


def end_all_marked(mark: str) -> set[Process]:
    """Kill all marked processes until none is left to start another; return the trackers."""
    trackers: set[Process] = set()
    killed = 1
    while killed:
        killed, spared = _kill_marked(mark, everywhere())
        trackers |= spared
    return trackers


def _kill_marked(mark: str, processes: Iterable[Process]) -> tuple[int, set[Process]]:
    me = os.getpid()
    return kill_but_trackers([p for p in processes if p.pid != me and carries(p, mark)])


def wait_for_trackers(trackers: Iterable[Process], within: float = WITHIN) -> None:
    """Wait until these trackers have ended, then kill the rest; none may be a child process."""
    due = time.monotonic() + within
    left = set(trackers)
    while left and time.monotonic() < due:
        time.sleep(_PAUSE)
        left = {process for process in left if process.is_running() and is_tracker(process)}
    kill(left)


def _group(pid: int) -> int:
    with contextlib.suppress(OSError):
        return os.getpgid(pid)
    return 0

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

from dask_flame.core.processes import carries, everywhere, kill_group

#: Seconds that trackers have for their clean-up: it takes milliseconds on an idle machine. Less
#: than the time for which a driver waits for its supervisor.
WITHIN = 5.0
_PAUSE = 0.01
#: Parts of the command lines of trackers.
_TRACKERS = ("resource_tracker import main", "torch_shm_manager")


def is_tracker(pid: int) -> bool:
    """Return whether this process removes the shared memory of ended processes."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return any(t in word for word in psutil.Process(pid).cmdline() for t in _TRACKERS)
    return False


def kill_but_trackers(pids: Iterable[int]) -> tuple[int, set[int]]:
    """Kill these processes, if they exist, except trackers.

    Returns
    -------
    int
        Number of processes killed.
    set of int
        The trackers among them.
    """
    killed, spared = 0, set()
    for pid in pids:
        if is_tracker(pid):
            spared.add(pid)
            continue
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    return killed, spared


def end_group(leader: int) -> set[int]:
    """Kill the group that this process leads or led, except trackers; return the trackers."""
    members = {pid for pid in everywhere() if _group(pid) == leader}
    if not any(map(is_tracker, members)):
        kill_group(leader)
        return set()
    return kill_but_trackers(members)[1]


def end_marked(mark: str, pids: Iterable[int]) -> set[int]:
    """Kill those of these processes that have a mark, except trackers; return the trackers.

    This process is left alone.

    Parameters
    ----------
    mark : str
        As for :func:`dask_flame.core.processes.carries`.
    pids : iterable of int
    """
    return _kill_marked(mark, pids)[1]


def end_all_marked(mark: str) -> set[int]:
    """Kill all marked processes until none is left to start another; return the trackers."""
    trackers: set[int] = set()
    killed = 1
    while killed:
        killed, spared = _kill_marked(mark, everywhere())
        trackers |= spared
    return trackers


def _kill_marked(mark: str, pids: Iterable[int]) -> tuple[int, set[int]]:
    me = os.getpid()
    return kill_but_trackers([pid for pid in pids if pid != me and carries(pid, mark)])


def wait_for_trackers(pids: Iterable[int], within: float = WITHIN) -> None:
    """Wait until these trackers have ended, then kill the rest; none may be a child process."""
    due = time.monotonic() + within
    left = set(pids)
    while left and time.monotonic() < due:
        time.sleep(_PAUSE)
        left = {pid for pid in left if is_tracker(pid)}
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _group(pid: int) -> int:
    with contextlib.suppress(OSError):
        return os.getpgid(pid)
    return 0

"""Processes that remove the shared memory of others that have ended (runner, guard, driver).

Python's ``multiprocessing`` and joblib's loky register what they make in shared memory with a
process of their own, a resource tracker; torch has a manager for what it makes by name. Each of
them removes what was left as soon as those that use it are dead, and then ends. Nobody else knows
these names. So where a runner's processes are killed, its trackers are not: they end by themselves,
at once. What only looks like a tracker is killed after a while.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable

from dask_flame.core.processes import carries, everywhere, kill_group

#: Seconds that trackers have to remove what the dead have left: milliseconds are enough for them
#: where the machine is not busy. Less than a driver waits for its guard.
WITHIN = 5.0
_PAUSE = 0.01
#: What their command lines have.
_TRACKERS = ("resource_tracker import main", "torch_shm_manager")


def is_tracker(pid: int) -> bool:
    """Whether this process removes shared memory when others have ended."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return any(t in word for word in psutil.Process(pid).cmdline() for t in _TRACKERS)
    return False


def kill_but_trackers(pids: Iterable[int]) -> tuple[int, set[int]]:
    """Kill these processes, as far as they are there, except trackers.

    Returns
    -------
    int
        How many have been killed.
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
    """Kill the process group that this process leads, or led, except trackers; these."""
    members = {pid for pid in everywhere() if _group(pid) == leader}
    if not any(map(is_tracker, members)):
        kill_group(leader)
        return set()
    return kill_but_trackers(members)[1]


def end_marked(mark: str, pids: Iterable[int]) -> set[int]:
    """Kill those of these processes, except this one, that carry a mark, and trackers; these.

    Parameters
    ----------
    mark : str
        As for :func:`dask_flame.core.processes.carries`.
    pids : iterable of int
    """
    return _kill_marked(mark, pids)[1]


def end_all_marked(mark: str) -> set[int]:
    """Do so everywhere, until there is none left that might start another; the trackers."""
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
    """Wait until these trackers, not children of this process, have ended; then kill them."""
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

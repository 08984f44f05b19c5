"""The mark that a runner's processes carry, and the ways to find and end them (driver, runner).

A runner's processes are found in three ways, because each misses some: its process group, the tree
below it, and, for those that left both, an environment variable that they have inherited.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable

#: The environment variable: ``<cluster>-<random>/<runner>``.
MARK = "DASK_FLAME_RUNNER"


def below(pid: int) -> list[int]:
    """Processes that descend from this one."""
    import psutil

    with contextlib.suppress(psutil.Error):
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


def kill_marked(mark: str, pids: Iterable[int]) -> None:
    """Kill those of these processes, except this one, that carry this mark.

    Parameters
    ----------
    mark : str
        A runner's, or one that ends with ``/``: that of all runners of a cluster.
    pids : iterable of int
    """
    import psutil

    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            carried = process.environ().get(MARK, "")
            same = carried == mark or (mark.endswith("/") and carried.startswith(mark))
            if same and pid != os.getpid():
                process.kill()

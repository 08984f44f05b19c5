"""Clean up after a dead supervisor and all its runners (runner).

Every surviving runner of a dead supervisor ends all processes with the mark of any of its runners:
a runner may have been killed at the same moment as the supervisor, while processes of its calls
live on. The driver does the same, if it lives. If it was killed too, its own folder is also
removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import warnings

from dask_flame.core.folder_locks import remove_when_released
from dask_flame.core.processes import hide_mark, supervisor_prefix
from dask_flame.core.resource_trackers import end_all_marked, end_group, wait_for_trackers

#: How long a living driver may take to start its next supervisor, which then removes the driver's
#: folder, in seconds: longer than its longest pause between two of them.
_NEXT_WITHIN = 60.0


def sweep(mark: str, scratch: str, drivers: str) -> None:
    """Remove left-over processes and folders, those of the driver included.

    A child process does this, once this process has ended: calls are still running here, and could
    start another process after the last scan.

    Parameters
    ----------
    mark : str
        The mark of this process.
    scratch : str
        The supervisor's folder; empty if unknown.
    drivers : str
        The driver's folder, to be removed if the driver dies before it starts another supervisor;
        empty if unknown.
    """
    me = os.getpid()
    leads = os.getpgrp() == me
    # From here on, the driver and other runners do not kill this process, nor its child.
    hidden = hide_mark()
    with warnings.catch_warnings(action="ignore"):  # about forks with threads
        if os.fork():
            return
    try:
        os.setsid()
        # Resource trackers wait for the end of all processes with these pipes.
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        with contextlib.suppress(OSError):
            os.kill(me, signal.SIGKILL)
        # Several runners may do this at a time, and processes without a mark are spared. A runner
        # killed before it gets here was killed by one that got here.
        whose = supervisor_prefix(mark) if hidden else mark
        trackers = end_group(me) if leads else set()
        wait_for_trackers(trackers | end_all_marked(whose))
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
        if drivers:
            remove_when_released(drivers, _NEXT_WITHIN, unless_supervised=True)
    finally:
        os._exit(0)

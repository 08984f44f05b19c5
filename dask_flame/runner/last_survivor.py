"""What a runner does when the guard is dead that would end it, and all others (runner).

Whoever is left of a guard's runners ends all that bears the mark of one of them: a runner may have
been killed at the same instant as the guard, and what its calls have started lives on. The driver,
if it lives, does the same; if it was killed too, its own folder goes as well.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import warnings

from dask_flame.core.folder_locks import remove_once_nobodys
from dask_flame.core.processes import hide, of_guard
from dask_flame.core.resource_trackers import end_all_marked, end_group, wait_for_trackers

#: How long a living driver may take to start its next supervisor, which then removes the driver's
#: folder, in seconds: longer than its longest pause between two of them.
_NEXT_WITHIN = 60.0


def sweep(mark: str, scratch: str, drivers: str) -> None:
    """See to what is left: marked processes, the scratch folder, the driver's, the group.

    By a child, which begins when this process has ended: calls are still running here, and might
    start another process after the last look.

    Parameters
    ----------
    mark : str
        This process's.
    scratch : str
        The guard's folder; empty where it is not known.
    drivers : str
        The driver's, which is removed if the driver dies before it has another supervisor; empty
        where it is not known.
    """
    me = os.getpid()
    leads = os.getpgrp() == me
    with warnings.catch_warnings(action="ignore"):  # of threads
        if os.fork():
            return
    try:
        os.setsid()
        # Trackers of shared memory wait for the end of all that has these pipes.
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        with contextlib.suppress(OSError):
            os.kill(me, signal.SIGKILL)
        # Several runners may do this at a time: what carries no mark is not killed by another. One
        # that is killed before it has come here was killed by one that has.
        whose = of_guard(mark) if hide() else mark
        trackers = end_group(me) if leads else set()
        wait_for_trackers(trackers | end_all_marked(whose))
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
        if drivers:
            remove_once_nobodys(drivers, _NEXT_WITHIN, unless_supervised=True)
    finally:
        os._exit(0)

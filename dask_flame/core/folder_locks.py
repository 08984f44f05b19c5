"""Lock the folders of living processes, to tell them from left-over ones (all places).

Imports only the standard library, because supervisors and ending runners have no time for more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from dask_flame.core.own_folders import open_in, open_own
from dask_flame.core.placed_links import remove_folder

#: The lock file in a folder of a living process. The name is fixed: `dask flame sweep` must
#: recognize the folders of older versions.
LOCK = ".guard"
#: The file in a driver's folder that its supervisor holds.
_SUPERVISED = ".supervised"
#: Seconds between two attempts to lock a folder.
_PAUSE = 0.02
#: Seconds for which a folder has to be supervised: a killed process may hold its lock for a moment.
_SURE = 1.0


def lock(folder: str) -> int:
    """Show others that this process lives, until it ends or closes the returned descriptor.

    Processes that this one starts do not inherit the lock.

    Raises
    ------
    OSError
        There is no such folder of this user.
    """
    descriptor = _open(folder, LOCK)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def hold(folder: str) -> list[int]:
    """Show that a folder belongs to this process, until all returned descriptors are closed.

    The folder itself is locked as well, because systemd-tmpfiles skips locked folders.
    """
    descriptors = [lock(folder), open_own(folder)]
    with contextlib.suppress(OSError):
        fcntl.flock(descriptors[1], fcntl.LOCK_SH)
    return descriptors


def supervise(folder: str) -> int:
    """Promise to remove a folder when its holder has ended, until this process ends."""
    descriptor = _open(folder, _SUPERVISED)
    with contextlib.suppress(OSError):
        # Exclusive: those who look whether it is locked do not see each other.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def remove_when_released(folder: str, within: float, *, unless_supervised: bool = False) -> bool:
    """Remove a folder as soon as the process that holds it (:func:`hold`) has ended.

    Parameters
    ----------
    folder : str
    within : float
        How long to wait for the end of that process, in seconds.
    unless_supervised : bool, default False
        Leave the folder to the process that has promised to remove it (:func:`supervise`), as soon
        as there is one.

    Returns
    -------
    bool
        Whether the folder has been removed. One with its name that is another user's is no longer
        it, and is left alone.
    """
    due = time.monotonic() + within
    unsupervised = time.monotonic()  # when it was last seen to be
    while True:
        try:
            descriptor = open_own(folder)
        except OSError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_folder(folder)
            return not os.path.exists(folder)
        except OSError:
            now = time.monotonic()
            if not (unless_supervised and _supervised(descriptor)):
                unsupervised = now
            if now > due or now > unsupervised + _SURE:
                return False
        finally:
            os.close(descriptor)
        time.sleep(_PAUSE)


def _open(folder: str, name: str) -> int:
    """Open a file in a folder of this user; create it if it is missing."""
    there = open_own(folder)
    try:
        return open_in(there, name, os.O_RDWR | os.O_CREAT)
    finally:
        os.close(there)


def _supervised(folder: int) -> bool:
    """Return whether a living process has promised to remove an open folder."""
    try:
        descriptor = open_in(folder, _SUPERVISED, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False

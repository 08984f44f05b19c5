"""Folders of living processes are locked, so that others know them from left ones (all places).

Only what the standard library has is imported: processes that guard runners, and runners that end,
have no time for more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time

#: The file in a folder by which a living process is seen.
LOCK = ".guard"
#: The file in a driver's folder that its supervisor holds.
_SUPERVISED = ".supervised"
#: Seconds between two looks at whether a folder is somebody's.
_PAUSE = 0.02


def lock(folder: str, name: str = LOCK) -> int:
    """Show others that this process lives, until it ends or closes the returned descriptor.

    Processes that this one starts do not inherit the lock.
    """
    descriptor = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT, 0o600)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def hold(folder: str) -> list[int]:
    """Let others see that a folder is a living process's, until all these descriptors are closed.

    The folder itself is locked as well: systemd-tmpfiles leaves alone what is.
    """
    descriptors = [lock(folder), os.open(folder, os.O_RDONLY)]
    with contextlib.suppress(OSError):
        fcntl.flock(descriptors[1], fcntl.LOCK_SH)
    return descriptors


def supervise(folder: str) -> int:
    """Promise to remove a folder when its holder has ended, until this process ends."""
    return lock(folder, _SUPERVISED)


def remove_once_nobodys(folder: str, within: float, *, unless_supervised: bool = False) -> bool:
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
        Whether it is gone.
    """
    due = time.monotonic() + within
    while True:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            return not os.path.exists(folder)
        except OSError:
            if time.monotonic() > due or (unless_supervised and _supervised(descriptor)):
                return False
        finally:
            os.close(descriptor)
        time.sleep(_PAUSE)


def _supervised(folder: int) -> bool:
    """Return whether a living process has promised to remove an open folder."""
    try:
        descriptor = os.open(_SUPERVISED, os.O_RDWR | os.O_NOFOLLOW, dir_fd=folder)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False

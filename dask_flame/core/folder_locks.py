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
#: Seconds between two looks at whether a folder is somebody's.
_PAUSE = 0.02


def lock(scratch: str) -> int:
    """Let others see that this process lives, until it ends or closes the descriptor returned.

    What this process starts does not inherit it.
    """
    descriptor = os.open(os.path.join(scratch, LOCK), os.O_RDWR | os.O_CREAT, 0o600)
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


def remove_once_nobodys(folder: str, within: float) -> bool:
    """Remove a folder that its process has held (:func:`hold`), as soon as that has ended.

    Parameters
    ----------
    folder : str
    within : float
        Seconds to wait for the process's end; it lives on, perhaps.

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
            if time.monotonic() > due:
                return False
        finally:
            os.close(descriptor)
        time.sleep(_PAUSE)

"""The folders that this process watches."""

from __future__ import annotations

import contextlib
import os
import sys


def watches() -> int:
    """Return the number of open inotify descriptors of this process."""
    found = 0
    for number in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):
            found += "inotify" in os.readlink(f"/proc/self/fd/{number}")
    return found

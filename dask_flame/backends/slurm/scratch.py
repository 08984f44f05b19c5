"""The temporary folders of jobs on a node, which outlive jobs that were killed (runner).

The script of a job makes its folder, and removes it at the end. If the node kills the job, nobody
does, and only this node sees the folder. Therefore the next job of the same user there removes it.

Imports only the standard library, because a job begins with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator

from dask_flame.core.own_folders import open_in, open_own
from dask_flame.core.placed_links import remove_folder

#: The beginning of the names of these folders.
PREFIX = "dask-flame-"


def keep(folder: str) -> int | None:
    """Show that a job uses a folder, until its runner has ended.

    Returns
    -------
    int or None
        An open file that the runner inherits; None if the file system has no locks.
    """
    name = _lock_name()
    with contextlib.suppress(OSError), _opened(folder) as there:
        new = f"{name}.new"
        descriptor = open_in(there, new, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Only now, so that nobody sees it without its lock.
            os.rename(new, name, src_dir_fd=there, dst_dir_fd=there)
            os.set_inheritable(descriptor, True)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor
    return None


def remove_unused(place: str) -> None:
    """Remove the folders of this user's jobs that were killed on this node.

    Those of which that is not certain are left alone: of jobs that have not begun with Python yet,
    and of other nodes, if they share this place.
    """
    with contextlib.suppress(OSError):
        for entry in os.scandir(place):
            if entry.name.startswith(PREFIX):
                _remove_if_unused(entry.path)


def _remove_if_unused(folder: str) -> None:
    with contextlib.suppress(OSError):
        with _opened(folder) as there:
            descriptor = open_in(there, _lock_name(), os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if it is in use
            remove_folder(folder)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int]:
    there = open_own(folder)
    try:
        yield there
    finally:
        os.close(there)


def _lock_name() -> str:
    # Locks of another node may not be seen here, or not its folders.
    return f".in-use-{socket.gethostname()}"

"""The file in a driver's folder that lets other processes of the user connect (driver)."""

from __future__ import annotations

import contextlib
import os

from dask_flame.core.connection import ConnectionInfo
from dask_flame.core.own_folders import open_in, open_own

_NAME = "connection.json"


def write_connection(folder: str, connection: ConnectionInfo) -> None:
    """Write the file, which ends with the folder, and which only this user can read."""
    there = open_own(folder)
    try:
        file = open_in(there, _NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(file, "w") as opened:
            opened.write(connection.dumps())
    finally:
        os.close(there)


def read_connection(folder: str) -> ConnectionInfo | None:
    """Read the file; return None if there is none that this user alone can write."""
    with contextlib.suppress(OSError, ValueError):
        there = open_own(folder)
        try:
            with os.fdopen(open_in(there, _NAME, os.O_RDONLY)) as opened:
                return ConnectionInfo.loads(opened.read())
        finally:
            os.close(there)
    return None

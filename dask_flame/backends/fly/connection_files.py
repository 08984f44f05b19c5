"""Files of this user with what other processes need to connect to a cluster (driver).

Fly has no place of its own for it. Secrets of an app are variables of each of its machines, so
that runners would have them. Files and metadata of a machine are read by every token that may list
machines, and a file is also read by the machine's own process, which runs code of calls. So it
stays in a folder of the user's, on the machine of the driver, with that machine's protection.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from dask_flame.core.connection import ConnectionInfo
from dask_flame.core.own_folders import make_own, open_in, open_own, why_unsafe

logger = logging.getLogger("dask_flame")

_END = ".json"
#: Seconds for which the file of a cluster without machines is kept: it is written before its first
#: machine is created.
_NEW_WITHIN = 3600.0


@dataclass(frozen=True, kw_only=True)
class SavedConnection:
    """How to connect to a cluster of an app.

    Attributes
    ----------
    app : str
    reach : {"proxy", "wireguard", "public"}
        How its first driver reaches the scheduler.
    connection : ConnectionInfo
    """

    app: str
    reach: str
    connection: ConnectionInfo = field(repr=False)


def folder() -> Path:
    """Return the folder of the files, which need not exist."""
    given = os.environ.get("XDG_STATE_HOME", "")
    state = Path(given) if os.path.isabs(given) else Path("~/.local/state").expanduser()
    return state / "dask-flame" / "fly"


def path_of(cluster: str) -> Path:
    """Return the path of a cluster's file, which need not exist."""
    return folder() / f"{quote(cluster, safe='')}{_END}"


def write(cluster: str, saved: SavedConnection) -> None:
    """Write the file of a cluster.

    Raises
    ------
    OSError
        It cannot be written where no other user can read or replace it.
    """
    path = path_of(cluster)
    make_own(path.parent)
    if why := why_unsafe(path.parent):
        raise PermissionError(why)
    content = {"app": saved.app, "reach": saved.reach, "connection": saved.connection.dumps()}
    there = open_own(path.parent)
    try:
        # A reader must not find a part of it.
        new = f".{path.name}.{os.getpid()}"
        with os.fdopen(open_in(there, new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w") as file:
            json.dump(content, file)
        os.replace(new, path.name, src_dir_fd=there, dst_dir_fd=there)
    finally:
        os.close(there)


def read(cluster: str) -> SavedConnection | None:
    """Read the file of a cluster; return None if there is none that this user alone can write."""
    path = path_of(cluster)
    with contextlib.suppress(OSError, ValueError, KeyError):
        there = open_own(path.parent)
        try:
            with os.fdopen(open_in(there, path.name, os.O_RDONLY)) as file:
                content = json.load(file)
        finally:
            os.close(there)
        connection = ConnectionInfo.loads(content["connection"])
        return SavedConnection(app=content["app"], reach=content["reach"], connection=connection)
    return None


def remove(cluster: str) -> None:
    """Remove the file of a cluster that has ended, if there is one."""
    with contextlib.suppress(OSError):
        path_of(cluster).unlink()


def remove_old(app: str, living: Collection[str]) -> None:
    """Remove the files of clusters of an app that have no machines any more.

    Their drivers were killed together with the process that removes the file.

    Parameters
    ----------
    app : str
    living : collection of str
        The ids of the clusters that have machines.
    """
    with contextlib.suppress(OSError):
        for path in folder().glob(f"*{_END}"):
            cluster = unquote(path.name.removesuffix(_END))
            if cluster in living or time.time() < path.stat().st_mtime + _NEW_WITHIN:
                continue
            saved = read(cluster)
            if saved is not None and saved.app == app:
                remove(cluster)

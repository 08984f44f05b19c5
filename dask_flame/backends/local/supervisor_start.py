"""The start of the supervisor of local runners, and its end (driver)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import dask.config

from dask_flame.backends.environment import DASHBOARD_TOKEN
from dask_flame.backends.local.result_folder import DriverFolder
from dask_flame.core.open_files import usual_limit
from dask_flame.core.own_folders import make_own, why_unsafe
from dask_flame.core.process_settings import interpreter_flags
from dask_flame.core.processes import MARK, NO_MARK
from dask_flame.core.threads import in_thread
from dask_flame.errors import BackendError

#: Seconds in which a supervisor greets the driver.
START_WITHIN = 60.0
#: Seconds in which a supervisor that was disconnected ends.
END_WITHIN = 10.0


def start_supervisor(
    mark: str, *, place: str, folder: str, first: Mapping[str, Any] | None
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a supervisor.

    Parameters
    ----------
    mark : str
        The value of :data:`MARK` in the environment of all that it starts.
    place : str
        Where it makes its scratch folder; empty for the default.
    folder : str
        The driver's folder, which it removes if the driver dies.
    first : mapping of str to object, optional
        The kind of runners that it forks a first template for, at once.

    Returns
    -------
    process : subprocess.Popen
    connection : socket.socket
        The driver's end. The supervisor ends when it is closed.

    Raises
    ------
    BackendError
        The operating system starts no process.
    """
    supervisor = find_spec("dask_flame.backends.local.supervisor.__main__")
    assert supervisor is not None
    assert supervisor.origin is not None
    ours, theirs = socket.socketpair()
    try:
        words = [str(theirs.fileno()), mark, str(os.getpid()), place, folder, str(usual_limit())]
        # Templates are forked from the supervisor.
        environment = {k: v for k, v in os.environ.items() if k != DASHBOARD_TOKEN}
        if first is not None:
            # The supervisor forks the first template from itself, at once.
            words.append(first["key"])
            environment = {**environment, **first["env"], MARK: NO_MARK}
        # Not asyncio's subprocess: its child watcher would outlive the loop.
        process = subprocess.Popen(
            [sys.executable, "-P", *interpreter_flags(), supervisor.origin, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        raise BackendError(f"cannot start processes on this machine: {error}") from error
    finally:
        theirs.close()
    return process, ours


def not_started(error: Exception) -> BackendError:
    """Return the error of a supervisor that has not greeted the driver."""
    why = "it has ended at once"
    if isinstance(error, TimeoutError):
        why = (
            f"nothing was heard of it for {START_WITHIN:g} s. The load of this machine is "
            f"{os.getloadavg()[0]:.0f}, with {os.cpu_count()} cores; try again when it is less busy"
        )
    return BackendError(f"the supervisor of the local runners did not start: {why}")


async def wait_for_end(supervisor: subprocess.Popen[bytes]) -> None:
    """Wait until a disconnected supervisor has ended, and kill it if it does not."""
    try:
        await in_thread(supervisor.wait, END_WITHIN)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        await in_thread(supervisor.wait)


def scratch_place() -> str:
    """Return where to create the scratch folder, by Dask's setting; empty for the default.

    Raises
    ------
    BackendError
        Nothing can be written there, or other users could replace what is there.
    """
    place = dask.config.get("temporary-directory", default=None)
    if not place:
        _check_safe(tempfile.gettempdir())
        return ""
    place = os.path.abspath(os.path.expanduser(str(place)))
    try:
        make_own(place)
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise BackendError(
            f"temporary-directory in Dask's configuration is {place!r}, where nothing can be "
            f'written: {error.strerror}; write dask.config.set({{"temporary-directory": "/tmp"}})'
        ) from None
    _check_safe(place)
    return place


def _check_safe(place: str) -> None:
    """Refuse a folder in which other users could put their files in place of a cluster's."""
    if why := why_unsafe(place):
        own = os.path.join(os.path.expanduser("~"), ".cache", "dask-flame", "tmp")
        raise BackendError(
            f"the temporary folder {place!r} is not safe from other users of this machine: {why}; "
            f'write dask.config.set({{"temporary-directory": {own!r}}}), or name another folder of '
            "your own"
        )


def make_folder(cluster: str, place: str) -> DriverFolder:
    """Make the folder of a driver.

    Raises
    ------
    BackendError
        There is no room.
    """
    try:
        return DriverFolder(cluster, place)
    except OSError as error:
        where = place or tempfile.gettempdir()
        raise BackendError(
            f"no folder can be made in {where}: {error.strerror}; make room there, or write "
            'dask.config.set({"temporary-directory": "/another/folder"})'
        ) from error

"""The files of a cluster, in a folder that its driver and all nodes see (driver, command line).

Only the user can read what is in it. It has the launch files of jobs that wait, which hold private
keys, their output, and what the command line needs to know of the cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dask_flame.backends.slurm.identity import Identity
from dask_flame.core.connection import ConnectionInfo
from dask_flame.core.own_folders import make_own, open_in, open_own, why_unsafe
from dask_flame.errors import BackendError

#: Where clusters have their folders, if nobody has said where.
DEFAULT = "~/.dask-flame-slurm"
#: Bytes at the end of a runner's output that are read.
_TAIL = 100_000
_ABOUT, _ALIVE, _STOPPED = "cluster.json", "alive", "stopped"
#: The file that lets other processes of the user connect. Holds private keys.
CONNECTION = "connection.json"


def base(given: str | None) -> str:
    """Return the folder for the folders of clusters."""
    return os.path.abspath(os.path.expanduser(given or DEFAULT))


class ClusterFolder:
    """The folder of one cluster.

    Parameters
    ----------
    path : str
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def make(cls, place: str, identity: Identity) -> ClusterFolder:
        """Make the folder of a new cluster.

        Raises
        ------
        BackendError
            It cannot be made, or others could change it.
        """
        folder = cls(os.path.join(place, identity.cluster))
        try:
            make_own(folder.path)
            if why := why_unsafe(place):
                raise BackendError(
                    f"folder={place!r} is not safe from other users: {why}; write folder= with "
                    "one of your own that all nodes see"
                )
            about = {"driver": identity.driver, "process": identity.process, "began": time.time()}
            folder.write(_ABOUT, json.dumps(about).encode())
            folder.touch()
        except OSError as error:
            raise BackendError(
                f"folder={place!r} cannot be used: {error}; write folder= with one that you may "
                "write to, and that all nodes see"
            ) from None
        return folder

    def write(self, name: str, content: bytes) -> None:
        """Write a file that only this user can read."""
        descriptor = open_own(self.path)
        try:
            file = open_in(descriptor, name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            with os.fdopen(file, "wb") as target:
                target.write(content)
        finally:
            os.close(descriptor)

    def add_wave(self, wave: int, about: Mapping[str, Any], jobs: Sequence[bytes]) -> None:
        """Write the launch files of a wave, and what the command line shows of it."""
        self.write(f"wave-{wave}.json", json.dumps(about).encode())
        for task, job in enumerate(jobs):
            self.write(f"{wave}-{task}.json", job)

    def waves(self) -> dict[int, dict[str, Any]]:
        """Return what was written of each wave."""
        found = {}
        for file in Path(self.path).glob("wave-*.json"):
            with contextlib.suppress(OSError, ValueError):
                found[int(file.stem.removeprefix("wave-"))] = json.loads(file.read_text())
        return found

    def forget(self, wave: int, task: int) -> None:
        """Remove the launch file of a job."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.path, f"{wave}-{task}.json"))

    def output(self, wave: int, task: int) -> str:
        """Return the end of the output of a job."""
        with contextlib.suppress(OSError), open(f"{self.path}/{wave}-{task}.out", "rb") as source:
            source.seek(0, os.SEEK_END)
            source.seek(max(0, source.tell() - _TAIL))
            return source.read().decode(errors="replace")
        return ""

    @property
    def about(self) -> dict[str, Any]:
        """What its driver has written of itself; empty if nothing can be read."""
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads(Path(self.path, _ABOUT).read_text())
            return found
        return {}

    @property
    def connection(self) -> ConnectionInfo | None:
        """What another process of this user needs to connect; None if there is nothing."""
        with contextlib.suppress(OSError, ValueError):
            there = open_own(self.path)
            try:
                with os.fdopen(open_in(there, CONNECTION, os.O_RDONLY)) as opened:
                    return ConnectionInfo.loads(opened.read())
            finally:
                os.close(there)
        return None

    def touch(self) -> None:
        """Show that the driver lives."""
        self.write(_ALIVE, b"")

    @property
    def silent(self) -> float:
        """Seconds since the driver has shown that it lives, by the clock of the file server."""
        try:
            said = os.stat(os.path.join(self.path, _ALIVE)).st_mtime
            probe = os.path.join(self.path, f".now-{os.getpid()}")
            with open(probe, "wb"):
                now = os.stat(probe).st_mtime
            os.unlink(probe)
        except OSError:
            return 0.0
        return now - said

    def stop(self) -> None:
        """Tell the driver that its cluster was stopped."""
        self.write(_STOPPED, b"")

    @property
    def stopped(self) -> bool:
        """Whether the driver was told that its cluster was stopped."""
        return os.path.exists(os.path.join(self.path, _STOPPED))

    def remove(self) -> None:
        """Remove it, with all private keys."""
        shutil.rmtree(self.path, ignore_errors=True)


def clusters(place: str) -> Iterator[tuple[str, ClusterFolder]]:
    """Return the folders of this user's clusters, by their ids."""
    with contextlib.suppress(OSError):
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False) and entry.stat().st_uid == os.geteuid():
                folder = ClusterFolder(entry.path)
                if os.path.exists(os.path.join(entry.path, _ABOUT)):
                    yield entry.name, folder

"""Folders of installed packages, each made once and shared by all runners that find it (runner).

A folder appears under its name when it is complete, by renaming. Until then it has another name,
and a lock that ends with the process that makes it and the installer that this process has started.
A folder whose lock is free was left by processes that were killed, and is removed. Imports only the
standard library.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dask_flame.core.own_folders import make_own, why_unsafe
from dask_flame.packages.installers import InstallFailed

_PART, _LOCK, _FAILED = ".part", ".lock", ".failed"


def cache_folder(scratch: str | None) -> Path:
    """Return the folder of the cache, and create it.

    Runners import what is there, so it is not used if other users could put something there.

    Parameters
    ----------
    scratch : str or None
        The folder of this runner, used if there is no other one that is writable and safe; None if
        it has none.

    Raises
    ------
    InstallFailed
        No folder can be written to.
    """
    # Without a home, "~" would be a folder of that name in the working directory.
    home = os.path.expanduser("~")
    home = os.environ.get("XDG_CACHE_HOME") or (os.path.join(home, ".cache") if home != "~" else "")
    shared, why = home and os.path.join(home, "dask-flame", "packages"), ""
    for folder in (shared, scratch and os.path.join(scratch, "packages")):
        if folder:
            try:
                make_own(folder)
                tempfile.TemporaryFile(dir=folder).close()
            except OSError as error:
                why = why or f"nothing can be written to {folder}: {error.strerror}"
                continue
            # The runner's own folder was checked when it was made.
            if folder != shared or not (unsafe := why_unsafe(folder)):
                return Path(folder)
            why = why or f"{folder} is not safe from other users of this machine: {unsafe}"
    raise InstallFailed(
        f'packages cannot be installed: {why}; write env={{"XDG_CACHE_HOME": "/a/writable/folder"}}'
    )


class FolderCache:
    """Make folders of packages, each at most once at a time.

    Parameters
    ----------
    root : Path
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, key: str, make: Callable[[Path, int], None]) -> Path:
        """Return the folder with this key; make it first if there is none.

        Parameters
        ----------
        key : str
        make : callable
            Called with an empty folder to fill, and a descriptor. Processes that inherit the
            descriptor keep the folder from being removed.

        Raises
        ------
        InstallFailed
            The error of `make`, or that of another process for which this one has waited.
        """
        folder, began = self._root / key, time.time()
        if folder.is_dir():
            return folder
        with self._locked(key) as descriptor:
            if folder.is_dir():
                return folder
            if (words := self._failed_since(key, began)) is not None:
                raise InstallFailed(words)
            self._clean(key)
            part = self._root / f"{key}.{secrets.token_hex(4)}{_PART}"
            try:
                part.mkdir(mode=0o700)
                make(part, descriptor)
                self._publish(part, folder)
            except InstallFailed as error:
                self._note_failure(key, str(error))
                raise
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return folder

    def _publish(self, part: Path, folder: Path) -> None:
        try:
            part.rename(folder)
        except OSError as error:
            # Another machine was faster, on a file system without locks.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        with contextlib.suppress(OSError):
            (self._root / f"{folder.name}{_FAILED}").unlink()

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[int]:
        descriptor = self._open(key)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _open(self, key: str) -> int:
        return os.open(self._root / f"{key}{_LOCK}", os.O_RDWR | os.O_CREAT, 0o600)

    # Failures

    def _failed_since(self, key: str, began: float) -> str | None:
        """Return the error of a process that this one has waited for, or None."""
        try:
            known = json.loads((self._root / f"{key}{_FAILED}").read_text())
            return str(known["words"]) if known["at"] >= began else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _note_failure(self, key: str, words: str) -> None:
        note = self._root / f"{key}{_FAILED}"
        with contextlib.suppress(OSError):
            note.write_text(json.dumps({"at": time.time(), "words": words}))
            note.chmod(0o600)

    # What killed processes leave

    def _clean(self, own: str) -> None:
        """Remove folders that killed processes have left; the caller holds the lock of `own`."""
        for part in self._root.glob(f"*{_PART}"):
            key = part.name.partition(".")[0]
            if key == own:
                shutil.rmtree(part, ignore_errors=True)
                continue
            descriptor = self._open(key)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(part, ignore_errors=True)
            except OSError:
                pass  # it is being made
            finally:
                os.close(descriptor)

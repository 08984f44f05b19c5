"""Links from a user's folders to copies in a cluster's folder, and their end (all places).

A cluster puts files at paths of the user's own machine by links to copies in its own folder. The
links are noted in this folder before they are made, so that whoever removes the folder also removes
them: the driver, its supervisor, a surviving runner, or ``dask flame sweep``. Only a link that
points into this folder is ever removed.

Two clusters may want the same link, with equal contents. The later one lets it point to its own
copy; when that cluster ends, the link points to the copy of the earlier one again.

A folder is trusted only if it is this user's: others can make one with the name of a folder that
is gone, and to which links have stayed.

Imports only the standard library, because supervisors and ending runners have no time for more.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any

from dask_flame.core.own_folders import open_in, open_own

#: The copies in a cluster's folder, below their absolute paths.
COPIES = "placed"
_NOTES = ".placed"
#: A file in a cluster's folder that is being removed.
_ENDING = ".ending"
#: The beginning of the names of clusters' folders.
_PREFIX = "dask-flame-"
#: Seconds to wait for another process that changes links in the same folder.
_WITHIN = 2.0


def copy_of(folder: str, path: str) -> str:
    """Return where in a cluster's folder the copy for an absolute path is."""
    return os.path.join(folder, COPIES, path.lstrip(os.sep))


def is_placed(path: str) -> bool:
    """Return whether a path is a link that a cluster has made."""
    return _folder_of(path) is not None


def foreign_folder(path: str) -> str | None:
    """Return the folder that a cluster's link leads into, if it is there but another user's."""
    folder = _folder_of(path)
    if folder is None or not os.path.lexists(folder) or _is_own(folder):
        return None
    return folder


def _is_own(folder: str) -> bool:
    try:
        os.close(open_own(folder))
    except OSError:
        return False
    return True


def _folder_of(path: str) -> str | None:
    """Return the folder of the cluster that has made a link; None for other links and files."""
    try:
        folder, found, _ = os.readlink(path).partition(f"{os.sep}{COPIES}{os.sep}")
    except OSError:
        return None
    return folder if found and os.path.basename(folder).startswith(_PREFIX) else None


def place(folder: str, path: str) -> None:
    """Make a link to the copy of a path in a cluster's folder, which exists.

    Parameters
    ----------
    folder : str
    path : str
        Absolute. Nothing is there, or a link of another cluster with equal contents.

    Raises
    ------
    OSError
        The link cannot be made; something else may be there by now.
    """
    copy = copy_of(folder, path)
    with _alone(os.path.dirname(path)):
        before: list[str] = []
        if (other := _folder_of(path)) is not None:
            notes = {note["link"]: note for note in _notes_of(other)}
            before = [os.readlink(path), *notes.get(path, {}).get("before", ())]
        temporary = f"{path}.{secrets.token_hex(4)}"
        note = {"link": path, "copy": copy, "before": before, "temporary": temporary}
        _note(folder, note)
        if other is None:
            os.symlink(copy, path)
        else:
            _replace(path, copy, temporary)


def remove_folder(folder: str) -> None:
    """Remove a cluster's folder, and the links that point into it.

    One with its name that is another user's is left alone.
    """
    try:
        there = open_own(folder)
    except OSError:
        return
    try:
        notes = _notes(there)
        if notes:
            # From here on, no other cluster lets a link point here. The copies stay until no link
            # does: calls of another cluster with the same files may be reading them.
            with contextlib.suppress(OSError):
                os.close(open_in(there, _ENDING, os.O_WRONLY | os.O_CREAT))
        for note in notes:
            with contextlib.suppress(OSError), _alone(os.path.dirname(note["link"])):
                _give_up(folder, **note)
    finally:
        os.close(there)
    shutil.rmtree(folder, ignore_errors=True)


def _give_up(folder: str, link: str, copy: str, before: Sequence[str], temporary: str) -> None:
    """Remove a link, or let it point to the copy of an earlier cluster that still lives."""
    if copy != copy_of(folder, link):
        return
    if temporary.rpartition(".")[0] == link and os.path.islink(temporary):
        os.unlink(temporary)  # its maker was killed
    if os.readlink(link) != copy:
        return
    for other in before:
        if _lasts(other):
            _replace(link, other, temporary)
            return
    os.unlink(link)


def _lasts(copy: str) -> bool:
    """Return whether a copy of this user is there, and its cluster is not ending."""
    folder = copy.partition(f"{os.sep}{COPIES}{os.sep}")[0]
    ending = os.path.join(folder, _ENDING)
    return _is_own(folder) and os.path.lexists(copy) and not os.path.lexists(ending)


def _replace(link: str, copy: str, temporary: str) -> None:
    """Let a link point to another copy, without a moment in which there is no link."""
    os.symlink(copy, temporary)
    try:
        os.replace(temporary, link)
    except BaseException:
        os.unlink(temporary)
        raise


def _note(folder: str, note: dict[str, Any]) -> None:
    line = json.dumps(note).encode() + b"\n"
    there = open_own(folder)
    try:
        descriptor = open_in(there, _NOTES, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    finally:
        os.close(there)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def _notes_of(folder: str) -> list[dict[str, Any]]:
    """Return the notes of a cluster; none if its folder is gone, or another user's."""
    try:
        there = open_own(folder)
    except OSError:
        return []
    try:
        return _notes(there)
    finally:
        os.close(there)


def _notes(folder: int) -> list[dict[str, Any]]:
    """Return the notes in an open folder."""
    try:
        with open(open_in(folder, _NOTES, os.O_RDONLY), "rb") as file:
            lines = file.read().split(b"\n")
    except OSError:
        return []
    # What follows the last line end was cut off by the death of the driver, before its link.
    return [json.loads(line) for line in lines[:-1]]


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Keep other clusters from changing their links in a folder; wait for them for a while."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        due = time.monotonic() + _WITHIN
        while time.monotonic() < due:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            except OSError:
                pass  # a file system without locks
            break
        yield
    finally:
        os.close(descriptor)

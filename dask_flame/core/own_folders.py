"""Tell folders that only this user can change from those that others can (all places).

On a machine with several users, the name of a folder proves nothing: in ``/tmp`` anybody may make
one with the name of a folder that has just been removed. Therefore a folder is opened, and its
owner is checked, before anything in it is trusted, written or removed.

Imports only the standard library, because supervisors and ending runners have no time for more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import tempfile

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
#: Maximum number of links in a path, as for the kernel.
_MOST_LINKS = 40
#: What the path of every emptyDir volume contains (Kubernetes).
_EMPTY_DIR = "kubernetes.io~empty-dir"


def open_own(folder: str | os.PathLike[str]) -> int:
    """Open a folder that belongs to this user, and in which nobody else may write.

    Raises
    ------
    OSError
        There is none; it is a link; or it is another user's (PermissionError).
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        there = os.fstat(descriptor)
        if there.st_uid != os.geteuid() or there.st_mode & _OTHERS_WRITE:
            raise PermissionError(
                errno.EPERM, "it is another user's, or others may write in it", os.fspath(folder)
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_in(folder: int, name: str, flags: int) -> int:
    """Open or create a file in an open folder, readable by this user only; follow no link."""
    return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)


def make_temporary(prefix: str, place: str = "") -> str:
    """Make a folder that only this user can read and write; return its path.

    Parameters
    ----------
    prefix : str
        Beginning of its name.
    place : str, default ""
        Where to make it; empty: the default place for temporary files.

    Raises
    ------
    OSError
        It cannot be made, or the file system shows it as another user's.
    """
    path = tempfile.mkdtemp(prefix=prefix, dir=place or None)
    try:
        os.close(open_own(path))
    except OSError:
        with contextlib.suppress(OSError):
            os.rmdir(path)
        raise
    return path


def make_own(folder: str | os.PathLike[str]) -> None:
    """Make a folder that only this user can read and write, and those that are missing above it.

    One that is there is left as it is; it may be another user's.
    """
    path = os.path.abspath(folder)
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for part in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.mkdir(part, 0o700)


def why_unsafe(path: str | os.PathLike[str], *, alone: bool = False) -> str:
    """Return why other users could replace what is at a path; empty if they cannot.

    They cannot if each folder above it, and the thing itself, belongs to this user or to root, and
    nobody else may write there, or only with the sticky bit, as in ``/tmp``. What is below a folder
    of this user that others cannot enter is out of their reach.

    Parameters
    ----------
    path : path
        It exists.
    alone : bool, default False
        Whether others must not even make files beside those of this user, as in ``/tmp``.

    Raises
    ------
    OSError
        There is no such path, or it cannot be examined.
    """
    here, links, closed, trusted = os.sep, 0, "", _trusted_users()
    todo = [part for part in os.path.abspath(path).split(os.sep) if part]
    while True:
        there = os.lstat(here)
        if closed and not here.startswith(closed):
            closed = ""  # a link has led out of it
        if not closed and there.st_uid not in trusted:
            return f"{here} belongs to {_user(there.st_uid)}"
        if stat.S_ISLNK(there.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
            target = os.readlink(here)
            todo = [part for part in target.split(os.sep) if part] + todo
            here = os.sep if target.startswith(os.sep) else os.path.dirname(here)
        elif not closed:
            if why := _why_writable(here, there, alone=alone and not todo):
                return why
            if there.st_uid == os.geteuid() and not there.st_mode & (stat.S_IXGRP | stat.S_IXOTH):
                closed = os.path.join(here, "")
        if not todo:
            return ""
        part = todo.pop(0)
        if part == os.pardir:
            here = os.path.dirname(here)
        elif part != os.curdir:
            here = os.path.join(here, part)


def _why_writable(path: str, there: os.stat_result, *, alone: bool) -> str:
    mode = f"mode {stat.S_IMODE(there.st_mode):o}"
    everybody = there.st_mode & stat.S_IWOTH
    if not everybody and not (there.st_mode & stat.S_IWGRP and not _is_own_group(there.st_gid)):
        return ""
    who = "everybody" if everybody else f"group {_group(there.st_gid)}"
    if not stat.S_ISDIR(there.st_mode):
        return f"{who} may write to {path} ({mode})"
    if alone:
        return f"{who} may make files in {path} ({mode})"
    if there.st_mode & stat.S_ISVTX or _is_of_one_pod(path):
        return ""
    return f"{who} may replace what is in {path} ({mode}, without the sticky bit)"


def _trusted_users() -> set[int]:
    """Return the users who can change anything here anyway."""
    users = {0, os.geteuid()}
    if sys.platform == "linux":
        # In a user namespace the real root has no number, and appears as this one.
        with contextlib.suppress(OSError, ValueError), open("/proc/self/uid_map", "rb") as file:
            if file.read().split() != [b"0", b"0", b"4294967295"]:
                with open("/proc/sys/kernel/overflowuid", "rb") as number:
                    users.add(int(number.read()))
    return users


def _is_own_group(gid: int) -> bool:
    """Return whether a group is root's, or has this user alone, as where each user has a group."""
    if gid == 0:
        return True
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    alone = set(group.gr_mem) <= {user.pw_name}
    return user.pw_gid == gid and group.gr_name == user.pw_name and alone


def _is_of_one_pod(path: str) -> bool:
    """Return whether a folder is an emptyDir of a pod, which only its containers reach.

    Kubernetes lets everybody write there, without the sticky bit. That it is one is told by the
    kernel's list of mounts: where the volume is on the disk of its node, or that it is memory.
    """
    if sys.platform != "linux":
        return False
    with contextlib.suppress(OSError, ValueError), open("/proc/self/mountinfo") as file:
        for line in reversed(file.readlines()):  # a later mount hides an earlier one
            fields, _, kind = line.partition(" - ")
            _, _, _, root, mounted, *_ = fields.split()
            if mounted == path:
                in_memory = kind.startswith("tmpfs ") and "KUBERNETES_SERVICE_HOST" in os.environ
                return _EMPTY_DIR in root or in_memory
    return False


def _user(uid: int) -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)

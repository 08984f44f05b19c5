"""When files were written, compared with when a call ran (runner).

Runners may share a working directory, in which a later call has replaced the file of an earlier
one. A file is in doubt only if it cannot have been written while its call ran, whatever the
resolution of the times that its file system keeps.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import psutil

from dask_flame.files.tree import FILE, Item

#: Seconds by which the time of a file may be too early: some file systems keep even seconds.
_COARSE = 2.0
#: Seconds by which another machine's clock may differ, or by which it may write a file late.
_ELSEWHERE = 60.0
#: File systems whose times are of this machine's clock, and never later than the write.
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "f2fs", "jfs", "zfs"} | (
    {"overlay", "tmpfs", "ramfs", "apfs", "hfs"}  # of containers, memory and macOS
)

#: When a call began and ended, by this machine's clock.
Times = tuple[float, float]


def stamped(items: Iterable[Item]) -> tuple[list[Item], list[os.stat_result]]:
    """Return items with the times of their files, and what the system knows of these files."""
    found, states = [], []
    for item in items:
        if item.kind == FILE:
            there = os.stat(item.source)
            states.append(there)
            found.append(replace(item, written=there.st_mtime_ns))
        else:
            found.append(item)
    return found, states


def doubt(
    root: str, items: Sequence[Item], states: Sequence[os.stat_result], times: Times | None
) -> dict[str, Any]:
    """Return what the scheduler needs to tell whether a call has written what is at a path.

    Returns
    -------
    dict
        ``late`` or ``early``, if the last file was written after or before the call: the path of
        this file, the time, and the seconds that lie between. ``same``, if the path is a file:
        what identifies it in its present state, when it was written, and when the call began.
    """
    if times is None or not states:
        return {}
    began, ended = times
    files = [item for item in items if item.kind == FILE]
    found: dict[str, Any] = {}
    if not files[0].path:
        state = states[0]
        found["same"] = (
            [socket.gethostname(), os.fsencode(root), state.st_mtime_ns, state.st_size],
            state.st_mtime,
            began,
        )
    # A program may set the time of a file (tar, cp -p), but not that of its last change.
    number, late = _last([min(state.st_mtime, state.st_ctime) for state in states])
    if late > ended and late > ended + _slack(root):
        return {**found, "late": (_path(root, files[number]), late, late - ended)}
    number, early = _last([max(state.st_mtime, state.st_ctime) for state in states])
    if early < began - _COARSE and early < began - _COARSE - _slack(root):
        return {**found, "early": (_path(root, files[number]), early, began - early)}
    return found


def _last(times: Sequence[float]) -> tuple[int, float]:
    return max(enumerate(times), key=lambda one: one[1])


def _path(root: str, item: Item) -> bytes:
    return os.fsencode(os.path.join(root, item.path) if item.path else root)


def _slack(root: str) -> float:
    """Return by how many seconds the times of files may differ from this machine's clock."""
    path = os.path.realpath(root)
    longest, kind = 0, ""
    for part in psutil.disk_partitions(all=True):
        mounted = part.mountpoint
        # A later mount at the same place hides an earlier one.
        if os.path.commonpath([mounted, path]) == mounted and len(mounted) >= longest:
            longest, kind = len(mounted), part.fstype
    return 0.0 if kind in _LOCAL else _ELSEWHERE

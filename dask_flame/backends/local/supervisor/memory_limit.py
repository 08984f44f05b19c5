"""The limit of a runner's memory, watched from outside (guard).

Dask spills and pauses by ``memory=`` from within the runner: it does not see a single call that
allocates while it holds the GIL, and it ends nothing without a nanny. A limit that the kernel
enforces would be exact, but none is available to everybody: control groups need rights that users
do not have, and the limits of a process count addresses rather than memory, of which CUDA and torch
reserve plenty. So the guard looks several times a second at what a runner's processes have in use.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping

from dask_flame.backends.local.supervisor.runners import Runner

#: Seconds between two looks.
EVERY = 0.2
#: Looks after which it is seen anew which processes there are.
_PROCESSES_EVERY = 5
#: How many times as long as an exact look has taken there is none: it holds up the process.
_PAUSE = 20
_PAGE = os.sysconf("SC_PAGE_SIZE")


class MemoryLimit:
    """Looks at the memory that runners with a limit have in use.

    First at what is cheap to know, which counts what processes share once for each. Only where that
    is beyond the limit is it found out what they really have.
    """

    def __init__(self) -> None:
        self.due = 0.0
        self.watches = False  # as of the last look
        self._looks = 0
        self._below: Mapping[int, list[int]] = {}
        self._not_before: dict[str, float] = {}

    def look(self, runners: Iterable[Runner]) -> list[tuple[Runner, int]]:
        """Runners that have more in use than they may, and how much, in bytes."""
        now = time.monotonic()
        if now < self.due or sys.platform != "linux":
            return []
        limited = [r for r in runners if r.memory and r.process is not None and not r.killed]
        self.watches = bool(limited)
        if not limited:
            return []
        self.due = now + EVERY
        if self._looks % _PROCESSES_EVERY == 0:
            self._below = _children()
        self._looks += 1
        used = [(runner, self._used(runner, now)) for runner in limited]
        return [(runner, size) for runner, size in used if size > runner.memory]

    def _used(self, runner: Runner, now: float) -> int:
        assert runner.process is not None
        pids = list(_tree(runner.process.pid, self._below))
        used = sum(map(_resident, pids))
        if used <= runner.memory or now < self._not_before.get(runner.name, 0.0):
            return 0
        begun = time.monotonic()
        used = sum(map(_proportional, pids))
        end = time.monotonic()
        self._not_before[runner.name] = end + _PAUSE * (end - begun)
        return used

    def forget(self, runner: Runner) -> None:
        """A runner has ended."""
        self._not_before.pop(runner.name, None)


def _children() -> Mapping[int, list[int]]:
    """The processes of this machine, by their parents."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                children[int(file.read().rpartition(b")")[2].split()[1])].append(int(entry))
    return children


def _tree(pid: int, children: Mapping[int, list[int]]) -> Iterable[int]:
    yield pid
    for child in children.get(pid, ()):
        yield from _tree(child, children)


def _resident(pid: int) -> int:
    """What a process has in memory, shared or not."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE
    return 0


def _proportional(pid: int) -> int:
    """The same, with what is shared divided by the number of those who share it.

    Without what is only read from files, which the kernel takes back when it needs to.
    """
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        words = [line.split() for line in file]
        sizes = {line[0]: int(line[1]) * 1024 for line in words if line[-1] == b"kB"}
        if b"Pss_Anon:" in sizes:
            return sizes[b"Pss_Anon:"] + sizes[b"Pss_Shmem:"]
        return sizes[b"Pss:"]
    return 0  # it has just ended, or is somebody else's

"""Enforce a runner's memory limit from outside (supervisor).

Dask spills and pauses within the runner, by ``memory=``. It does not notice a single call that
allocates while it holds the GIL, and without a nanny it ends no worker. A limit enforced by the
kernel would be exact, but is not generally available: control groups need privileges, and resource
limits count address space rather than memory, of which CUDA and torch reserve plenty. Therefore the
supervisor measures the memory of a runner's processes several times a second.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping

from dask_flame.backends.local.supervisor.runners import Runner

#: Seconds between two measurements.
EVERY = 0.2
#: Number of measurements between two listings of all processes.
_PROCESSES_EVERY = 5
#: Pause after an exact measurement, as a multiple of its duration: it stalls the process.
_PAUSE = 20
_PAGE = os.sysconf("SC_PAGE_SIZE")


class MemoryLimit:
    """Measure the memory of runners with a limit.

    First by a cheap measure that counts shared memory once for each process. Only if that exceeds
    the limit, the exact use is measured.
    """

    def __init__(self) -> None:
        self.due = 0.0
        self.watches = False  # whether any runner had a limit at the last measurement
        self._looks = 0
        self._below: Mapping[int, list[int]] = {}
        self._not_before: dict[str, float] = {}

    def look(self, runners: Iterable[Runner]) -> list[tuple[Runner, int]]:
        """Return runners beyond their limit, with their memory use in bytes."""
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
        """Drop the state of a runner that has ended."""
        self._not_before.pop(runner.name, None)


def _children() -> Mapping[int, list[int]]:
    """Return the child processes of each process of this machine."""
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
    """Return the resident memory of a process, shared or not, in bytes."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE
    return 0


def _proportional(pid: int) -> int:
    """Return the memory of a process, with shared memory divided by the number of its users.

    Without pages of files, which the kernel drops on demand.
    """
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        words = [line.split() for line in file]
        sizes = {line[0]: int(line[1]) * 1024 for line in words if line[-1] == b"kB"}
        if b"Pss_Anon:" in sizes:
            return sizes[b"Pss_Anon:"] + sizes[b"Pss_Shmem:"]
        return sizes[b"Pss:"]
    return 0  # it has just ended, or belongs to another user

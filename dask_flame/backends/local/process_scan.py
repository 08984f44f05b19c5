"""The processes of this user's local clusters, known by what they show (command line).

A guard is known by its command line, which says whose it is, and its driver by being its parent:
the kernel gives a child whose parent is dead to another. What runners are and have started is known
by the mark in its environment. Processes of other users, and of other containers, are not looked
at.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dask_flame.core.folder_locks import LOCK
from dask_flame.core.processes import MARK, mark_of, names_in

#: What the names of scratch folders begin with.
PREFIX = "dask-flame-"
_GUARD = os.path.join("dask_flame", "backends", "local", "supervisor", "__main__.py")


@dataclass(frozen=True)
class SupervisorProcess:
    """A guard that lives.

    Attributes
    ----------
    process : psutil.Process
    cluster : str
        What the marks of its runners begin with.
    driver : int
        The process that has started it.
    started : float
        Unix time, in seconds.
    """

    process: psutil.Process
    cluster: str
    driver: int
    started: float

    @property
    def has_driver(self) -> bool:
        """Whether its driver lives; its number alone might be another process's by now."""
        with contextlib.suppress(psutil.Error):
            return self.process.ppid() == self.driver
        return False

    @property
    def scratch(self) -> Path | None:
        """Its folder: where the file is that it keeps locked, by a name that is its cluster's."""
        with contextlib.suppress(psutil.Error):
            for file in self.process.open_files():
                folder = Path(file.path).parent
                if os.path.basename(file.path) == LOCK and cluster_of(folder) == self.cluster:
                    return folder
        return None

    @property
    def busy(self) -> bool:
        """Whether there is a process below it."""
        with contextlib.suppress(psutil.Error):
            return bool(self.process.children())
        return False


@dataclass(frozen=True)
class Marked:
    """A process that carries a mark: a runner, or what its calls have started.

    Attributes
    ----------
    process : psutil.Process
    cluster, runner : str
        Empty where the mark is a template's.
    started : float
        Unix time, in seconds.
    """

    process: psutil.Process
    cluster: str
    runner: str
    started: float


@dataclass
class ProcessScan:
    """What there is.

    Attributes
    ----------
    guards : dict of str to SupervisorProcess
        By their clusters.
    alike : set of int
        Numbers of all processes that look like guards, those included.
    marked : list of Marked
    templates : list of Marked
        What carries the mark of no runner: templates, and what their imports have started.
    """

    guards: dict[str, SupervisorProcess] = field(default_factory=dict)
    alike: set[int] = field(default_factory=set)
    marked: list[Marked] = field(default_factory=list)
    templates: list[Marked] = field(default_factory=list)

    def of(self, cluster: str) -> list[Marked]:
        """What carries a mark of this cluster."""
        return [m for m in self.marked if m.cluster == cluster]

    def abandoned(self) -> list[Marked]:
        """Templates, and what these have started, that are not below a guard."""
        left = []
        for marked in self.templates:
            with contextlib.suppress(psutil.Error):
                if not self.alike.intersection(p.pid for p in marked.process.parents()):
                    left.append(marked)
        return left


def look() -> ProcessScan:
    """Look at all processes of this user."""
    census = ProcessScan()
    for process in _mine():
        with contextlib.suppress(psutil.Error, OSError):
            if (guard := _guard(process)) is not None:
                census.alike.add(process.pid)
                there = census.guards.get(guard.cluster)
                if there is None or _before(guard, there):
                    census.guards[guard.cluster] = guard
                continue
            if MARK not in process.environ():
                continue
            cluster, runner = names_in(mark_of(process))
            marked = Marked(process, cluster, runner, process.create_time())
            (census.marked if cluster else census.templates).append(marked)
    return census


def _before(guard: SupervisorProcess, other: SupervisorProcess) -> bool:
    """Whether this one of two that look like a cluster's guard is it."""
    # A template looks like its guard, for the moment in which it is forked from it.
    if guard.process.pid == other.process.ppid():
        return True
    # Anybody may be called like one: what lives, and has a folder of this cluster, comes first.
    return (guard.has_driver, guard.scratch is not None) > (
        other.has_driver,
        other.scratch is not None,
    )


def cluster_of(folder: Path) -> str:
    """The cluster that a scratch folder was made for, by its name; empty where it is none."""
    name = folder.name.removeprefix(PREFIX)
    return name.rpartition("-")[0] if name != folder.name else ""


def send(process: psutil.Process, number: int) -> bool:
    """Send a signal to this very process, not to one that has its number by now; whether it was."""
    descriptor, hold = None, getattr(os, "pidfd_open", None)
    try:
        if hold is not None:
            # From here on its number is not given to another one unnoticed.
            descriptor = hold(process.pid)
        if not process.is_running():
            return False
        if descriptor is None:
            process.send_signal(number)
        else:
            signal.pidfd_send_signal(descriptor, number)
    except (psutil.Error, OSError):
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


def described(pid: int) -> str:
    """A process in a few words, without its arguments: they may be secret."""
    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        words = []
    program = words[0] if words else ""
    rest = words[1:]
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option == "-m" and rest:
            break
        if option.startswith("-c"):
            rest = []
    if rest:
        program = rest[0]
    name = os.path.basename(program)
    return f"process {pid} ({name})" if name else f"process {pid}"


def _mine() -> Iterator[psutil.Process]:
    user, place = os.getuid(), _place(os.getpid())
    # Nobody ends who asks.
    asks = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in asks or process.uids().real != user:
                continue
            if process.status() != psutil.STATUS_ZOMBIE and _place(process.pid) == place:
                yield process


def _place(pid: int) -> str:
    """Which processes this one counts among: those of its container."""
    return os.readlink(f"/proc/{pid}/ns/pid") if sys.platform == "linux" else ""


def _guard(process: psutil.Process) -> SupervisorProcess | None:
    words = process.cmdline()
    # Between "-P" and the program are the flags that the driver's interpreter has.
    program = next((n for n, word in enumerate(words) if word.endswith(_GUARD)), 0)
    if program < 2 or words[1] != "-P" or len(words) < program + 4:
        return None
    descriptor, mark, driver = words[program + 1 : program + 4]
    if not (descriptor.isdigit() and driver.isdigit()):
        return None
    return SupervisorProcess(process, mark.partition("/")[0], int(driver), process.create_time())

"""Find the processes of this user's local clusters (command line).

A supervisor is recognized by its command line, which names its cluster and its driver. The driver
lives as long as it is the supervisor's parent, because the kernel gives orphans another parent.
Runners and the processes that they started are recognized by the mark in their environment.
Processes of other users and in other containers are ignored.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dask_flame.core.folder_locks import LOCK
from dask_flame.core.processes import MARK, is_mine, mark_of, names_in

#: Prefix of the names of scratch folders.
PREFIX = "dask-flame-"
_SUPERVISOR = os.path.join("dask_flame", "backends", "local", "supervisor", "__main__.py")


@dataclass(frozen=True)
class SupervisorProcess:
    """A living supervisor.

    Attributes
    ----------
    process : psutil.Process
    cluster : str
        Prefix of the marks of its runners.
    driver : int
        The process that started it.
    started : float
        Unix time, in seconds.
    """

    process: psutil.Process
    cluster: str
    driver: int
    started: float

    @property
    def has_driver(self) -> bool:
        """Whether its driver lives; another process may have reused the driver's id."""
        with contextlib.suppress(psutil.Error):
            return self.process.ppid() == self.driver
        return False

    @property
    def scratch(self) -> Path | None:
        """Its folder, found by the open lock file, if the folder's name is of its cluster."""
        with contextlib.suppress(psutil.Error):
            for file in self.process.open_files():
                folder = Path(file.path).parent
                if os.path.basename(file.path) == LOCK and cluster_of(folder) == self.cluster:
                    return folder
        return None

    @property
    def busy(self) -> bool:
        """Whether it has child processes."""
        with contextlib.suppress(psutil.Error):
            return bool(self.process.children())
        return False


@dataclass(frozen=True)
class Marked:
    """A process with a mark: a runner, or a process that its calls have started.

    Attributes
    ----------
    process : psutil.Process
    cluster, runner : str
        Empty if the mark is a template's.
    started : float
        Unix time, in seconds.
    """

    process: psutil.Process
    cluster: str
    runner: str
    started: float


@dataclass
class ProcessScan:
    """The processes found.

    Attributes
    ----------
    supervisors : dict of str to SupervisorProcess
        By cluster.
    alike : set of int
        Ids of all processes that look like supervisors, including `supervisors`.
    marked : list of Marked
    templates : list of Marked
        Processes with a template's mark: templates, and processes started by their imports.
    """

    supervisors: dict[str, SupervisorProcess] = field(default_factory=dict)
    alike: set[int] = field(default_factory=set)
    marked: list[Marked] = field(default_factory=list)
    templates: list[Marked] = field(default_factory=list)

    def of(self, cluster: str) -> list[Marked]:
        """Return the processes with a mark of this cluster."""
        return [m for m in self.marked if m.cluster == cluster]

    def abandoned(self) -> list[Marked]:
        """Return templates, and processes started by them, that have no supervisor above."""
        left = []
        for marked in self.templates:
            with contextlib.suppress(psutil.Error):
                if not self.alike.intersection(p.pid for p in marked.process.parents()):
                    left.append(marked)
        return left


def scan_processes() -> ProcessScan:
    """Find the processes of all clusters of this user."""
    scan = ProcessScan()
    for process in _mine():
        with contextlib.suppress(psutil.Error, OSError):
            if (supervisor := _supervisor(process)) is not None:
                scan.alike.add(process.pid)
                there = scan.supervisors.get(supervisor.cluster)
                if there is None or _before(supervisor, there):
                    scan.supervisors[supervisor.cluster] = supervisor
                continue
            if MARK not in process.environ():
                continue
            cluster, runner = names_in(mark_of(process))
            marked = Marked(process, cluster, runner, process.create_time())
            (scan.marked if cluster else scan.templates).append(marked)
    return scan


def _before(supervisor: SupervisorProcess, other: SupervisorProcess) -> bool:
    """Return whether the first of two candidates is the supervisor of their cluster."""
    # Just after a template was forked from its supervisor, both look the same.
    if supervisor.process.pid == other.process.ppid():
        return True
    # Any process can imitate the command line: prefer one with a driver and a folder.
    return (supervisor.has_driver, supervisor.scratch is not None) > (
        other.has_driver,
        other.scratch is not None,
    )


def cluster_of(folder: Path) -> str:
    """Return the cluster that a scratch folder belongs to, by its name; empty if it has none."""
    name = folder.name.removeprefix(PREFIX)
    return name.rpartition("-")[0] if name != folder.name else ""


def described(pid: int) -> str:
    """Return a short description of a process, without arguments, which may be secret."""
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
    # Leave out the calling process and its ancestors, so that it cannot end itself.
    asks = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in asks or not is_mine(process):
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _supervisor(process: psutil.Process) -> SupervisorProcess | None:
    words = process.cmdline()
    # The flags of the driver's interpreter are between "-P" and the program.
    program = next((n for n, word in enumerate(words) if word.endswith(_SUPERVISOR)), 0)
    if program < 2 or words[1] != "-P" or len(words) < program + 4:
        return None
    descriptor, mark, driver = words[program + 1 : program + 4]
    if not (descriptor.isdigit() and driver.isdigit()):
        return None
    return SupervisorProcess(process, mark.partition("/")[0], int(driver), process.create_time())

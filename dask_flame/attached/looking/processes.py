"""List this process and those that it has started (all places)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from dask_flame.attached.looking.tables import framed, html, html_table, shortened, size, text_table
from dask_flame.core.redaction import veiled
from dask_flame.core.terminal_text import plain

#: Seconds over which the use of the processor is measured.
_MEASURED = 0.1
#: Maximum length of a command line, and number of processes.
_COMMAND, _MOST = 200, 500


@dataclass(frozen=True)
class Process:
    """A process.

    Attributes
    ----------
    pid : int
    parent : int
    depth : int
        0 for the process that was looked at, 1 for those that it has started.
    command : str
        Its command line, without secrets.
    cpu : float
        Use of the processor at the moment: 1.0 is one core.
    memory : int
        Bytes in use.
    threads : int
    started : float
        Unix time, in seconds.
    state : str
    """

    pid: int
    parent: int
    depth: int
    command: str
    cpu: float
    memory: int
    threads: int
    started: float
    state: str


@dataclass(frozen=True, repr=False)
class Processes:
    """A process and those that it has started.

    Attributes
    ----------
    process : str
    at : float
        Unix time, in seconds.
    processes : tuple of Process
        Each is followed by those that it has started.
    """

    process: str
    at: float
    processes: tuple[Process, ...]

    def __iter__(self) -> Iterator[Process]:
        return iter(self.processes)

    def __len__(self) -> int:
        return len(self.processes)

    @property
    def title(self) -> str:
        total = sum(process.memory for process in self.processes)
        count = len(self.processes)
        plural = "" if count == 1 else "es"
        return f"{self.process or 'a process'}: {count:,} process{plural}, {size(total)}"

    def _rows(self) -> Iterator[list[str]]:
        for each in self.processes:
            yield [
                str(each.pid),
                f"{100 * each.cpu:.0f} %",
                size(each.memory),
                str(each.threads),
                each.state,
                f"{'  ' * each.depth}{each.command}",
            ]

    def __repr__(self) -> str:
        header = ["PID", "CPU", "MEMORY", "THREADS", "STATE", "COMMAND"]
        return f"{plain(self.title)}\n\n{text_table(header, self._rows())}"

    def _repr_html_(self) -> str:
        return framed(*self.parts())

    def parts(self) -> Iterator[str]:
        """Yield the parts of the same as HTML."""
        header = ["process", "CPU", "memory", "threads", "state", "command"]
        yield f"<p><b>{html(self.title)}</b></p>"
        yield html_table(header, self._rows(), numbers=(0, 1, 2, 3))


def processes(process: str = "") -> Processes:
    """Return this process and those that it has started, which takes a tenth of a second.

    Parameters
    ----------
    process : str, default ""
        The name of this process, to show.
    """
    root = psutil.Process()
    tree = list(_tree(root))
    before = {each.pid: _used(each) for each, _ in tree}
    began = time.monotonic()
    time.sleep(_MEASURED)
    elapsed = time.monotonic() - began
    found = []
    for each, depth in tree:
        with contextlib.suppress(psutil.Error), each.oneshot():
            used = _used(each) - before[each.pid]
            found.append(
                Process(
                    pid=each.pid,
                    parent=each.ppid(),
                    depth=depth,
                    command=_command(each),
                    cpu=max(0.0, used) / elapsed,
                    memory=each.memory_info().rss,
                    threads=each.num_threads(),
                    started=each.create_time(),
                    state=each.status(),
                )
            )
    return Processes(process, time.time(), tuple(found))


def _tree(root: psutil.Process) -> Iterator[tuple[psutil.Process, int]]:
    """Yield a process and those below it, each before its own."""
    children: dict[int, list[psutil.Process]] = {}
    with contextlib.suppress(psutil.Error):
        for child in root.children(recursive=True)[:_MOST]:
            with contextlib.suppress(psutil.Error):
                children.setdefault(child.ppid(), []).append(child)
    todo = [(root, 0)]
    while todo:
        process, depth = todo.pop()
        yield process, depth
        below = sorted(children.pop(process.pid, ()), key=lambda p: -p.pid)
        todo += [(child, depth + 1) for child in below]


def _used(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _command(process: psutil.Process) -> str:
    words = process.cmdline() or [process.name()]
    words[0] = os.path.basename(words[0]) or words[0]
    return shortened(veiled(plain(" ".join(" ".join(words).split()))), _COMMAND)

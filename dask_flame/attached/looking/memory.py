"""Measure the memory of this process, and what it is used for (all places)."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import sys
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from dask_flame.attached.looking.tables import (
    clock,
    counted,
    framed,
    html,
    html_table,
    size,
    text_table,
)
from dask_flame.core.terminal_text import plain

#: Objects between two looks at the clock.
_STEP = 500


@dataclass(frozen=True)
class TypeUse:
    """The objects of one type.

    Attributes
    ----------
    name : str
        With its module, unless that is ``builtins``.
    count : int
    size : int
        Bytes of the objects themselves (``sys.getsizeof``), without those that they refer to.
    """

    name: str
    count: int
    size: int


@dataclass(frozen=True)
class LineUse:
    """What a line has allocated and not released, as :mod:`tracemalloc` knows.

    Attributes
    ----------
    place : str
        File and line.
    count : int
    size : int
        Bytes.
    """

    place: str
    count: int
    size: int


@dataclass(frozen=True, repr=False)
class Memory:
    """The memory of a process.

    Attributes
    ----------
    process : str
    pid : int
    at : float
        Unix time, in seconds.
    rss : int
        Bytes in use, including those that are shared with other processes.
    pss : int or None
        The same, where shared bytes are divided among the processes; None where it is not known.
    peak : int
        The highest `rss` so far.
    objects : int
        Number of counted objects.
    frozen : int
        Number of objects that were not counted, as they are from before the process was forked.
    types : tuple of TypeUse
        Those that take most.
    complete : bool
        Whether all objects were counted within the time limit.
    lines : tuple of LineUse
        Those that have allocated most; empty unless :mod:`tracemalloc` is on.
    """

    process: str
    pid: int
    at: float
    rss: int
    pss: int | None
    peak: int
    objects: int
    types: tuple[TypeUse, ...]
    complete: bool
    lines: tuple[LineUse, ...] = ()
    traced: bool = False
    frozen: int = 0

    @property
    def title(self) -> str:
        shared = f" (PSS {size(self.pss)})" if self.pss else ""
        return (
            f"{self.process or 'a process'}, process {self.pid}, at {clock(self.at)}: "
            f"{size(self.rss)}{shared}, at most {size(self.peak)} so far"
        )

    @property
    def note(self) -> str:
        words = f"{counted(self.objects, 'object')} counted"
        if not self.complete:
            words += " within the time limit, not all"
        if self.frozen:
            words += f"; {self.frozen:,} are from before the process was forked, and not counted"
        return words

    @property
    def _traces(self) -> str:
        return "" if self.traced else "Lines need tracemalloc: tracemalloc.start() in the process."

    def __repr__(self) -> str:
        rows = [[t.name, f"{t.count:,}", size(t.size)] for t in self.types]
        parts = [plain(self.title), self.note, "", text_table(["TYPE", "COUNT", "SIZE"], rows)]
        lines = [[each.place, f"{each.count:,}", size(each.size)] for each in self.lines]
        parts += ["", text_table(["ALLOCATED AT", "COUNT", "SIZE"], lines) if lines else ""]
        return "\n".join([*parts, self._traces]).rstrip()

    def _repr_html_(self) -> str:
        return framed(*self.parts())

    def parts(self) -> Iterator[str]:
        """Yield the parts of the same as HTML."""
        yield f"<p><b>{html(self.title)}</b><br><span class=quiet>{html(self.note)}</span></p>"
        rows = [[t.name, f"{t.count:,}", size(t.size)] for t in self.types]
        yield html_table(["type", "objects", "size"], rows, numbers=(1, 2))
        if self.lines:
            rows = [[each.place, f"{each.count:,}", size(each.size)] for each in self.lines]
            yield html_table(["allocated at", "blocks", "size"], rows, numbers=(1, 2))
        if self._traces:
            yield f"<p class=quiet>{html(self._traces)}</p>"


def memory(process: str = "", *, most: int = 20, limit: float = 1.0) -> Memory:
    """Return what the memory of this process is used for.

    Parameters
    ----------
    process : str, default ""
        The name of this process, to show.
    most : int, default 20
        Maximum number of types, and of lines.
    limit : float, default 1.0
        Seconds after which no more objects are counted. The other threads go on meanwhile.

    Notes
    -----
    pympler and objgraph count objects, too, but have no time limit: pympler takes three seconds for
    340,000 objects, in a process that shall not be disturbed. Here each container that the garbage
    collector knows is counted, and everything that these refer to.
    """
    with contextlib.suppress(psutil.Error):
        rss = psutil.Process().memory_info().rss
    types, objects, complete = _by_type(limit)
    biggest = sorted(types.values(), key=lambda use: -use.size)[:most]
    traced = tracemalloc.is_tracing()
    return Memory(
        process=process,
        pid=os.getpid(),
        at=time.time(),
        rss=rss,
        pss=_pss(),
        peak=max(rss, _peak()),
        objects=objects,
        types=tuple(biggest),
        complete=complete,
        lines=tuple(_traced_lines(most)) if traced else (),
        traced=traced,
        frozen=gc.get_freeze_count(),
    )


def _pss() -> int | None:
    """Return the proportional set size (Linux)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return None


def _peak() -> int:
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


def _by_type(limit: float) -> tuple[dict[str, TypeUse], int, bool]:
    """Return counts and sizes by type, the number of objects, and whether these are all."""
    until = time.monotonic() + limit
    counts: dict[type, list[int]] = {}
    seen: set[int] = set()
    objects, complete = 0, True
    tracked = gc.get_objects()
    own = {id(tracked), id(counts), id(seen)}
    for i, each in enumerate(tracked):
        if i % _STEP == 0 and time.monotonic() > until:
            complete = False
            break
        if id(each) in own:
            continue
        _count(each, counts)
        objects += 1
        for inner in gc.get_referents(each):
            # The collector does not know texts, numbers and arrays.
            if not gc.is_tracked(inner) and id(inner) not in seen:
                seen.add(id(inner))
                _count(inner, counts)
                objects += 1
    del tracked
    found: dict[str, TypeUse] = {}
    for kind, (count, taken) in counts.items():
        name = _name_of(kind)
        before = found.get(name)
        if before is not None:
            count, taken = count + before.count, taken + before.size
        found[name] = TypeUse(name, count, taken)
    return found, objects, complete


def _count(each: object, counts: dict[type, list[int]]) -> None:
    kind = type(each)
    entry = counts.get(kind)
    if entry is None:
        entry = counts[kind] = [0, 0]
    entry[0] += 1
    # `__sizeof__` may be a method of the application's.
    with contextlib.suppress(Exception):
        entry[1] += sys.getsizeof(each)


def _name_of(kind: type) -> str:
    # Of `type` itself: the class of a class may replace these attributes.
    try:
        module = type.__dict__["__module__"].__get__(kind)
        name = type.__dict__["__qualname__"].__get__(kind)
    except Exception:
        return "?"
    return str(name) if module == "builtins" else f"{module}.{name}"


def _traced_lines(most: int) -> Iterator[LineUse]:
    snapshot = tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.Filter(inclusive=False, filename_pattern=tracemalloc.__file__)]
    )
    for found in snapshot.statistics("lineno")[:most]:
        frame = found.traceback[0]
        yield LineUse(f"{frame.filename}:{frame.lineno}", found.count, found.size)

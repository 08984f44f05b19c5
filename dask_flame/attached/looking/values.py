"""The threads and the asyncio tasks of a process, with their lines (all places)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dask_flame.attached.looking.tables import clock, counted, framed, html
from dask_flame.core.terminal_text import plain


@dataclass(frozen=True)
class Line:
    """A line that is being executed.

    Attributes
    ----------
    file : str
    line : int
    function : str
    source : str
        The text of the line, without secrets; empty if it cannot be read.
    """

    file: str
    line: int
    function: str
    source: str = ""

    def __str__(self) -> str:
        where = f'  File "{plain(self.file)}", line {self.line}, in {plain(self.function)}'
        return f"{where}\n    {plain(self.source)}" if self.source else where


@dataclass(frozen=True)
class ThreadStack:
    """A thread, and what it executes.

    Attributes
    ----------
    name : str
    ident : int
        Python's number of it.
    native : int or None
        The operating system's.
    lines : tuple of Line
        The outermost comes first.
    idle : bool
        Whether it waits for work.
    call : str
        The name of the call that it runs; empty if it runs none.
    daemon : bool
    state : str
        What the operating system says of it, where only that is known.
    """

    name: str
    ident: int
    native: int | None
    lines: tuple[Line, ...]
    idle: bool = False
    call: str = ""
    daemon: bool = False
    state: str = ""

    @property
    def title(self) -> str:
        words = [self.name]
        if self.call:
            words.append(f"runs {self.call}")
        if self.idle:
            words.append("idle")
        if self.state:
            words.append(self.state)
        return ", ".join(words)


@dataclass(frozen=True)
class TaskStack:
    """An asyncio task, and where it waits.

    Attributes
    ----------
    name : str
    coroutine : str
        Qualified name of its coroutine.
    loop : str
        Name of the thread of its event loop.
    lines : tuple of Line
        The coroutine comes first, and then what it awaits.
    running : bool
        Whether it runs at this moment.
    call : str
        The name of the call that it runs; empty if it runs none.
    """

    name: str
    coroutine: str
    loop: str
    lines: tuple[Line, ...]
    running: bool = False
    call: str = ""

    @property
    def title(self) -> str:
        # Workers name the tasks of calls by the whole keys.
        words = [f"runs {self.call}" if self.call else f"{self.name} ({self.coroutine})"]
        words.append("running" if self.running else "waiting")
        return ", ".join(words)


@dataclass(frozen=True, repr=False)
class Stacks:
    """What a process does at one moment.

    Attributes
    ----------
    process : str
        Name of the process.
    pid : int
    at : float
        Unix time, in seconds.
    threads : tuple of ThreadStack
        Those that run calls come first, then the others that are not idle.
    tasks : tuple of TaskStack
        Those of all running event loops.
    how : str
        ``"inside"``: by the process itself; ``"py-spy"``: by another one; ``"system"``: only what
        the operating system knows, without lines.
    note : str
        What could not be found, and why.
    """

    process: str
    pid: int
    at: float
    threads: tuple[ThreadStack, ...]
    tasks: tuple[TaskStack, ...] = ()
    how: str = "inside"
    note: str = ""

    @property
    def title(self) -> str:
        idle = sum(thread.idle for thread in self.threads)
        counts = [counted(len(self.threads), "thread") + (f" ({idle} idle)" if idle else "")]
        if self.tasks:
            counts.append(counted(len(self.tasks), "task"))
        name = self.process or "a process"
        return f"{name}, process {self.pid}, at {clock(self.at)}: {', '.join(counts)}"

    @property
    def idle(self) -> tuple[ThreadStack, ...]:
        """The threads that wait for work."""
        return tuple(thread for thread in self.threads if thread.idle)

    @property
    def busy(self) -> tuple[ThreadStack, ...]:
        """The threads that do not wait for work."""
        return tuple(thread for thread in self.threads if not thread.idle)

    def __repr__(self) -> str:
        return "\n".join(self._text())

    def _text(self) -> Iterator[str]:
        yield plain(self.title)
        if self.note:
            yield f"({plain(self.note)})"
        for thread in self.busy:
            yield f"\nThread {plain(thread.title)}"
            yield from map(str, thread.lines)
        for task in self.tasks:
            yield f"\nTask {plain(task.title)}"
            yield from map(str, task.lines)
        if idle := self.idle:
            yield f"\nIdle: {', '.join(plain(thread.name) for thread in idle)}"

    def _repr_html_(self) -> str:
        return framed(*self.parts())

    def parts(self) -> Iterator[str]:
        """Yield the parts of the same as HTML."""
        yield f"<p><b>{html(self.title)}</b></p>"
        if self.note:
            yield f"<p class=bad>{html(self.note)}</p>"
        for thread in self.busy:
            title = f"<b>{html(thread.title)}</b>"
            yield _details(f"thread {thread.name}", title, thread.lines, opened=True)
        for task in self.tasks:
            title = f"task {html(task.title)}"
            yield _details(f"task {task.name}", title, task.lines, opened=bool(task.call))
        for thread in self.idle:
            title = f"<span class=quiet>{html(thread.title)}</span>"
            yield _details(f"thread {thread.name}", title, thread.lines)


def _details(key: str, title: str, lines: tuple[Line, ...], *, opened: bool = False) -> str:
    items = "".join(
        f"<li><code>{html(line.source) or '…'}</code> <span class=quiet>{html(line.function)}, "
        f"{html(line.file)}:{line.line}</span></li>"
        for line in reversed(lines)
    )
    # By the key, a live page knows what its user has opened.
    tag = f'<details data-key="{html(key)}"{" open" * opened}>'
    return f"{tag}<summary>{title}</summary><ol>{items}</ol></details>"

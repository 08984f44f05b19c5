"""Redirect the standard streams of a process to the cells that write to them (runner, application).

While a cell runs, the process's streams are replaced by ones that look who writes: code in the
context of a cell writes to its notebook, all other code to the streams that were there before. Code
that holds one of those, such as the handlers of :mod:`logging`, is not affected at all.

Cells of several notebooks, and of several kinds, may run in one process and end in any order: a
runner executes ``%%flame`` cells, and can be attached to at the same time. They share one
replacement, which the first installs and the last removes.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar


class CellOutputs(Protocol):
    """The output of one cell."""

    @property
    def closed(self) -> bool:
        """Whether the cell takes no more output. Its code then writes to the original streams."""

    def text(self, stream: str, text: str) -> None:
        """Add text that was written to ``stdout`` or ``stderr``."""

    def takes(self, thread: int) -> bool:
        """Return whether the output of a thread without a context is this cell's.

        A thread does not inherit the context of the code that started it. This is only called while
        no other cell runs in the process.
        """

    def no_input(self) -> Exception:
        """Return the error of a cell that reads from the standard input."""


_Outputs = TypeVar("_Outputs")
#: Outputs of the cell in whose context the code runs.
_own: ContextVar[CellOutputs | None] = ContextVar("dask_flame_cell", default=None)
_lock = threading.Lock()
#: Outputs of the cells in this process. While there is one, the standard streams are redirected.
_open: list[CellOutputs] = []
_NAMES = ("stdout", "stderr", "stdin")


@contextlib.contextmanager
def redirected(outputs: CellOutputs) -> Iterator[None]:
    """Redirect the output of this context to a cell."""
    with _lock:
        if not _open:
            sys.stdout = _Stream("stdout", sys.stdout)
            sys.stderr = _Stream("stderr", sys.stderr)
            sys.stdin = _Input(sys.stdin)
        _open.append(outputs)
    token = _own.set(outputs)
    try:
        yield
    finally:
        _own.reset(token)
        with _lock:
            if outputs in _open:
                _open.remove(outputs)
            if not _open:
                _restore()


def current(kind: type[_Outputs]) -> _Outputs | None:
    """Return the outputs of the cell that runs this code, if they are of this class."""
    outputs = _current()
    return outputs if isinstance(outputs, kind) else None


def _current() -> CellOutputs | None:
    """Return the outputs of the cell that runs this code; None if none or if unknown."""
    own = _own.get()
    if own is not None:
        return None if own.closed else own
    # Without the lock: this may run in a signal handler of a thread that holds it.
    running = [outputs for outputs in tuple(_open) if not outputs.closed]
    if len(running) == 1 and running[0].takes(threading.get_ident()):
        return running[0]
    return None


def _forked() -> None:
    """Restore the streams in a forked process, which no notebook hears."""
    global _lock
    _lock = threading.Lock()
    if _open:
        _open.clear()
        _own.set(None)
        _restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _restore() -> None:
    for name in _NAMES:
        stream = getattr(sys, name)
        if isinstance(stream, _Stream | _Input):
            setattr(sys, name, stream.behind)


class _Stream(io.TextIOBase):
    """Replacement of a standard stream: writes to the current cell, or to the original stream."""

    def __init__(self, name: str, behind: Any) -> None:
        super().__init__()
        self._name = name
        self.behind = behind

    def write(self, text: str) -> int:
        outputs = _current()
        if outputs is None:
            # sys.stdout is None in a process without a console.
            return len(text) if self.behind is None else int(self.behind.write(text) or 0)
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        outputs.text(self._name, text)
        return len(text)

    def flush(self) -> None:
        if _current() is None and self.behind is not None:
            self.behind.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return _current() is None and self.behind is not None and bool(self.behind.isatty())

    def __getattr__(self, name: str) -> Any:
        if self.behind is None:
            raise AttributeError(name)
        return getattr(self.behind, name)

    # TextIOBase has these, so that they do not reach `__getattr__`.
    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self.behind, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return getattr(self.behind, "errors", None)

    @property
    def buffer(self) -> Any:
        return self.behind.buffer

    def fileno(self) -> int:
        return int(self.behind.fileno())


class _Input(io.TextIOBase):
    """Replacement of the standard input, which a cell cannot read."""

    def __init__(self, behind: Any) -> None:
        super().__init__()
        self.behind = behind

    def read(self, size: int | None = -1) -> str:
        __tracebackhide__ = True
        return str(self._behind().read(size))

    def readline(self, size: int = -1) -> str:  # type: ignore[override]
        __tracebackhide__ = True
        return str(self._behind().readline(size))

    def readable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return _current() is None and self.behind is not None and bool(self.behind.isatty())

    def fileno(self) -> int:
        return int(self._behind().fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)

    def _behind(self) -> Any:
        __tracebackhide__ = True
        outputs = _current()
        if outputs is not None:
            raise outputs.no_input()
        return self.behind

"""Redirect the standard streams to the cells that write to them (application).

While a cell runs, the process's streams are replaced by ones that look who writes: code in the
context of a cell writes to its notebook, all other code to the streams that were there before. Code
that holds one of those, such as the handlers of :mod:`logging`, is not affected at all.
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from dask_flame.attached.application.outputs import Outputs
from dask_flame.errors import AttachError

#: Outputs of the cell in whose context the code runs.
_own: ContextVar[Outputs | None] = ContextVar("dask_flame_attached_outputs", default=None)
_lock = threading.Lock()
#: Number of running cells in this process.
_open: list[Outputs] = []
_NAMES = ("stdout", "stderr", "stdin")


@contextlib.contextmanager
def redirected(outputs: Outputs) -> Iterator[None]:
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


def after_fork() -> None:
    """Restore the streams in a forked process, which no notebook is attached to."""
    global _lock
    _lock = threading.Lock()
    _open.clear()
    _own.set(None)
    _restore()


def current() -> Outputs | None:
    """Return the outputs of the cell that runs this code; None for other code."""
    own = _own.get()
    return None if own is None or own.closed else own


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
        outputs = current()
        if outputs is None:
            # sys.stdout is None in a process without a console.
            return len(text) if self.behind is None else int(self.behind.write(text) or 0)
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        outputs.text(self._name, text)
        return len(text)

    def flush(self) -> None:
        if current() is None and self.behind is not None:
            self.behind.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return current() is None and self.behind is not None and bool(self.behind.isatty())

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
        return str(self._behind().read(size))

    def readline(self, size: int = -1) -> str:  # type: ignore[override]
        return str(self._behind().readline(size))

    def readable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return current() is None and self.behind is not None and bool(self.behind.isatty())

    def fileno(self) -> int:
        return int(self._behind().fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)

    def _behind(self) -> Any:
        if current() is not None:
            raise AttachError(
                "a cell in an application cannot ask for input; ask in a cell of the notebook, "
                'for example name = input("name? ")'
            )
        return self.behind

"""Redirect the standard streams of a runner to the cells that write to them (runner)."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from dask_flame.errors import FlameError
from dask_flame.notebook.cells.outputs import Outputs

#: Outputs of the cell in whose context the code runs.
_own: ContextVar[Outputs | None] = ContextVar("dask_flame_outputs", default=None)
_lock = threading.Lock()
#: Outputs of the cells in this process. While there is one, the standard streams are redirected.
_open: list[Outputs] = []
_NO_INPUT = (
    "a cell on a runner cannot ask for input; ask in a cell of the notebook before it, for example "
    'name = input("name? "), and use the name here'
)


@contextlib.contextmanager
def gathered(outputs: Outputs) -> Iterator[None]:
    """Redirect output of this context, and of threads without a context, to a cell."""
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
            _open.remove(outputs)
            if not _open:
                for name in ("stdout", "stderr", "stdin"):
                    stream = getattr(sys, name)
                    if isinstance(stream, _Stream | _Input):
                        setattr(sys, name, stream.behind)


def current() -> Outputs | None:
    """Return the outputs of the cell that runs this code; None if none or if unknown."""
    own = _own.get()
    if own is not None:
        return own
    # A thread that the cell started does not inherit its context.
    with _lock:
        only = _open[0] if len(_open) == 1 else None
    if only is None:
        return None
    thread, worker = threading.get_ident(), only.worker
    return None if thread in (worker.thread_id, *worker.active_threads) else only


class _Stream(io.TextIOBase):
    """Replacement of a standard stream: writes to the current cell, or to the original stream."""

    def __init__(self, name: str, behind: Any) -> None:
        super().__init__()
        self._name = name
        self.behind = behind

    encoding = "utf-8"

    def write(self, text: str) -> int:
        outputs = current()
        if outputs is None:
            return int(self.behind.write(text) or 0)
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        outputs.text(self._name, text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(ValueError):
            self.behind.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return int(self.behind.fileno())

    @property
    def buffer(self) -> Any:
        return self.behind.buffer


class _Input(io.TextIOBase):
    """Replacement of the standard input, which refuses to be read by a cell."""

    encoding = "utf-8"

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
        return False

    def fileno(self) -> int:
        return int(self._behind().fileno())

    def _behind(self) -> Any:
        __tracebackhide__ = True
        if current() is not None:
            raise FlameError(_NO_INPUT)
        return self.behind

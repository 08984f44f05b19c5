"""Keep a cell from ending the process of the application (application).

``sys.exit`` raises an exception, which ends the cell alone. ``os._exit``, ``os.abort`` and the
functions that execute another program are replaced while a cell runs, by ones that refuse calls in
the context of a cell. A cell can still end the process in other ways: by a signal, by ctypes, or by
a function that another module has imported from :mod:`os` before.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from dask_flame.attached.application.outputs import Outputs
from dask_flame.core.cell_streams import current
from dask_flame.errors import AttachError

_NAMES = ("_exit", "abort", "execv", "execve")
_lock = threading.Lock()
_cells = 0
_before: dict[str, Callable[..., Any]] = {}


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Refuse calls that end the process, in the context of the cell."""
    global _cells
    with _lock:
        _cells += 1
        if _cells == 1:
            _replace()
    try:
        yield
    finally:
        with _lock:
            _cells -= 1
            if _cells == 0:
                _restore()


def after_fork() -> None:
    """Restore the functions in a forked process, which may end as it wants."""
    global _lock, _cells
    _lock = threading.Lock()
    _cells = 0
    _restore()


def _replace() -> None:
    for name in _NAMES:
        _before[name] = getattr(os, name)
        setattr(os, name, _guarded(name, _before[name]))


def _restore() -> None:
    for name, function in _before.items():
        setattr(os, name, function)
    _before.clear()


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    pid = os.getpid()

    def guarded(*args: Any, **kwargs: Any) -> Any:
        if current(Outputs) is not None and os.getpid() == pid:
            raise AttachError(f"os.{name} would end the application, and was refused in a cell")
        return function(*args, **kwargs)

    guarded.__name__ = guarded.__qualname__ = name
    return guarded

"""Find the files that a process has written, wherever they are (tests).

Python's audit events report each file that is opened. No place has to be known or guessed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

_PREFIX = "wrote "
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
#: What listens to the events now. A hook cannot be removed, so that there is one for all.
_listening: list[Callable[[str], None]] = []
_hooked: list[bool] = []


class WrittenFiles:
    """The files that this process opens for writing, or gives their names to, inside ``with``.

    Files that are written by other processes, or relative to an open folder, are not found.

    Parameters
    ----------
    report : bool, default False
        Whether each path is written to the standard output at once, as a line for
        :meth:`of_report`, so that it is known of a process that is killed.
    """

    def __init__(self, *, report: bool = False) -> None:
        self._paths: set[str] = set()
        self._report = report

    @classmethod
    def of_report(cls, text: str) -> WrittenFiles:
        """Return the files that another process has reported in its output."""
        lines = (line.partition(_PREFIX) for line in text.splitlines())
        made = cls()
        for before, found, path in lines:
            # A line of the runner's may be cut where this one begins, but not this one.
            if found and not before:
                made._paths.add(json.loads(path))
        return made

    def __enter__(self) -> WrittenFiles:
        if not _hooked:
            _hooked.append(True)
            sys.addaudithook(_heard)
        _listening.append(self._wrote)
        return self

    def __exit__(self, *exception: object) -> None:
        _listening.remove(self._wrote)

    def _wrote(self, path: str) -> None:
        if path in self._paths:
            return
        self._paths.add(path)
        if self._report:
            # Not `print`, which may be what is writing at this moment.
            os.write(1, f"\n{_PREFIX}{json.dumps(path)}\n".encode())

    def with_text(self, text: str) -> list[str]:
        """Return those that still exist and contain a text."""
        return sorted(_containing(self._paths.copy(), text.encode()))


def _containing(paths: Iterable[str], text: bytes) -> Iterable[str]:
    for path in paths:
        with contextlib.suppress(OSError):
            if os.path.isfile(path) and text in Path(path).read_bytes():
                yield path


def _heard(event: str, arguments: tuple[object, ...]) -> None:
    if not _listening:
        return
    if event == "open":
        path, _, flags = arguments
        written = isinstance(flags, int) and flags & _WRITES
    elif event in ("os.rename", "os.link"):
        path, written = arguments[1], True
    else:
        return
    if written and isinstance(path, str | bytes):
        name = os.fsdecode(path)
        if name != os.devnull and not name.endswith(".pyc"):
            for listener in list(_listening):
                listener(os.path.abspath(name))

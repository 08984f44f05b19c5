"""Shows in the driver what runners print, without ever holding the driver up (driver)."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from dask_flame.backends.local.lines import Lines
from dask_flame.background import Background, in_thread


class Echo:
    """Writes lines to the driver's standard output from a thread of its own.

    The driver's output may be a pipe that nobody reads, or closed: lines that cannot be written
    soon enough are dropped, and the first error ends it. To be used on the event loop.
    """

    def __init__(self) -> None:
        self._writer = Background("flame-echo")
        self._lines = Lines()
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, name: str, text: str) -> None:
        """Show what a runner of this name has printed, in whole lines."""
        for line in self._lines.add(name, text, asyncio.get_running_loop().time()):
            self._show(name, line)
        self._plan()

    def over(self, name: str) -> None:
        """A runner prints no more: show what it has left."""
        for line in self._lines.over(name):
            self._show(name, line)

    async def close(self) -> None:
        """Write what is left, unless the output is stuck."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await in_thread(self._writer.close)

    def _plan(self) -> None:
        due = self._lines.due()
        if self._timer is not None:
            if due is not None and self._timer.when() <= due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        for name, line in self._lines.late(asyncio.get_running_loop().time()):
            self._show(name, line)
        self._plan()

    def _show(self, name: str, line: str) -> None:
        self._writer.do(partial(self._write, f"[{name}] {line}\n"))

    def _write(self, line: str) -> None:
        # Looked up each time: notebooks and tests replace it.
        stream = sys.stdout
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
        if self._writer.empty:
            stream.flush()

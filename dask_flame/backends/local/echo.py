"""Shows in the driver what runners print, without ever holding the driver up (driver)."""

from __future__ import annotations

import sys
from functools import partial

from dask_flame.background import Background


class Echo:
    """Writes lines to the driver's standard output from a thread of its own.

    The driver's output may be a pipe that nobody reads, or closed: lines that cannot be written
    soon enough are dropped, and the first error ends it.
    """

    def __init__(self) -> None:
        self._writer = Background("flame-echo")

    def __call__(self, name: str, line: str) -> None:
        """Show a line that a runner of this name has printed."""
        self._writer.do(partial(self._write, f"[{name}] {line}\n"))

    def close(self) -> None:
        """Write what is left, unless the output is stuck."""
        self._writer.close()

    def _write(self, line: str) -> None:
        # Looked up each time: notebooks and tests replace it.
        stream = sys.stdout
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
        if self._writer.empty:
            stream.flush()

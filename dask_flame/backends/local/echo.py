"""Shows in the driver what runners print, without ever holding the driver up (driver)."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading

_MOST = 10_000


class Echo:
    """Writes lines to the driver's standard output from a thread of its own.

    The driver's output may be a pipe that nobody reads, or closed: lines that cannot be written
    soon enough are dropped, and the first error ends it.
    """

    def __init__(self) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue(_MOST)
        self._thread: threading.Thread | None = None
        self._over = False

    def __call__(self, name: str, line: str) -> None:
        """Show a line that a runner of this name has printed."""
        if self._over:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="flame-echo", daemon=True)
            self._thread.start()
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(f"[{name}] {line}\n")

    def close(self) -> None:
        """Write what is left, unless the output is stuck."""
        self._over = True
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._lines.put_nowait(None)
            self._thread.join(timeout=0.5)
            self._thread = None

    def _run(self) -> None:
        try:
            while (line := self._lines.get()) is not None:
                # Looked up each time: notebooks and tests replace it.
                stream = sys.stdout
                encoding = getattr(stream, "encoding", None) or "utf-8"
                stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
                if self._lines.empty():
                    stream.flush()
        except Exception:
            self._over = True

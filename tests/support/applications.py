"""Applications in processes of their own, to which tests attach."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

#: An application with a basket; it ends when a line is written to it.
SHOP = '''
import sys, time
import dask_flame

class Basket:
    """Goods to buy."""

    def __init__(self):
        self.goods = ["tea"]

    def add(self, good, *, count=1):
        """Add goods."""

    @property
    def total(self):
        print("the getter was called", flush=True)
        return 3

basket = Basket()
dask_flame.expose("shop")
print("ready", flush=True)
sys.stdin.readline()
'''


class Program:
    """An application in a process, which has said that it is ready.

    Attributes
    ----------
    process : subprocess.Popen
    """

    def __init__(self, source: str, path: Path, words: Sequence[str] = ()) -> None:
        path.write_text(source)
        self._log = path.with_suffix(".log")
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*words, sys.executable, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.log

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """What it has written to its standard error."""
        return self._log.read_text()

    @property
    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    @property
    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def end(self) -> str:
        """End it kindly; return what it has printed since it was ready."""
        said, _ = self.process.communicate("\n", timeout=60)
        return said


@contextmanager
def program(source: str, path: Path, words: Sequence[str] = ()) -> Iterator[Program]:
    """Run an application until the end of the block."""
    running = Program(source, path, words)
    try:
        yield running
    finally:
        running.process.kill()
        with running.process:  # closes its pipes, and waits
            pass

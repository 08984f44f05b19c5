"""A runner in its supervisor: a process, a leash, an output (supervisor)."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dask_flame.prints.frames import FREE, NOBODY, SHOW, Owner, Piece, Unpacker
from dask_flame.prints.sole_call import SoleCall

#: Maximum number of bytes of output to keep.
MOST_KEPT = 16_000


@dataclass
class RunnerKind:
    """The common properties of runners that share a template.

    Attributes
    ----------
    env : mapping of str to str
        The complete environment.
    preload, path : list of str
        Modules to import, and the import path.
    fork : bool
        Whether to fork from a template; otherwise each runner is started as an interpreter.
    flags : list of str
        Options of the interpreter.
    cwd : str or None
        Working directory for the imports.
    packages : mapping
        Packages to install before the imports.
    """

    env: Mapping[str, str]
    preload: list[str]
    path: list[str]
    fork: bool
    flags: list[str]
    cwd: str | None
    packages: Mapping[str, Any]


class Process(Protocol):
    """The process of a runner."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the process runs."""

    def kill(self) -> None:
        """Kill the process, if it exists."""

    def wait(self) -> int:
        """Wait until the process has ended; return the exit code."""


class Forked:
    """A process that was forked, not started as an interpreter.

    Either this process forked it, or a template did, and the kernel hands it to this process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            # Until the process that forked it has ended, it is not a child of this one.
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


class Runner:
    """One process, its leash, and the last part of its output.

    Attributes
    ----------
    process : Process or None
        None until it is started.
    env : dict of str to str
        Environment variables in addition to those of its kind.
    child_ends : tuple of int
        The other ends of leash and output, until the process has them.
    word : str
        Prefix of the frames in its output; empty if it writes no frames. See
        :mod:`dask_flame.prints.frames`.
    whose : str
        The file in which it records the owner of output without a frame.
    """

    def __init__(
        self,
        name: str,
        kind: RunnerKind,
        env: dict[str, str],
        launch_config: bytes,
        *,
        word: str = "",
        whose: str = "",
    ) -> None:
        self.name = name
        self.kind = kind
        self.env = env
        self.launch_config = launch_config
        self.asked = time.monotonic()
        self.boot_timeout = float("inf")
        self.process: Process | None = None
        self.unsent = b""  # not yet written to the leash
        self.kill_at: float | None = None
        self.killed = False
        self.memory = 0  # limit in bytes; 0: no limit
        self.used = 0  # memory beyond the limit, for which it was killed
        self.stranded = False  # unknown whether it was forked
        self.output: collections.deque[bytes] = collections.deque()
        self.size = 0
        self.word = word
        self.whose = whose
        self._whose: SoleCall | None = None
        self._unpacker = Unpacker(word.encode()) if word else None
        read, self.leash = os.pipe()
        try:
            self.stdout, write = os.pipe()
        except OSError:
            os.close(read)
            os.close(self.leash)
            raise
        self.child_ends: tuple[int, ...] = (read, write)
        os.set_blocking(self.stdout, False)
        os.set_blocking(self.leash, False)

    def let_go(self) -> None:
        """Close the process's ends of the pipes in this process."""
        for descriptor in self.child_ends:
            os.close(descriptor)
        self.child_ends = ()

    def owner(self) -> Owner:
        """Return the call that runs alone in the runner, and so owns output without a frame."""
        if self._whose is None and self.whose:
            # The file does not exist until the runner has started.
            with contextlib.suppress(OSError, ValueError):
                self._whose = SoleCall(self.whose, write=False)
        return NOBODY if self._whose is None else self._whose.read()

    def take_apart(self, chunk: bytes, owner: Owner) -> list[Piece]:
        """Split output into pieces by call; keep the text."""
        if self._unpacker is None:
            pieces = [Piece(FREE, 0, 0, "", chunk)] if chunk else []
        else:
            pieces = self._unpacker.add(chunk, owner) if chunk else self._unpacker.over()
        for piece in pieces:
            if piece.kind != SHOW and piece.text:
                self.keep(piece.text)
        return pieces

    def forget(self) -> None:
        """Remove the file of the owner."""
        if self._whose is not None:
            self._whose.close()
        if self.whose:
            with contextlib.suppress(OSError):
                os.unlink(self.whose)

    def keep(self, chunk: bytes) -> None:
        self.output.append(chunk)
        self.size += len(chunk)
        while self.size - len(self.output[0]) > MOST_KEPT:
            self.size -= len(self.output.popleft())

    def tail(self) -> str:
        return b"".join(self.output)[-MOST_KEPT:].decode(errors="replace")

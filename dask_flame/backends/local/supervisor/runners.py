"""A runner as its guard knows it: a process, a leash, an output (guard)."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from dask_flame.prints.frames import FREE, NOBODY, SHOW, Owner, Piece, Unpacker
from dask_flame.prints.sole_call import SoleCall

#: Bytes of what it has printed last.
MOST_KEPT = 16_000


@dataclass
class RunnerKind:
    """What runners have in common, so that one template serves them all.

    Attributes
    ----------
    env : mapping of str to str
        The whole environment.
    preload, path : list of str
        Modules to import, and where from.
    fork : bool
        Whether to use a template; where not, each runner is an interpreter of its own.
    flags : list of str
        The interpreter's arguments.
    cwd : str or None
        Where to import the modules.
    """

    env: Mapping[str, str]
    preload: list[str]
    path: list[str]
    fork: bool
    flags: list[str]
    cwd: str | None


class Process(Protocol):
    """What is known of a runner's process."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """The exit code, below zero for a signal; None while it runs."""

    def kill(self) -> None:
        """Kill it, if it is there."""

    def wait(self) -> int:
        """Wait until it has ended; the exit code."""


class Forked:
    """A process that was not started as an interpreter.

    This one has forked it, or a template has, and the kernel hands it to this one.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            # Not ours yet, in the moment before what has forked it ends.
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
    """One process, its leash, and the end of what it printed.

    Attributes
    ----------
    process : Process or None
        None until it has been started.
    env : dict of str to str
        What its environment has beyond that of its kind.
    theirs : tuple of int
        The other ends of leash and output, until the process has them.
    word : str
        What it begins its frames with; empty where it makes none. See
        :mod:`dask_flame.prints.frames`.
    whose : str
        The file in which it notes whose it is what has no frame.
    """

    def __init__(
        self,
        name: str,
        kind: RunnerKind,
        env: dict[str, str],
        orders: bytes,
        *,
        word: str = "",
        whose: str = "",
    ) -> None:
        self.name = name
        self.kind = kind
        self.env = env
        self.orders = orders
        self.asked = time.monotonic()
        self.boot_timeout = float("inf")
        self.process: Process | None = None
        self.words = b""  # on their way through the leash
        self.kill_at: float | None = None
        self.killed = False
        self.memory = 0  # bytes that it may have in use; 0: any number
        self.used = 0  # more than that, for which it was killed
        self.stranded = False  # it may or may not have been started, and nobody can tell
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
        self.theirs: tuple[int, ...] = (read, write)
        os.set_blocking(self.stdout, False)
        os.set_blocking(self.leash, False)

    def let_go(self) -> None:
        """Close what is the process's own, here."""
        for descriptor in self.theirs:
            os.close(descriptor)
        self.theirs = ()

    def owner(self) -> Owner:
        """The call that runs alone there, and so has written what has no frame."""
        if self._whose is None and self.whose:
            # It is not there before the runner has come so far.
            with contextlib.suppress(OSError, ValueError):
                self._whose = SoleCall(self.whose, write=False)
        return NOBODY if self._whose is None else self._whose.read()

    def take_apart(self, chunk: bytes, owner: Owner) -> list[Piece]:
        """What is in this that it has written; it is kept."""
        if self._unpacker is None:
            pieces = [Piece(FREE, 0, 0, "", chunk)] if chunk else []
        else:
            pieces = self._unpacker.add(chunk, owner) if chunk else self._unpacker.over()
        for piece in pieces:
            if piece.kind != SHOW and piece.text:
                self.keep(piece.text)
        return pieces

    def forget(self) -> None:
        """Remove what it has noted."""
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

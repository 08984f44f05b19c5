"""The processes of the fake's pods, and the end of all that they started (test process)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from dask_flame.testing.leaks import marked_processes

#: In the environment of a pod's processes, and so of what they start: ``<fake>/<uid of the pod>``.
MARK = "DASK_FLAME_FAKE_POD"


class Process:
    """A container's process, in a session of its own.

    Parameters
    ----------
    command : sequence of str
    env : mapping of str to str
        All of its environment.
    folder : Path
        Where it begins.
    log : Path
        What it prints goes there.

    Raises
    ------
    OSError
        If there is no such program.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        with open(log, "ab") as out:
            self._popen = subprocess.Popen(
                command,
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    async def wait(self) -> int:
        """Its exit code, as a container runtime gives it: 128 and the signal that ended it."""
        await self._gone()
        code = self._popen.wait()
        # What it left in its session; others that it started are found by their mark.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        return code if code >= 0 else 128 - code

    async def _gone(self) -> None:
        if not hasattr(os, "pidfd_open"):  # macOS
            while self._popen.poll() is None:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.02)
            return
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        handle = os.pidfd_open(self.pid)
        loop.add_reader(handle, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)

    def end(self, sig: signal.Signals) -> None:
        """Send a signal: SIGTERM to it alone, SIGKILL to its whole group."""
        if self._popen.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if sig == signal.SIGKILL:
                os.killpg(self.pid, sig)
            else:
                os.kill(self.pid, sig)

    def reap(self) -> None:
        """Kill it and wait for its end, without a loop."""
        self.end(signal.SIGKILL)
        self._popen.wait()


class Reaper:
    """Kills what is left of pods that have ended, wherever it has gone to.

    A look through all processes is dear, so that pods that end together share one.

    Parameters
    ----------
    name : str
        The fake's: the first part of its marks.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._uids: set[str] = set()
        self._look: asyncio.Task[None] | None = None

    def mark(self, uid: str) -> str:
        return f"{self.name}/{uid}"

    async def reap(self, uid: str) -> None:
        """Return when no process of the pod is left."""
        self._uids.add(uid)
        if self._look is None:
            self._look = asyncio.ensure_future(self._soon())
        await asyncio.shield(self._look)

    async def _soon(self) -> None:
        await asyncio.sleep(0.02)
        self._look = None
        marks, self._uids = {self.mark(uid) for uid in self._uids}, set()
        while left := [p for p in self._all() if _mark(p) in marks]:
            _kill(left)
            await asyncio.sleep(0.01)

    def reap_all(self, within: float = 5.0) -> None:
        """Kill all that is left of all pods."""
        deadline = time.monotonic() + within
        while left := self._all():
            assert time.monotonic() < deadline, f"not to be killed: {left}"
            _kill(left)
            time.sleep(0.01)

    def _all(self) -> list[psutil.Process]:
        return marked_processes(f"{self.name}/", variable=MARK)


def _mark(process: psutil.Process) -> str:
    try:
        return process.environ().get(MARK, "")
    except psutil.Error:
        return ""


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()

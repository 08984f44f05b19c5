"""The host of a fake Fly's machines: a process that dies with this one (test process)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

#: Called with a machine's key, the exit code of its process (minus the signal that ended it).
Exited = Callable[[str, int], None]


class Host:
    """Starts and signals the processes of machines in a process of its own: see ``host.py``.

    It is used in the thread of one event loop, which has to live as long as the host.

    Parameters
    ----------
    began : callable
        Called in that loop with a machine's key when its process has begun.
    exited : callable
        Called in that loop when a machine's process has ended, and all that it started with it.
    """

    def __init__(self, began: Callable[[str], None], exited: Exited) -> None:
        self._began = began
        self._exited = exited
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._starting: dict[str, asyncio.Future[int]] = {}
        #: Of the processes that run, by machine.
        self.pids: dict[str, int] = {}

    async def begin(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(Path(__file__).with_name("host.py")),
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = asyncio.ensure_future(self._read())

    @property
    def pid(self) -> int:
        """The host's own."""
        assert self._process is not None
        return self._process.pid

    async def start(
        self,
        machine: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        folder: Path,
        log: Path,
        errors: Path | None = None,
    ) -> int:
        """Start a machine's process and return its pid.

        Parameters
        ----------
        machine : str
            The machine's id; with ``/`` and more behind it, the process is another of its.
        argv : sequence of str
        env : mapping of str to str
            The whole environment.
        folder : Path
            Where it begins.
        log, errors : Path
            Where its output goes. By default both streams go to the log.

        Raises
        ------
        OSError
            If its program cannot be run.
        """
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._starting[machine] = future
        self._say(
            do="start",
            machine=machine,
            argv=list(argv),
            env=dict(env),
            folder=str(folder),
            log=str(log),
            errors=str(errors or log),
        )
        return await future

    def starting(self, machine: str) -> bool:
        """Return whether its process has been asked for and has not begun yet."""
        return machine in self._starting

    def signal(self, machine: str, sig: int, *, everything: bool = False) -> None:
        """Send a signal to a machine's process, or to all that the machine runs."""
        if machine in self.pids:
            self._say(do="signal", machine=machine, signal=int(sig), everything=everything)

    def kill(self, machine: str) -> None:
        self.signal(machine, signal.SIGKILL, everything=True)

    async def close(self) -> None:
        """Kill all machines' processes; return when none is left."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        if self._reader is not None:
            await self._reader

    def _say(self, **command: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self._take(json.loads(line))
        for future in self._starting.values():
            if not future.done():
                future.set_exception(OSError("the host of the machines has ended"))

    def _take(self, said: dict[str, Any]) -> None:
        if (machine := said.get("started")) is not None:
            self.pids[machine] = said["pid"]
            self._answer(machine).set_result(said["pid"])
            self._began(machine)
        elif (machine := said.get("refused")) is not None:
            self._answer(machine).set_exception(OSError(said["error"]))
        elif (machine := said.get("exited")) is not None:
            self.pids.pop(machine, None)
            self._exited(machine, said["code"])

    def _answer(self, machine: str) -> asyncio.Future[int]:
        future = self._starting.pop(machine)
        # Whoever waited for it may have been cancelled.
        return asyncio.get_running_loop().create_future() if future.done() else future

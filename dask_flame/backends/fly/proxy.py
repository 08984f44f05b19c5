"""A local port that leads to a machine, by ``fly proxy`` (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process

from dask_flame.backends.fly.connection import Connection
from dask_flame.backends.fly.options import FlyOptions
from dask_flame.core.backoff import Backoff
from dask_flame.errors import BackendError

#: Seconds within which the port must listen, and between two attempts to connect to it.
_WITHIN, _PAUSE = 30.0, 0.05
#: Seconds within which the process ends when it is told to.
_LEAVE = 5.0
#: First and longest pause in seconds before a proxy that has ended is started again.
_FIRST, _LONGEST = 0.5, 10.0
_HOST = "127.0.0.1"


def find_program() -> str:
    """Return the path of flyctl.

    Raises
    ------
    BackendError
        If it is not there.
    """
    program: str = FlyOptions.setting("flyctl")
    found = shutil.which(program)
    if found is None:
        raise BackendError(
            f"reach='proxy' needs flyctl, and there is no program {program!r}; type: curl -L "
            "https://fly.io/install.sh | sh, or set flame.fly.flyctl to its path"
        )
    return found


class FlyProxy:
    """Run ``fly proxy`` for as long as the driver lives, and start it again when it has ended.

    It runs below :mod:`dask_flame.backends.fly.held_process`, which ends it when this process does,
    for whatever reason.

    Parameters
    ----------
    connection : Connection
    host : str
        The machine's name in the private network.
    port : int
        The port of the machine.

    Attributes
    ----------
    trouble : str
        Why it does not work at the moment; empty if it does, as far as is known.
    """

    def __init__(self, connection: Connection, host: str, port: int) -> None:
        self._connection = connection
        self._host = host
        self._port = port
        self._local = 0
        self._process: Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._listens = asyncio.Event()
        self.trouble = ""

    async def start(self, at: int = 0) -> int:
        """Start it, and return its local port.

        Parameters
        ----------
        at : int, default 0
            The local port to use if it is free.

        Raises
        ------
        BackendError
            If it does not listen.
        """
        found = find_program()
        self._local = _free_port(at)
        self._keeping = asyncio.create_task(self._keep(found))
        try:
            async with asyncio.timeout(_WITHIN):
                await self._listens.wait()
        except TimeoutError:
            await self.close()
            why = self.trouble or f"it does not listen within {_WITHIN:g} s"
            raise BackendError(f"`fly proxy` to the scheduler's machine: {why}") from None
        except BaseException:
            await self.close()
            raise
        return self._local

    async def close(self) -> None:
        """End it."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    async def _keep(self, program: str) -> None:
        backoff = Backoff(_FIRST, _LONGEST)
        while True:
            try:
                await self._run(program)
            except OSError as error:
                self.trouble = f"it cannot be started: {error}"
            await asyncio.sleep(backoff.next_with_jitter())

    async def _run(self, program: str) -> None:
        """Start the process once, and return when it has ended."""
        token = self._connection.token
        command = [
            program,
            "proxy",
            f"{self._local}:{self._port}",
            self._host,
            "--app",
            self._connection.api.app,
            "--bind-addr",
            _HOST,
            "--quiet",
        ]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "dask_flame.backends.fly.held_process",
            *command,
            stdin=PIPE,
            stdout=DEVNULL,
            stderr=PIPE,
            env={
                **os.environ,
                "FLY_API_TOKEN": token.value,
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            },
            start_new_session=True,
        )
        listening = asyncio.create_task(self._wait_until_it_listens())
        try:
            assert process.stderr is not None
            last = ""
            async for line in process.stderr:
                last = token.clean(line.decode(errors="replace")).strip() or last
            code = await process.wait()
            self.trouble = last or f"exit code {code}"
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            if process.stdin is not None:
                process.stdin.close()  # it ends with all that it has started
            try:
                await asyncio.wait_for(asyncio.shield(process.wait()), _LEAVE)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def _wait_until_it_listens(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(_HOST, self._local)
                writer.close()
                self.trouble = ""
                self._listens.set()
                return
            await asyncio.sleep(_PAUSE)


def _free_port(wanted: int) -> int:
    """Return a local port that is free at the moment: this one, or any."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((_HOST, port))
            return int(probe.getsockname()[1])
    raise BackendError(f"no port of {_HOST} is free")

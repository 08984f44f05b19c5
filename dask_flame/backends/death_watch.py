"""The process that removes a cluster's machines if its driver is killed (driver)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from typing import IO

from dask_flame.backends.fly.connection import Connection
from dask_flame.core.threads import in_thread

logger = logging.getLogger("dask_flame")

#: Seconds within which the process ends once it was told to.
_WITHIN = 5.0


class DeathWatch:
    """Hold :mod:`dask_flame.backends.fly.watchdog` by its standard input.

    Machines that run notice themselves that their scheduler is gone. Those that do not run cannot:
    the ones of a reserve, and those that Fly has not started yet.

    Parameters
    ----------
    connection : Connection
    cluster : str
        The cluster's id.
    grace : float
        Seconds for which machines that run may end by themselves.

    Attributes
    ----------
    started : bool
    """

    def __init__(self, connection: Connection, cluster: str, grace: float) -> None:
        api = connection.api
        self.started = False
        self._process: subprocess.Popen[bytes] | None = None
        self._config = {
            "app": api.app,
            "base": api.base,
            "logs": connection.logs,
            "factor": connection.factor,
            "token": connection.token.value,
            "cluster": cluster,
            "grace": grace,
            "driver": "",
        }

    def __repr__(self) -> str:
        return f"<DeathWatch of {self._config['cluster']}>"

    def start(self, driver: str = "") -> None:
        """Start the process, unless it was.

        Parameters
        ----------
        driver : str, optional
            The id of this driver, if it takes a cluster over. The process removes nothing of a
            cluster that another driver has taken over.
        """
        if self.started:
            return
        self.started = True
        self._config["driver"] = driver
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dask_flame.backends.fly.watchdog"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                # Signals of the driver's terminal are not for it.
                start_new_session=True,
            )
            self._write(json.dumps(self._config).encode() + b"\n")
        except OSError as error:
            logger.warning(
                "the process that removes machines if this one is killed cannot be started: %s; "
                "after a kill, type: dask flame sweep --backend fly",
                error,
            )

    async def close(self, *, all_gone: bool, none_known: bool) -> None:
        """End the process; if machines may be left, once it has removed them.

        Parameters
        ----------
        all_gone : bool
            Whether no machine is left, and none can appear. Then it ends at once.
        none_known : bool
            Whether no machine is known. Then it ends soon even if Fly cannot be reached.
        """
        process, self._process = self._process, None
        if process is None:
            return
        pipe = _pipe(process)
        with contextlib.suppress(OSError):
            if all_gone or none_known:
                pipe.write(b"end\n" if all_gone else b"look\n")
                pipe.flush()
        with contextlib.suppress(OSError):
            pipe.close()
        if all_gone:
            await in_thread(_wait, process)
        else:
            process.returncode = 0  # it goes on alone: nobody waits for it

    def forked(self) -> None:
        """Let go of the process in a fork of the driver, which may outlive it."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                os.close(_pipe(process).fileno())
            process.returncode = 0

    def _write(self, line: bytes) -> None:
        assert self._process is not None
        pipe = _pipe(self._process)
        pipe.write(line)
        pipe.flush()


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

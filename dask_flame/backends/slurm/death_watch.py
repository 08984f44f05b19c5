"""The process that cancels a cluster's jobs if its driver is killed (driver)."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from typing import IO

from dask_flame.backends.slurm.commands import environment
from dask_flame.core.threads import in_thread

logger = logging.getLogger("dask_flame")

#: Seconds within which the process ends once it was told to.
_WITHIN = 5.0


class DeathWatch:
    """Hold :mod:`dask_flame.backends.slurm.watchdog` by its standard input.

    Jobs that run notice themselves that their scheduler is gone. Those that wait cannot.

    Parameters
    ----------
    job_name : str
        The name of the cluster's jobs.
    folder : str
        The cluster's folder, which is removed after the jobs.
    """

    def __init__(self, job_name: str, folder: str) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._arguments = [job_name, folder]

    def start(self) -> None:
        """Start the process."""
        path = os.pathsep.join(p for p in sys.path if p)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dask_flame.backends.slurm.watchdog", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={**environment(), "PYTHONPATH": path},
                # Signals of the driver's terminal are not for it.
                start_new_session=True,
            )
        except OSError as error:
            logger.warning(
                "the process that cancels jobs if this one is killed cannot be started: %s; "
                "after a kill, type: dask flame sweep --backend slurm",
                error,
            )

    async def close(self, *, all_gone: bool) -> None:
        """End the process; if jobs may be left, once it has cancelled them."""
        process, self._process = self._process, None
        if process is None:
            return
        pipe = _pipe(process)
        with contextlib.suppress(OSError):
            if all_gone:
                pipe.write(b"end\n")
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


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

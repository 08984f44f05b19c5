"""A process beside the driver, which ends what is left if the driver is killed (driver)."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

from dask_flame.core.threads import in_thread

logger = logging.getLogger("dask_flame")

#: Seconds within which the process ends once it was told to.
_WITHIN = 5.0


class DeathWatch:
    """Hold a module, as a process, by its standard input.

    The process learns how the driver has ended from that input. The line ``end`` says that nothing
    is left, and ``look`` that nothing is known to be left. If the input closes without either, the
    driver was killed, or could not end everything.

    Parameters
    ----------
    backend : str
        The name of the backend.
    purpose : str
        What the process does, for a warning: ``"removes machines"``.
    module : str, optional
        The module. By default, the module ``watchdog`` of a backend of this package.

    Attributes
    ----------
    started : bool
    """

    def __init__(self, backend: str, purpose: str, *, module: str = "") -> None:
        self._backend = backend
        self._module = module or f"dask_flame.backends.{backend}.watchdog"
        self._purpose = purpose
        self._process: subprocess.Popen[bytes] | None = None
        self.started = False

    def start(
        self,
        arguments: Sequence[str] = (),
        *,
        first_line: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process, unless it was.

        Parameters
        ----------
        arguments : sequence of str, optional
        first_line : bytes, optional
            The first line of its input, without the end of the line: what nobody else may see.
        environment : mapping of str to str, optional
            By default, that of this process.
        """
        if self.started:
            return
        self.started = True
        inherited = os.environ if environment is None else environment
        path = os.pathsep.join(p for p in sys.path if p)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={**inherited, "PYTHONPATH": path},
                # Signals of the driver's terminal are not for it.
                start_new_session=True,
            )
            if first_line:
                _write(self._process, first_line)
        except OSError as error:
            logger.warning(
                "the process that %s if this one is killed cannot be started: %s; after a kill, "
                "type: dask flame sweep --backend %s",
                self._purpose,
                error,
                self._backend,
            )

    async def close(self, *, all_gone: bool, none_known: bool = False) -> None:
        """End the process; if something may be left, once it has ended that.

        Parameters
        ----------
        all_gone : bool
            Whether nothing is left, and nothing can appear. Then it ends at once.
        none_known : bool, default False
            Whether nothing is known to be left. Then it ends soon even if it learns nothing.
        """
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            if all_gone or none_known:
                _write(process, b"end" if all_gone else b"look")
        with contextlib.suppress(OSError):
            _pipe(process).close()
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


def _write(process: subprocess.Popen[bytes], line: bytes) -> None:
    pipe = _pipe(process)
    pipe.write(line + b"\n")
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

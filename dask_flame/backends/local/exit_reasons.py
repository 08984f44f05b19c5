"""Describe why a local runner's process has ended (driver)."""

from __future__ import annotations

import signal
from pathlib import Path

from dask_flame.core.text import memory

_VMSTAT = Path("/proc/vmstat")


class ExitReasons:
    """Describe exit codes; detect kills by the kernel for lack of memory.

    Linux counts such kills for the whole machine. If a runner dies by SIGKILL and the count has
    risen, the kill is attributed to the kernel.

    Parameters
    ----------
    vmstat : Path
        The kernel's counters; if the file is missing, lack of memory is only suspected.
    """

    def __init__(self, vmstat: Path = _VMSTAT) -> None:
        self._vmstat = vmstat
        self._killed = self._oom_kills()

    def why(self, code: int, *, forced: bool) -> str:
        """Return why a process ended.

        Parameters
        ----------
        code : int
            The return code of :class:`subprocess.Popen`: negative for a signal.
        forced : bool
            Whether the supervisor killed it, because it had not ended when asked to.
        """
        if code >= 0:
            return f"exit code {code}"
        if forced:
            return "ended by force"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"killed by {name}{self._memory() if name == 'SIGKILL' else ''}"

    def _memory(self) -> str:
        now, before = self._oom_kills(), self._killed
        self._killed = now
        if now is None or before is None:
            return ", perhaps for want of memory"
        return ": the kernel ended it for want of memory" if now > before else ""

    def _oom_kills(self) -> int | None:
        try:
            lines = self._vmstat.read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
        except (OSError, ValueError, StopIteration):
            return None


def out_of_memory(used: int, limit: int) -> str:
    """Return why the supervisor ended a runner that used more memory than its pool allows.

    Parameters
    ----------
    used, limit : int
        Bytes.
    """
    return (
        f"ran out of memory ({memory(used, beside=limit)} of {memory(limit)}); "
        "relevant settings: memory"
    )

"""Why a local runner's process has ended, in words (driver)."""

from __future__ import annotations

import signal
from pathlib import Path

_VMSTAT = Path("/proc/vmstat")


class ExitReasons:
    """Puts exit codes into words; knows whether the kernel has killed for want of memory.

    Linux counts such kills for the whole machine. A runner that dies by SIGKILL when the count has
    risen is taken for one of them.

    Parameters
    ----------
    vmstat : Path
        The kernel's counters; where the file is not there, a SIGKILL is only suspected.
    """

    def __init__(self, vmstat: Path = _VMSTAT) -> None:
        self._vmstat = vmstat
        self._killed = self._oom_kills()

    def why(self, code: int, *, told: bool) -> str:
        """What ended a process.

        Parameters
        ----------
        code : int
            As :class:`subprocess.Popen` gives it: below zero, the signal.
        told : bool
            Whether it was killed because it had been told to end and did not.
        """
        if code >= 0:
            return f"exit code {code}"
        if told:
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

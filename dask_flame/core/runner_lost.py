"""The error of a call lost with its runner (all places)."""

from __future__ import annotations

from typing import Any

from distributed.scheduler import KilledWorker

from dask_flame.core.terminal_text import plain, tame
from dask_flame.errors import PRINTED, FlameError


class RunnerLost(FlameError, KilledWorker, explained=True):
    """The runner of a call ended, and the call is not run again.

    Attributes
    ----------
    key : str
        The key of the call.
    runner : str
        Name of the runner.
    why : str
        Why the runner ended, in the substrate's own words, and the last lines that it printed.
    tried : int
        Number of runners lost with this call; 0 if it must not run twice (``rerun=False``).
    """

    def __init__(self, key: Any, runner: str, why: str, tried: int = 0) -> None:
        Exception.__init__(self, key, runner, why, tried)
        self._add_help()

    @property
    def key(self) -> Any:
        return self.args[0]

    @property
    def task(self) -> Any:
        return self.args[0]

    @property
    def runner(self) -> str:
        return str(self.args[1])

    @property
    def last_worker(self) -> Any:
        return self.args[1]

    @property
    def why(self) -> str:
        return str(self.args[2])

    @property
    def tried(self) -> int:
        return int(self.args[3])

    @property
    def allowed_failures(self) -> int:
        return max(0, self.tried - 1)

    def __str__(self) -> str:
        if self.tried:
            what = (
                f"it went down with {self.tried} runners, which is the limit "
                f"(distributed.scheduler.allowed-failures={self.allowed_failures})"
            )
        else:
            what = "it is not run again (rerun=False)"
        why, printed, lines = self.why.partition(PRINTED)
        said = f"{plain(str(self.key))} was lost with {self.runner}: {why}; {what}{printed}{lines}"
        return tame(said)

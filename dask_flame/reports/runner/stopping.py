"""Stop a call at its next report (runner)."""

from __future__ import annotations

from dask.typing import Key
from distributed import Worker

from dask_flame.errors import CallStopped

#: States of a task that does not run here any more, or not again.
_ENDED = frozenset({"memory", "error", "released", "forgotten"})


class RequestedStops:
    """Calls of a worker that are to be stopped, some of which have not begun.

    Parameters
    ----------
    worker : distributed.Worker
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._wanted: dict[Key, tuple[int, str]] = {}

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def add(self, key: Key, run_id: int, how: str) -> None:
        """Remember to stop this execution of a call; its task may arrive later."""
        self._wanted[key] = run_id, how

    def of(self, key: Key) -> str:
        """Return how to stop the present execution of a call; empty if it is not to be stopped."""
        run_id, how = self._wanted.get(key, (None, ""))
        ts = self._worker.state.tasks.get(key)
        return how if ts is not None and ts.run_id == run_id else ""

    def forget(self, key: Key, state: str) -> None:
        """Forget a call whose task has reached this state, if it does not run any more."""
        if state in _ENDED:
            self._wanted.pop(key, None)


def goes_on(stopped: str, key: Key | None = None) -> bool:
    """Return whether a call goes on after a report.

    Parameters
    ----------
    stopped : str
        Whether the call was stopped: empty, or how to tell (``raise`` or ``return``), which a space
        and the reason may follow.
    key : Key, optional
        Key of the call, if it is known.

    Returns
    -------
    bool

    Raises
    ------
    CallStopped
        It was stopped, and is to raise.
    """
    how, _, why = stopped.partition(" ")
    if how == "raise":
        who = "the call" if key is None else key
        raise CallStopped(f"{who} was stopped by dask_flame.stop(){': ' * bool(why)}{why}")
    return not stopped

"""Calls that go down with their runner: which run again, and what the others are told (scheduler).

A call whose runner is lost runs again elsewhere, as in Dask, until it has gone down with
``distributed.scheduler.allowed-failures`` + 1 runners; a call with ``rerun=False`` does not. Those
that do not run again are held back until it is known what ended the runner, so that the error
says it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distributed.scheduler import WorkerState

from dask_flame.errors import RunnerLost

if TYPE_CHECKING:
    from dask_flame.scheduler import FlameScheduler

#: Seconds after which a call fails without the reason, if nobody has told it.
_TELL_WITHIN = 10.0


class Losses:
    """The calls that are held back, and why.

    Parameters
    ----------
    scheduler : FlameScheduler
    limit : int
        How many runners a call may go down with and run again.
    """

    def __init__(self, scheduler: FlameScheduler, limit: int) -> None:
        self.scheduler = scheduler
        self.limit = limit
        self._runner: dict[Any, str] = {}
        self._tried: dict[Any, int] = {}
        self._why: dict[Any, str] = {}

    def __contains__(self, key: Any) -> bool:
        return key in self._runner

    def leaves(self, ws: WorkerState, *, expected: bool) -> None:
        """A worker is about to be removed: hold back what must not run again because of it."""
        held = []
        for ts in ws.processing:
            tried = ts.suspicious + (not expected)
            if _only_once(ts):
                self._tried[ts.key] = 0
            elif tried > self.limit:
                self._tried[ts.key] = tried
            else:
                continue
            held.append(ts.key)
        # A result that nobody else has would be computed again.
        held += [
            ts.key
            for ts in ws.has_what
            if _only_once(ts) and len(ts.who_has or ()) == 1 and not ts.actor
        ]
        for key in held:
            self._runner[key] = str(ws.name)
        if held:
            name = str(ws.name)
            self.scheduler.loop.call_later(
                _TELL_WITHIN, self.settle, name, "nobody could say what ended it"
            )

    def settle(self, name: str, why: str) -> None:
        """It is known what ended a runner: the calls that went down with it fail with it."""
        for key, runner in list(self._runner.items()):
            if runner == name and key not in self._why:
                self._why[key] = why
                self.waits(key)

    def waits(self, key: Any) -> None:
        """A call that is held back has come to wait for a slot, where it can be failed."""
        ts = self.scheduler.tasks.get(key)
        if key in self._why and ts is not None and ts.state == "no-worker":
            tried = self._tried.get(key, 0)
            error = RunnerLost(key, self._runner[key], self._why[key], tried)
            self.scheduler.fail_soon([key], error)

    def forget(self, key: Any) -> None:
        """A call is known no more, or is being tried anew."""
        for known in (self._runner, self._tried, self._why):
            known.pop(key, None)


def _only_once(ts: Any) -> bool:
    return (ts.annotations or {}).get("rerun") is False

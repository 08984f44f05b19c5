"""Know on which runner a call has failed, and pass questions about it on (scheduler)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from distributed import Scheduler, SchedulerPlugin

from dask_flame.core.client_ids import ONLY_LOOKS, is_observer
from dask_flame.core.messages import POST_MORTEM
from dask_flame.core.text import label

#: Seconds for the answer of a runner.
_WITHIN = 10.0


class FailedCalls(SchedulerPlugin):
    """The runners of failed calls.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    """

    name = "flame-failed-calls"

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._failed: dict[Any, tuple[str, str]] = {}  # by call: name and address of its runner
        self.handlers: dict[str, Callable[..., Any]] = {POST_MORTEM: self.post_mortem}

    def transition(
        self, key: Any, start: str, finish: str, *args: Any, worker: str = "", **kwargs: Any
    ) -> None:
        if start == "processing" and finish == "erred":
            if (ws := self._scheduler.workers.get(worker)) is not None:
                self._failed[key] = (str(ws.name), worker)
        elif finish in ("forgotten", "processing"):
            self._failed.pop(key, None)

    def restart(self, scheduler: Scheduler) -> None:
        self._failed.clear()

    async def post_mortem(
        self, key: Any, release: bool = False, runner: str = "", client: str = ""
    ) -> dict[str, Any]:
        """Return the frames of a failed call, or release them.

        If the call has not run because one that it depends on has failed, that one is meant.

        Parameters
        ----------
        key : Key
        release : bool, default False
        runner : str, optional
            The runner, by name, if the call may be forgotten here: its frames outlive its future.
        client : str, optional
            The id of the client that asks.

        Returns
        -------
        dict
            ``found``, see :class:`dask_flame.attached.looking.failures.Failure`, ``runner`` and
            ``key``; or ``failed``: why there are none.
        """
        if release and is_observer(client):
            return {"failed": f"release() {ONLY_LOOKS}"}
        ts = self._scheduler.tasks.get(key)
        blamed = getattr(ts, "exception_blame", None)
        key = key if blamed is None else blamed.key
        there = (runner, self._scheduler.aliases.get(runner, ""))
        name, address = there if runner else self._failed.get(key, ("", ""))
        if not name:
            return {"failed": f"{label(key)} has not failed on a runner"}
        if address not in self._scheduler.workers:
            return {"failed": _ended(key, name)}
        try:
            request = getattr(self._scheduler.rpc(address), POST_MORTEM)
            answer = await asyncio.wait_for(request(key=key, release=release), _WITHIN)
        except TimeoutError:
            return {"failed": f"{name} does not answer: a call holds its interpreter"}
        except OSError as error:
            if address not in self._scheduler.workers:
                return {"failed": _ended(key, name)}
            return {"failed": f"{name} cannot be reached: {error}"}
        return {**answer, "runner": name, "key": key}


def _ended(key: Any, name: str) -> str:
    return (
        f"{name}, on which {label(key)} has failed, has ended, and the frames with it; look before "
        "idle_timeout, or write Pool(post_mortem=True, idle_timeout=…) with a longer one"
    )

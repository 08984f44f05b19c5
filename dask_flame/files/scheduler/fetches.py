"""Pass files of runners on to drivers, and keep the runners meanwhile (scheduler).

A driver may not reach runners, so the contents pass through the scheduler, in messages of limited
size. Each fetch holds its call: the runner that has executed it, or will, counts as busy.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from distributed import Scheduler, SchedulerPlugin
from distributed.metrics import monotonic

from dask_flame.core.messages import FETCH_HOLD, FETCH_LIST, FETCH_READ
from dask_flame.core.text import duration, label

#: Maximum number of calls of whom is known when they ran, and of files that were fetched.
_KNOWN = 10_000

#: Seconds after which a hold ends that its driver does not renew.
KEPT = 30.0


class Fetches(SchedulerPlugin):
    """Know which runner has executed a call, and ask it for files.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    changed : callable
        Called with the name of a runner whose load may have changed.
    idle_timeout : callable
        Returns for a call the seconds after which an idle runner of its pool ends.

    Attributes
    ----------
    handlers : mapping of str to callable
        Requests of drivers.
    """

    name = "flame-fetches"

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        changed: Callable[[str], None],
        idle_timeout: Callable[[Any], float | str],
    ) -> None:
        self.scheduler = scheduler
        self._changed = changed
        self._idle_timeout = idle_timeout
        self._ran: dict[Any, tuple[str, str]] = {}  # by call: name and address of its runner
        self._holds: dict[str, tuple[Any, float]] = {}  # by fetch: its call, and until when
        self._running: dict[Any, float] = {}  # by call: when it was sent to its runner
        self._past: deque[tuple[Any, float, float]] = deque(maxlen=_KNOWN)  # of calls that ended
        # By path and state of a file: for which call it was fetched, and when that began.
        self._fetched: OrderedDict[tuple[Any, ...], tuple[Any, float]] = OrderedDict()
        self.handlers: dict[str, Callable[..., Any]] = {
            FETCH_HOLD: self.hold,
            FETCH_LIST: self.list_files,
            FETCH_READ: self.read_files,
        }

    def holds(self, name: str) -> bool:
        """Return whether a runner is kept because files are fetched from it."""
        if not self._holds:
            return False
        now = monotonic()
        return any(
            until > now and self._ran.get(key, ("", ""))[0] == name
            for key, until in self._holds.values()
        )

    def transition(
        self, key: Any, start: str, finish: str, *args: Any, worker: str = "", **kwargs: Any
    ) -> None:
        if finish == "processing":
            self._running[key] = time.time()  # the clock of files
        elif start == "processing" and (began := self._running.pop(key, None)) is not None:
            self._past.append((key, began, time.time()))
        if start == "processing" and finish == "memory":
            ws = self.scheduler.workers.get(worker)
            if ws is not None:
                self._ran[key] = (str(ws.name), worker)
        elif finish == "forgotten":
            self._ran.pop(key, None)

    def restart(self, scheduler: Scheduler) -> None:
        self._ran.clear()
        self._running.clear()
        self._fetched.clear()

    # Requests of drivers

    def hold(self, fetch: str, key: Any, keep: bool = True) -> None:
        """Keep the runner of a call for a while, or no longer.

        Parameters
        ----------
        fetch : str
            Identifies the fetch.
        key : Key
        keep : bool, default True
        """
        if keep:
            self._holds[fetch] = (key, monotonic() + KEPT)
            self.scheduler.loop.call_later(KEPT + 0.1, self._expire, fetch)
        else:
            self._holds.pop(fetch, None)
        self._note(key)

    def _expire(self, fetch: str) -> None:
        key, until = self._holds.get(fetch, (None, 0.0))
        if until and until <= monotonic():
            del self._holds[fetch]
            self._note(key)

    def _note(self, key: Any) -> None:
        if key in self._ran:
            self._changed(self._ran[key][0])

    async def list_files(self, key: Any, path: bytes) -> dict[str, Any]:
        """Return what is at a path on the runner of a call, as the runner answers.

        Returns
        -------
        dict
            ``doubt`` is a reason to doubt that this call has written it; empty without one.
        """
        answer = await self._ask(FETCH_LIST, key, path=path)
        return {**answer, "doubt": self._doubt(key, answer.get("doubt", {}))}

    def _doubt(self, key: Any, found: dict[str, Any]) -> str:
        """Return why a file may be that of another call, from the answer of the runner.

        A file that was written before or after its call, while no other call ran, was there before,
        or is that of a program which the call has started.
        """
        for when, what in (("late", "after {} had ended"), ("early", "before {} began")):
            if when in found and self._others_ran(key, found[when][1]):
                file, _, seconds = found[when]
                return (
                    f"{os.fsdecode(file)!r} was last written {_seconds(seconds)} "
                    f"{what.format(label(key))}, while other calls ran"
                )
        if "same" in found and (first := self._first_fetch(key, *found["same"])) is not None:
            file = os.fsdecode(found["same"][0][1])
            return f"{file!r} has not changed since it was fetched for {label(first)}"
        return ""

    def _others_ran(self, key: Any, when: float) -> bool:
        past = ((k, began) for k, began, ended in self._past if when <= ended)
        return any(
            other != key and began <= when
            for calls in (self._running.items(), past)
            for other, began in calls
        )

    def _first_fetch(self, key: Any, state: Any, written: float, began: float) -> Any | None:
        """Return another call for which the same file was fetched, if one of the two wrote it."""
        first, since = self._fetched.setdefault(tuple(state), (key, began))
        if len(self._fetched) > _KNOWN:
            self._fetched.popitem(last=False)
        return first if first != key and written >= min(since, began) else None

    async def read_files(self, key: Any, root: bytes, parts: list[Any]) -> dict[str, Any]:
        """Return parts of files of the runner of a call, as the runner answers."""
        return await self._ask(FETCH_READ, key, root=root, parts=parts)

    async def _ask(self, what: str, key: Any, **values: Any) -> dict[str, Any]:
        scheduler = self.scheduler
        name, address = self._ran.get(key, ("", ""))
        if not name:
            return {"gone": f"{label(key)} is no call that a runner has executed"}
        if address not in scheduler.workers:
            return {"gone": self._ended(key, name)}
        try:
            answer: dict[str, Any] = await getattr(scheduler.rpc(address), what)(key=key, **values)
        except OSError as error:
            if address not in scheduler.workers:
                return {"gone": self._ended(key, name)}
            return {"broken": f"{name} cannot be reached: {error}"}
        return {**answer, "runner": name}

    def _ended(self, key: Any, name: str) -> str:
        ts = self.scheduler.tasks.get(key)
        timeout = None if ts is None else self._idle_timeout(ts)
        limit = f" ({duration(timeout)})" if isinstance(timeout, float) else ""
        return (
            f"the runner of {label(key)}, {name}, has ended; its files went with it; fetch before "
            f"idle_timeout{limit}, or return the bytes, or write to a volume"
        )


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else duration(seconds)

"""Look inside the scheduler's process and its workers' (scheduler)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from distributed import Scheduler
from distributed.protocol import Serialize, Serialized, deserialize, pickle
from distributed.scheduler import WorkerState

from dask_flame.attached.looking.worker import look_inside, without_surroundings
from dask_flame.comm.addresses import PREFIX
from dask_flame.core.text import duration, label

#: The name with which the scheduler's own process is meant.
SCHEDULER = "scheduler"
#: Seconds for the answer of a process that could answer at once.
WITHIN = 5.0
#: Maximum number of a runner's calls in a message.
_CALLS = 5


async def look_at(
    scheduler: Scheduler, name: str, what: str, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Look inside one process of a cluster.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    name : str
        Of a worker, or :data:`SCHEDULER`.
    what : str
        One of :data:`dask_flame.attached.looking.looks.LOOKS`.
    options : mapping, optional
        Further arguments of the look.

    Returns
    -------
    dict
        ``found``: see :func:`dask_flame.attached.looking.looks.opened`; or ``failed``: why there is
        nothing. Stacks of a process that does not answer are those that can be read from outside.
    """
    given = dict(options or {})
    from dask_flame.attached.looking.looks import look

    if name == SCHEDULER:
        return {"found": await asyncio.to_thread(look, what, SCHEDULER, given)}
    ws = _worker(scheduler, name)
    if ws is None:
        there = ", ".join(sorted(str(each) for each in scheduler.aliases)) or "none"
        return {"failed": f"there is no runner {name} that is up; there are: {there}"}
    try:
        return await _ask(scheduler, ws, what, given)
    except TimeoutError:
        silent = f"{name} has not answered within {duration(WITHIN + given.get('limit', 0))}"
        return await _from_outside(ws, name, what, silent)
    except OSError as error:
        if ws.address not in scheduler.workers:
            return {"failed": f"{name} has ended"}
        return {"failed": f"{name} cannot be reached: {error}"}


def _worker(scheduler: Scheduler, name: str) -> WorkerState | None:
    """Return a worker by its name; in other clusters than ours that may be a number."""
    found = next((at for each, at in scheduler.aliases.items() if str(each) == name), "")
    return scheduler.workers.get(found)


async def _ask(
    scheduler: Scheduler, ws: WorkerState, what: str, options: dict[str, Any]
) -> dict[str, Any]:
    request = scheduler.rpc(ws.address).run_coroutine(
        function=pickle.dumps(look_inside),
        args=pickle.dumps((what, options)),
        kwargs=pickle.dumps({}),
    )
    answer = await asyncio.wait_for(request, WITHIN + float(options.get("limit", 0)))
    if answer["status"] != "OK":
        return {"failed": f"{ws.name} cannot look at itself: {answer['exception_text']}"}
    return {"found": _read(answer["result"])}


def _read(value: Any) -> Any:
    """Return a value that has come in a message: a scheduler passes values on without reading them.

    In one process they come as they were sent.
    """
    if isinstance(value, Serialize):
        return value.data
    return deserialize(value.header, value.frames) if isinstance(value, Serialized) else value


async def _from_outside(ws: WorkerState, name: str, what: str, silent: str) -> dict[str, Any]:
    """Look at a worker that does not answer: its interpreter is held, or its event loop."""
    why = f"{silent}: a call holds its interpreter or its event loop, or it is suspended"
    if calls := [label(ts.key) for ts, _ in zip(ws.processing, range(_CALLS), strict=False)]:
        why += f"; its calls: {', '.join(calls)}"
    if what != "stacks" or not is_here(ws):
        where = "" if what != "stacks" else "; it is on another machine, so it cannot be read from"
        return {"failed": f"{why}{where and f'{where} here'}"}
    from dask_flame.attached.looking.outside import stacks_of
    from dask_flame.attached.looking.wire import packed

    try:
        found = await asyncio.to_thread(stacks_of, ws.pid, name, why=why)
    except ProcessLookupError:
        return {"failed": f"{name} has ended"}
    return {"found": without_surroundings(packed(found))}


def is_here(ws: WorkerState) -> bool:
    """Return whether a worker is a process of this machine, and not only of its kind."""
    return bool(ws.address.startswith(PREFIX))

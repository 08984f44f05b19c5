"""Look inside a worker's process, beside its calls (runner).

Sent to a worker with Dask's own message for functions, so that every worker can be looked at whose
process can import dask-flame. It is neither a task nor a call: it takes no slot, and a runner's
idle time goes on. Its modules are imported with the first look.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dask_flame.core.text import label

if TYPE_CHECKING:
    from distributed import Worker

#: Files in which a worker begins a call: those after which its own code comes.
_BEGIN = (
    os.path.join("dask", "_task_spec.py"),
    os.path.join("dask_flame", "serialization", "packed.py"),
)
#: Packages whose tasks every worker has.
_PACKAGES = tuple(f"{os.sep}{name}{os.sep}" for name in ("distributed", "dask_flame", "tornado"))


async def look_inside(what: str, options: Mapping[str, Any], dask_worker: Worker) -> dict[str, Any]:
    """Return what there is to see in this process.

    Parameters
    ----------
    what : str
        One of :data:`dask_flame.attached.looking.looks.LOOKS`.
    options : mapping
        Further arguments of the look.
    dask_worker : distributed.Worker
        Given by the worker itself.
    """
    given = dict(options)
    if what == "stacks":
        given |= calls_of(dask_worker)
    # In a thread: the event loop has to serve the calls.
    return await asyncio.to_thread(_look, what, str(dask_worker.name), given)


def _look(what: str, name: str, options: dict[str, Any]) -> dict[str, Any]:
    from dask_flame.attached.looking.looks import look

    found = look(what, name, options)
    return without_surroundings(found) if what == "stacks" else found


def without_surroundings(stacks: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a worker's stacks what each worker has, and no call.

    Parameters
    ----------
    stacks : dict
        See :func:`dask_flame.attached.looking.looks.look`.

    Returns
    -------
    dict
        Calls begin with their own code, and there are only tasks of calls.
    """
    threads = [
        {**thread, "lines": _own_lines(thread["lines"])} if not thread["idle"] else thread
        for thread in stacks["threads"]
    ]
    in_threads = {thread["call"] for thread in threads if thread["call"]}
    tasks = [
        {**task, "lines": _own_lines(task["lines"])}
        for task in stacks["tasks"]
        # The task that waits for a call in a thread is of no interest.
        if task["call"] not in in_threads and (task["call"] or not _is_ours(task["lines"]))
    ]
    return {**stacks, "threads": threads, "tasks": tasks}


def _own_lines(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines after those with which a worker begins a call."""
    first = 0
    for i, line in enumerate(lines):
        if line["file"].endswith(_BEGIN):
            first = i + 1
        elif first:
            break
    return list(lines[first:] or lines)


def _is_ours(lines: Sequence[dict[str, Any]]) -> bool:
    return bool(lines) and any(part in lines[0]["file"] for part in _PACKAGES)


def calls_of(worker: Worker) -> dict[str, dict[Any, str]]:
    """Return the names of a worker's calls by their threads, and by their asyncio tasks."""
    with worker.active_threads_lock:
        threads = {ident: label(key) for ident, key in worker.active_threads.items()}
    # As `distributed.worker` names the tasks in which calls run.
    tasks = {f"execute({key!r})": label(key) for key in list(worker.active_keys)}
    return {"calls": threads, "task_calls": tasks}

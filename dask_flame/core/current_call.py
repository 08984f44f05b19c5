"""Find the call that the running code belongs to, in threads and coroutines of it too (runner).

A call is identified by its thread, or, on the event loop, by its asyncio task. asyncio passes the
context on to coroutines that a call starts. Threads inherit nothing, so a runner records at each
start of a thread which call started it.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from dask.typing import Key
from distributed import Worker, get_worker

from dask_flame.core.distributed_internals import workers
from dask_flame.core.messages import REPORTS


class Execution(Protocol):
    """One execution of a call, as the runner's reporter sees it."""

    over: bool


class Recorder(Protocol):
    """Collects the reports of a runner's calls."""

    forks: int

    @property
    def calls(self) -> Mapping[Key, Execution]: ...

    def open(self, key: Key) -> Execution: ...


#: The sender of a call's reports, and the call; their own modules have the precise types.
Place = tuple[Any, Any]

#: Attributes of a thread: the call that started it, and its key if nothing sends reports.
_STARTED_BY, _KEY_OF_STARTER = "_dask_flame_call", "_dask_flame_key"
#: The call in whose context code runs, if its runner set it; inherited by what the code starts.
_within: contextvars.ContextVar[Key | None] = contextvars.ContextVar(
    "dask_flame_within", default=None
)
#: Number of forks between this process and the one that imported this module; cheaper than
#: os.getpid() at each report.
#: process's number at each report would cost more than all the rest.
_forks = 0


def forks() -> int:
    """Return a number that differs in each process forked from this one."""
    return _forks


@functools.cache
def count_forks() -> None:
    """Begin to count forks."""

    def forked() -> None:
        global _forks
        _forks += 1

    os.register_at_fork(after_in_child=forked)


def enter(key: Key) -> None:
    """Make code in this context belong to this call from now on."""
    _within.set(key)


#: Return the key set by :func:`enter` in this context; faster than a Python function.
within = _within.get


def follow_threads() -> None:
    """Begin to record which call starts each thread of this process."""
    start = threading.Thread.start
    if hasattr(start, "dask_flame"):
        return

    @functools.wraps(start)
    def started(self: threading.Thread) -> None:
        place = _own() or _inherited()
        if place is not None:
            setattr(self, _STARTED_BY, place)
        key = _own_key()
        if key is None:
            key = getattr(threading.current_thread(), _KEY_OF_STARTER, None)
        if key is not None:
            setattr(self, _KEY_OF_STARTER, key)
        start(self)

    started.dask_flame = True  # type: ignore[attr-defined]
    threading.Thread.start = started  # type: ignore[method-assign]


def find() -> Place | None:
    """Return the call that this code belongs to and the sender of its reports; None if unknown.

    In a thread started by an earlier call, or before recording began, the only running call is
    returned, if there is exactly one.
    """
    place = _own()
    if place is not None or _within.get() is not None:
        return place
    place = _inherited()
    if place is not None and not place[1].over:
        return place
    active = list(_active()) if place is not None or _may_be_of_a_call() else []
    if not active:
        return place
    return active[0] if len(active) == 1 else None


def key_here() -> Key | None:
    """Return the key of the call that this code belongs to, whether or not reports are sent.

    Unlike :func:`find`, this also works in forked processes of a call, and never guesses on the
    event loop.
    """
    key = _own_key()
    if key is not None:
        return key
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return None
    key = getattr(threading.current_thread(), _KEY_OF_STARTER, None)
    if key is None and not _may_be_of_a_call():
        return None
    active = [k for worker in workers() for k in list(worker.active_keys)]
    return active[0] if len(active) == 1 and key not in active else key


def several() -> bool:
    """Return whether this code may belong to one of several calls, without knowing which."""
    return _may_be_of_a_call() and len(list(_active())) > 1


def worker_here() -> Worker | None:
    """Return the worker in whose context this code runs."""
    try:
        return get_worker()
    except ValueError:
        return None


def sender_of(worker: Worker) -> Recorder | None:
    sender: Recorder | None = worker.plugins.get(REPORTS)
    # A process forked from a runner has a copy of the sender, which sends nothing.
    return sender if sender is not None and sender.forks == _forks else None


def _own() -> Place | None:
    """Return the call that runs in this thread or coroutine, or that started this coroutine."""
    worker = worker_here()
    if worker is None:
        return None
    sender: Recorder | None = worker.plugins.get(REPORTS)
    if sender is None or sender.forks != _forks:
        return None
    key = _key_of(worker)
    if key is None:
        return None
    return sender, sender.calls.get(key) or sender.open(key)


def _own_key() -> Key | None:
    """Return the key of that call, or of the finished call in whose context this code runs."""
    key = _within.get()
    if key is None and (worker := worker_here()) is not None:
        key = _key_of(worker)
    return key


def _key_of(worker: Worker) -> Key | None:
    key: Key | None = worker.active_threads.get(threading.get_ident())
    if key is None:
        key = _coroutine(worker)
    if key is None:
        key = _within.get()
        if key is None or key not in worker.active_keys:
            return None
    return key


def _inherited() -> Place | None:
    """Return the call that started this thread."""
    place: Place | None = getattr(threading.current_thread(), _STARTED_BY, None)
    return place if place is not None and place[0].forks == _forks else None


def _active() -> Iterator[Place]:
    """Yield the calls that run in this process."""
    for worker in workers():
        sender = sender_of(worker)
        if sender is not None:
            for key in list(worker.active_keys):
                yield sender, sender.calls.get(key) or sender.open(key)


def _may_be_of_a_call() -> bool:
    """Return whether this may be a thread of a call: not the main thread, nor an event loop's."""
    if worker_here() is not None:
        return True
    if threading.current_thread() is threading.main_thread():
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def _coroutine(worker: Any) -> Key | None:
    """Return the key of the ``async def`` call that this code runs in.

    distributed records the key of a call by its thread, and such calls share the event loop's.
    Only the name of the asyncio task tells them apart.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    if task is not None:
        name = task.get_name()
        for key in worker.active_keys:
            if name == f"execute({key!r})":
                found: Key = key
                return found
    return None

"""Which call code belongs to: its own thread or coroutine, and those that it has started (runner).

A call is known by the thread it runs in, or, on the event loop, by its asyncio task. What it starts
is known to Python by the context that asyncio hands down, but threads inherit nothing: so a runner
notes at each start of a thread which call starts it.
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
    """One execution of a call, as its runner sees it."""

    over: bool


class Recorder(Protocol):
    """What gathers the reports of a runner's calls."""

    forks: int

    @property
    def calls(self) -> Mapping[Key, Execution]: ...

    def open(self, key: Key) -> Execution: ...


#: What sends the reports of a call, and the call. Their own modules know more of both.
Place = tuple[Any, Any]

#: Of a thread: the call that has started it; and its key, where nobody sends reports.
_STARTED_BY, _KEY_OF_STARTER = "_dask_flame_call", "_dask_flame_key"
#: The call in whose context code runs, where its runner says so; inherited by what it starts.
_within: contextvars.ContextVar[Key | None] = contextvars.ContextVar(
    "dask_flame_within", default=None
)

#: How many forks this process is away from the one that imported this; asking the system for the
#: process's number at each report would cost more than all the rest.
_forks = 0


def forks() -> int:
    """A number that is another one in a process that was forked from this one."""
    return _forks


@functools.cache
def count_forks() -> None:
    """From now on, count them."""

    def forked() -> None:
        global _forks
        _forks += 1

    os.register_at_fork(after_in_child=forked)


def enter(key: Key) -> None:
    """What runs in this context from now on belongs to this call."""
    _within.set(key)


#: The key of the call in whose context this is, where its runner says so; quicker than a function.
within = _within.get


def follow_threads() -> None:
    """From now on, threads that a call starts in this process are known to be its own."""
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
    """The call that this code belongs to, and what sends its reports; None if it is not known.

    Of a thread that an earlier call has started, or whose beginning was not seen, it is the only
    call that runs here, if there is only one.
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
    """The key of the call that this code belongs to, whether anybody sends reports or not.

    As :func:`find`, but it holds in what a call has forked, and on the event loop nothing is taken
    for a call's that is not known to be.
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
    """Whether this may be of one of several calls, and nobody knows of which."""
    return _may_be_of_a_call() and len(list(_active())) > 1


def worker_here() -> Worker | None:
    """The worker in whose context this is."""
    try:
        return get_worker()
    except ValueError:
        return None


def sender_of(worker: Worker) -> Recorder | None:
    sender: Recorder | None = worker.plugins.get(REPORTS)
    # In a process that was forked from a runner there is a copy, which sends nothing.
    return sender if sender is not None and sender.forks == _forks else None


def _own() -> Place | None:
    """The call whose own thread, or own coroutine, this is, or that has started this coroutine."""
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
    """The key of that call, or of the one whose context this is though it is over."""
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
    """The call that has started this thread."""
    place: Place | None = getattr(threading.current_thread(), _STARTED_BY, None)
    return place if place is not None and place[0].forks == _forks else None


def _active() -> Iterator[Place]:
    """The calls that run in this process."""
    for worker in workers():
        sender = sender_of(worker)
        if sender is not None:
            for key in list(worker.active_keys):
                yield sender, sender.calls.get(key) or sender.open(key)


def _may_be_of_a_call() -> bool:
    """Whether this may be a thread of a call: not where the process itself, or a driver, runs."""
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
    """The key of the ``async def`` call that this runs in.

    distributed notes the key of a call by its thread, which such calls share with the event loop.
    The name of their asyncio task is the one thing that tells them apart.
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

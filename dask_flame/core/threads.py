"""Jobs that must not hold anything up: done in order, by one thread, or dropped (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("dask_flame")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call this in a thread, so that the loop goes on; here, where the interpreter is ending."""
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except RuntimeError:
        # No thread is begun any more; what is done here is to let go of things.
        return function(*args, **kwargs)


def safely(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call what a user has given; an error in it is logged, and is no more than that."""
    try:
        function(*args, **kwargs)
    except Exception:
        logger.exception("a callback has failed")


class BackgroundThread:
    """Does jobs one after the other in a daemon thread that exists from the first job on.

    Jobs that come faster than they are done are dropped once too many wait.

    Parameters
    ----------
    name : str
        The thread's.
    most : int
        Jobs that may wait.
    """

    def __init__(self, name: str, *, most: int = 10_000) -> None:
        self._name = name
        self._jobs: queue.Queue[Callable[[], object] | None] = queue.Queue(most)
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def empty(self) -> bool:
        """Whether no job waits."""
        return self._jobs.empty()

    def do(self, job: Callable[[], object]) -> None:
        """Do this later; an error that it raises ends the thread, and drops all that follows."""
        if self._closed:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        with contextlib.suppress(queue.Full):
            self._jobs.put_nowait(job)

    def close(self, timeout: float = 0.5) -> None:
        """Do what is left, for so many seconds at most; what hangs then is left to hang."""
        self._closed = True
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._jobs.put_nowait(None)
            self._thread.join(timeout)
            self._thread = None

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                job()
        except Exception:
            self._closed = True

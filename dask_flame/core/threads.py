"""Run jobs in background threads, so that they block nothing (driver)."""

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

#: The text of a RuntimeError of Python. From the end of the main thread until its clusters are
#: closed, a process can neither read nor write large messages nor call callbacks of futures, and
#: nobody waits for that.
AT_EXIT = "cannot schedule new futures after interpreter shutdown"
_OF_POOL = "cannot schedule new futures after shutdown"


def is_at_exit(error: BaseException) -> bool:
    """Return whether work could not be given to a pool of threads because Python exits."""
    return isinstance(error, RuntimeError) and str(error) in (AT_EXIT, _OF_POOL)


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a thread; directly if the interpreter is shutting down."""
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except RuntimeError:
        # No thread can start any more; calls at this point only release resources.
        return function(*args, **kwargs)


def safely(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call a user's callback; log any error."""
    try:
        function(*args, **kwargs)
    except Exception:
        logger.exception("a callback has failed")


class BackgroundThread:
    """Run jobs in order in a daemon thread, which starts with the first job.

    Jobs are dropped while ``most`` jobs are waiting.

    Parameters
    ----------
    name : str
        Name of the thread.
    most : int
        Maximum number of waiting jobs.
    """

    def __init__(self, name: str, *, most: int = 10_000) -> None:
        self._name = name
        self._jobs: queue.Queue[Callable[[], object] | None] = queue.Queue(most)
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def empty(self) -> bool:
        """Whether no job is waiting."""
        return self._jobs.empty()

    def do(self, job: Callable[[], object]) -> None:
        """Queue a job; if it raises, the thread ends and all later jobs are dropped."""
        if self._closed:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        with contextlib.suppress(queue.Full):
            self._jobs.put_nowait(job)

    def close(self, timeout: float = 0.5) -> None:
        """Run the remaining jobs for at most ``timeout`` seconds; then leave the thread alone."""
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

"""Calls that wait for calls of their own: they leave their slot meanwhile (runner).

With one slot in all, a call that kept its slot while it waits for another would wait for ever. So
it leaves the slot, and before it goes on it waits until it has one again: there are never more
calls executing on a runner than its pool's ``concurrency``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import distributed
from dask.utils import parse_timedelta
from distributed import Future, rejoin, secede
from distributed.client import futures_of
from distributed.worker_state_machine import SecedeEvent

from dask_flame.runner.interrupt import Execution, current
from dask_flame.serialization.failures import Interrupted

if TYPE_CHECKING:
    from dask_flame.runner.worker import RunnerWorker

#: What a Client runs on the event loop when it waits for results. Private names, as there is no
#: other way to tell such waits from questions to the scheduler, which are answered at once.
WAITS = frozenset({"_result", "_exception", "_traceback", "_gather", "_wait"})


class Client(distributed.Client):
    """A client inside a call: while it waits for results, the call has left its slot.

    It is what :func:`distributed.get_client` gives on a runner. Iterating over
    :func:`distributed.as_completed` keeps the slot, as there is nothing to wait in
    (``with worker_client():`` around it leaves it); so does an explicit ``asynchronous=``. A wait
    that times out still has to wait for a slot, which the awaited call may have.

    The class is named as its base is: its id begins with that name, and is what clients of calls
    are told from drivers by.
    """

    def sync(
        self,
        func: Callable[..., Coroutine[Any, Any, Any]],
        *args: Any,
        asynchronous: bool | None = None,
        callback_timeout: Any = None,
        **kwargs: Any,
    ) -> Any:
        execution = current()
        if execution is None or asynchronous is not None or not _waits(func, args):
            return super().sync(
                func,
                *args,
                asynchronous=asynchronous,
                callback_timeout=callback_timeout,
                **kwargs,
            )
        seconds = None if callback_timeout is None else parse_timedelta(callback_timeout, "s")
        if execution.coroutine:
            return _await_outside(execution, func(*args, **kwargs), seconds)
        with _outside():
            return _wait(execution, func(*args, **kwargs), seconds)


def _waits(func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    if getattr(func, "__name__", "") not in WAITS:
        return False
    owner = getattr(func, "__self__", None)
    futures = [owner] if isinstance(owner, Future) else futures_of(args[:1])
    return not all(future.done() for future in futures)


# In a thread


@contextlib.contextmanager
def _outside() -> Iterator[None]:
    """Have no slot while the body waits."""
    # Nothing else happens while the KeyError is handled: it would be the context of an error that
    # the awaited call raises, and it cannot be pickled.
    seceded = True
    try:
        secede()
    except KeyError:
        seceded = False
    if not seceded:
        # The call has seceded of its own accord: it has no slot to come back to.
        yield
        return
    try:
        yield
    except Interrupted:
        raise
    except BaseException:
        rejoin()
        raise
    rejoin()


def come_back(execution: Execution) -> None:
    """Wait for a slot: the call's thread is about to rejoin the pool, here or in its own code."""
    worker: RunnerWorker = execution.worker
    if worker.calls.acquainted:
        _wait(execution, worker.calls.come_back(execution), None)
        if execution.interrupted:
            # It has none, and might have to wait for another call's thread.
            raise Interrupted
        execution.back = True


def _wait(execution: Execution, what: Coroutine[Any, Any, Any], seconds: float | None) -> Any:
    """Wait in this thread, in a way that ends when the call is interrupted."""
    loop = execution.worker.loop.asyncio_loop
    future = execution.waiting = asyncio.run_coroutine_threadsafe(what, loop)
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():
            raise
        raise TimeoutError(f"timed out after {seconds} s.") from None
    finally:
        execution.waiting = None
        future.cancel()


# In a coroutine


async def _await_outside(execution: Execution, what: Awaitable[Any], seconds: float | None) -> Any:
    async with _coroutine_outside(execution):
        return await asyncio.wait_for(what, seconds)


@contextlib.asynccontextmanager
async def _coroutine_outside(execution: Execution) -> AsyncIterator[None]:
    """Have no slot while the body awaits; several may do so at once in one call."""
    worker: RunnerWorker = execution.worker
    execution.outside += 1
    if execution.outside == 1 and execution.left:
        worker.calls.left_again(execution)
    elif execution.outside == 1:
        assert execution.since is not None
        execution.left = True
        worker.handle_stimulus(
            SecedeEvent(
                key=execution.key,
                compute_duration=time.monotonic() - execution.since,
                stimulus_id=f"flame-left-{time.time()}",
            )
        )
    try:
        yield
    except asyncio.CancelledError:
        execution.outside -= 1
        raise
    except BaseException:
        await _coroutine_back(execution)
        raise
    await _coroutine_back(execution)


async def _coroutine_back(execution: Execution) -> None:
    worker: RunnerWorker = execution.worker
    execution.outside -= 1
    if execution.outside == 0 and worker.calls.acquainted:
        await worker.calls.come_back(execution)

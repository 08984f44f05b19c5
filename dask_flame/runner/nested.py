"""Calls that wait for calls of their own, without a slot meanwhile (runner).

With a single slot, a call that keeps it while waiting for another call would wait forever. So it
leaves the slot, and waits for a slot before it continues: a runner never executes more calls than
its pool's ``concurrency``.
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

from dask_flame.code.runner.versions import local_names, version_here
from dask_flame.runner.interrupt import Execution, current
from dask_flame.serialization.failures import Interrupted
from dask_flame.serialization.opaque import opaquely

if TYPE_CHECKING:
    from dask_flame.runner.worker import RunnerWorker

#: Methods that a Client runs on the event loop to wait for results. These names are private; there
#: is no other way to tell such waits from requests to the scheduler, which are answered at once.
WAITS = frozenset({"_result", "_exception", "_traceback", "_gather", "_wait"})


class Client(distributed.Client):
    """A client inside a call; while it waits for results, the call has no slot.

    On a runner, :func:`distributed.get_client` returns this client. Iterating over
    :func:`distributed.as_completed` keeps the slot, because it does not use the client to wait
    (use ``with worker_client():`` to leave it); so does an explicit ``asynchronous=``. A wait that
    times out still has to wait for a slot, which the awaited call may hold.

    The class has the name of its base class: client ids begin with it, and tell clients of calls
    from drivers.
    """

    def _send_to_scheduler(self, msg: dict[str, Any]) -> None:
        # Private: calls of a call use its version of the local modules.
        if msg.get("op") == "update-graph" and (version := version_here()) is not None:
            msg = {**msg, "flame_code": version}
        super()._send_to_scheduler(msg)

    def _graph_to_futures(self, *args: Any, **kwargs: Any) -> Any:
        # Private: the scheduler may not have the local modules.
        with opaquely(local_names()):
            return super()._graph_to_futures(*args, **kwargs)

    def __del__(self) -> None:
        # Its worker closes it. A call that runs on meanwhile may ask for another one, which is
        # left when the loop has closed.
        if not self.loop.asyncio_loop.is_closed():
            super().__del__()

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


# In threads


@contextlib.contextmanager
def _outside() -> Iterator[None]:
    """Leave the slot while the body waits."""
    # Leave the handler of the KeyError first: otherwise it would become the context of an error
    # raised by the awaited call, and it cannot be pickled.
    seceded = True
    try:
        secede()
    except KeyError:
        seceded = False
    if not seceded:
        # The call itself had seceded before: it has no slot to return to.
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
    """Wait for a slot before the call's thread rejoins the pool, here or in its own code."""
    worker: RunnerWorker = execution.worker
    if worker.calls.flame_scheduler:
        _wait(execution, worker.calls.come_back(execution), None)
        if execution.interrupted:
            # It has no slot, and might have to wait for another call's thread.
            raise Interrupted
        execution.back = True


def _wait(execution: Execution, what: Coroutine[Any, Any, Any], seconds: float | None) -> Any:
    """Wait in this thread, such that an interruption of the call ends the wait."""
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


# In coroutines


async def _await_outside(execution: Execution, what: Awaitable[Any], seconds: float | None) -> Any:
    async with _coroutine_outside(execution):
        return await asyncio.wait_for(what, seconds)


@contextlib.asynccontextmanager
async def _coroutine_outside(execution: Execution) -> AsyncIterator[None]:
    """Leave the slot while the body awaits; one call may do so several times at once."""
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
    if execution.outside == 0 and worker.calls.flame_scheduler:
        await worker.calls.come_back(execution)

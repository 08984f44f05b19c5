"""Interrupting a call: an exception raised in its thread, and in no other call's (runner).

CPython can be asked to raise an exception in another thread, at the next moment when that thread
runs Python code. The difficulty is to raise it in one call and never in what the thread does
before or after it: a stray one would be the error of a call that nobody wanted to stop, or kill a
thread of the pool. So it is asked for only while the call is known to be inside; and when the call
is over, what was asked for and has not been raised yet is taken back.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future as ThreadFuture
from functools import partial
from typing import Any

from distributed import Reschedule, Worker
from distributed.core import error_message
from distributed.metrics import time as wall_clock
from distributed.threadpoolexecutor import ThreadPoolExecutor, thread_state

from dask_flame.core.distributed_internals import set_proceed
from dask_flame.runner.devices import Devices
from dask_flame.runner.gpus import make_current
from dask_flame.serialization.failures import Interrupted, fit_to_travel, message_of

# Both keep the interpreter's lock, so that nothing comes between a test and what it guards.
_ask = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)
_take_back = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)


class Execution:
    """One call, from the moment when the worker takes it up to the moment when it is over.

    Attributes
    ----------
    key : str
    run_id : int
        The scheduler's number of this run of the call.
    timeout : float or None
        Seconds that it may execute.
    work : asyncio.Task or None
        What runs it on the event loop, until the call is over.
    coroutine : bool
        Whether its own code runs there too.
    since : float or None
        When its code began, on the clock of :func:`time.monotonic`.
    ran : float or None
        Seconds that it had run when its timeout ran out.
    interrupted : bool
        Whether it was asked to stop.
    unwanted : bool
        Whether the scheduler has taken it back.
    over : bool
    ended : bool
        Whether its code is over.
    waiting : Future or None
        What its thread waits for, where an interruption can put an end to that.
    left : bool
        Whether it has left its slot, perhaps to come back, where it is a coroutine; see
        :mod:`dask_flame.runner.nested`.
    back : bool
        Whether its thread has left its slot and has come back.
    outside : int
        Things that it waits for, without a slot, where it is a coroutine.
    gpus : float
        How many it has asked for.
    packed : bool
        Whether it says itself when its own code begins.
    devices : Devices
        The GPUs that it has, from when its code begins.
    """

    def __init__(
        self,
        worker: Worker,
        key: Any,
        *,
        run_id: int,
        timeout: float | None,
        coroutine: bool,
        gpus: float = 0,
        packed: bool = False,
    ) -> None:
        work = asyncio.current_task()
        assert work is not None
        self.worker = worker
        self.key = key
        self.run_id = run_id
        self.timeout = timeout
        self.coroutine = coroutine
        self.gpus = gpus
        self.packed = packed
        self.devices = Devices()
        self.work: asyncio.Task[Any] | None = work
        self.on_start: Callable[[], object] | None = None
        self.since: float | None = None
        self.ran: float | None = None
        self.interrupted = False
        self.unwanted = False
        self.over = False
        self.ended = False
        self.waiting: ThreadFuture[Any] | None = None
        self.left = False
        self.back = False
        self.outside = 0
        self.thread: int | None = None
        self._taken = False
        self._inside = False

    def take(self) -> bool:
        """Whether what is submitted to the pool is this call; true once."""
        first = not (self._taken or self.coroutine)
        self._taken = True
        return first

    def start(self) -> None:
        """It begins to run, in this thread."""
        self.thread = threading.get_ident()
        self.devices = self.worker.gpus.take(self, self.gpus)
        if not self.packed:
            self.begin()

    def begin(self) -> None:
        """Its own code begins: what it needs has been read, which may have taken an import."""
        self.since = time.monotonic()
        if self.on_start is not None:
            self.worker.loop.add_callback(self.on_start)
        if self.packed and not self.coroutine:
            # Not before: an import that is interrupted may leave the lock of its module behind, for
            # which all later ones wait.
            self._inside = True
            if self.interrupted:
                raise Interrupted

    def run(self, call: Callable[[], Any]) -> Any:
        """Run it in this thread; when this is left, nothing is or will be raised in the thread.

        Parameters
        ----------
        call : callable
            distributed's function that runs the call.

        Returns
        -------
        dict
            What that returned. Of a call that was interrupted outside of its own code, which has no
            result and no error: what it returns of one that asks to be run again, for which nothing
            is pickled and looked up.
        """
        self.start()
        assert self.thread is not None
        thread = self.thread
        make_current(self.devices)
        try:
            try:
                self._inside = not self.packed
                if self.interrupted:
                    return _not_run(thread)
                outcome = call()
            finally:
                # The interpreter looks for exceptions to raise after calls and at jumps backwards:
                # there is neither before the second of these lines has done its work.
                self._inside = False
                _take_back(thread, None)
        except Interrupted as error:
            # It was raised in what distributed does around the call, which expects none there: most
            # often a second one, while that writes its account of the first.
            with self.worker.active_threads_lock:
                if self.worker.active_threads.get(thread) == self.key:
                    del self.worker.active_threads[thread]
            _let_go(error)
            return _not_run(thread)
        except BaseException as error:
            # distributed's account of what the call has made, or of how it has failed, has failed.
            with self.worker.active_threads_lock:
                self.worker.active_threads.pop(thread, None)
            return {**_not_run(thread), **_failed(error)}
        _let_go(outcome.get("actual_exception") if isinstance(outcome, dict) else None)
        return outcome

    def interrupt(self) -> None:
        """Ask it to stop; on the event loop only. May have to be repeated."""
        self.interrupted = True
        if self.coroutine:
            # It is suspended in its own code: distributed awaits nothing else once it has begun.
            if self.work is not None:
                self.work.cancel()
            return
        with self.worker.active_threads_lock:
            known = self.worker.active_threads.get(self.thread or -1) == self.key
            if known and self._inside and not _stopped(self.thread):
                _ask(self.thread, Interrupted)
        self.wake()

    def end(self) -> asyncio.Task[Any] | None:
        """It is over: let go of what runs it, and return that.

        The task's context holds this, and the task, once it is done, the call's result: a circle
        that would keep the result until the garbage is collected, which a runner that has few and
        large results does late, if ever.
        """
        self.over = True
        work, self.work = self.work, None
        return work

    def wake(self) -> None:
        """Put an end to what its thread waits for, if it waits in a way that can be ended."""
        waiting = self.waiting
        if waiting is not None:
            waiting.cancel()


def _not_run(thread: int) -> dict[str, Any]:
    return {"op": "task-erred", "thread": thread, "actual_exception": Reschedule()}


def _failed(error: BaseException) -> dict[str, Any]:
    now = wall_clock()
    return {**message_of(error), "actual_exception": error, "start": now, "stop": now}


def _stopped(thread: int | None) -> bool:
    """Whether the call in this thread has ended in an error, of which distributed writes now.

    That takes seconds in a busy process, and would have to be begun again.
    """
    frame = sys._current_frames().get(thread or -1)
    while frame is not None:
        if frame.f_code in (error_message.__code__, fit_to_travel.__code__):
            return True
        frame = frame.f_back
    return False


def _let_go(error: BaseException | None) -> None:
    """Empty the frames that a call has left behind, and let them go, if it ended in an error.

    distributed's account of an error is in one of them, and holds it: without this, what the call
    had (futures of calls that it waited for, arrays) would stay until the garbage is collected.
    What is told of the error has been pickled, and needs them no more.
    """
    left, seen = [error], set()
    while left:
        found = left.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        # It may have been asked more than once, and stopped while it handled an error of its own.
        traceback.clear_frames(found.__traceback__)
        # A frame holds those beneath it, which are ours, and have the error among their variables.
        found.__traceback__ = None
        left += (found.__cause__, found.__context__)


#: The call in whose context code runs. It is inherited by what the call starts.
_context: contextvars.ContextVar[Execution | None] = contextvars.ContextVar(
    "dask_flame_execution", default=None
)


def enter(execution: Execution) -> None:
    """What runs in this context from now on belongs to this call."""
    _context.set(execution)


def of_this_call() -> Execution | None:
    """The call in whose context this is; None outside of any."""
    return _context.get()


def current() -> Execution | None:
    """The call whose own thread, or own coroutine, this is; None anywhere else."""
    execution = _context.get()
    if execution is None or execution.over:
        return None
    here = threading.get_ident()
    own = execution.worker.thread_id if execution.coroutine else execution.thread
    return execution if own == here else None


class InterruptibleThreadPoolExecutor(ThreadPoolExecutor):
    """A worker's threads, in which calls can be interrupted.

    Parameters
    ----------
    nthreads : int
    name : str
        Of the runner, for the threads' names.
    on_rejoin : callable
        What a call does, in its thread, before that rejoins the pool.
    """

    def __init__(
        self, nthreads: int, name: str, *, on_rejoin: Callable[[Execution], object]
    ) -> None:
        self._on_rejoin = on_rejoin
        super().__init__(nthreads, thread_name_prefix=f"{name}-Dask-Default-Threads")

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> ThreadFuture[Any]:
        future: ThreadFuture[Any]
        execution = _context.get()
        call = partial(fn, *args, **kwargs)
        # Not all that is submitted in a call's context is the call: `rejoin` submits from inside.
        if execution is not None and execution.take():
            call = partial(self._run, execution, call)
        elif (own := current()) is not None and (request := self._take_back_rejoin()):
            # A thread that is in the pool and waits for a slot would keep the pool from running
            # the call that has the slot: it joins when the slot is its own.
            self._on_rejoin(own)
            with self._rejoin_lock:
                self._rejoin_list.append((threading.current_thread(), request))
            future = super().submit(call)
            request.wait()
            return future
        future = super().submit(call)
        return future

    def _take_back_rejoin(self) -> threading.Event | None:
        """Take back this thread's request to rejoin the pool; None where it has made none."""
        me = threading.current_thread()
        with self._rejoin_lock:
            if thread_state.proceed:
                return None
            for item in self._rejoin_list:
                if item[0] is me:
                    self._rejoin_list.remove(item)
                    request: threading.Event = item[1]
                    return request
            if me not in self._threads:
                return None
            # Another thread has just left for this one: the pool gets a new one instead.
            self._threads.remove(me)
            self._adjust_thread_count()
            return threading.Event()

    def _run(self, execution: Execution, call: Callable[[], Any]) -> Any:
        try:
            return execution.run(call)
        finally:
            execution.ended = True
            if not thread_state.proceed:
                self._leave_or_stay()

    def _leave_or_stay(self) -> None:
        """See to it that the pool's idea of this thread is right, wherever its call was stopped.

        A call that is interrupted while it waits in `rejoin` leaves its request behind, which takes
        a thread from the pool in exchange for one that does not know of it.
        """
        me = threading.current_thread()
        with self._rejoin_lock:
            self._rejoin_list[:] = [item for item in self._rejoin_list if item[0] is not me]
            set_proceed(me in self._threads)

"""Interrupt a call by an exception in its thread, without harm to other calls (runner).

CPython can raise an exception in another thread, at the next moment when that thread runs Python
code. The difficulty is to hit one call, and never the code that the thread runs before or after it:
a stray exception would become the error of another call, or kill a thread of the pool. Therefore
the exception is requested only while the call is known to be running, and a request that is still
pending when the call ends is withdrawn.
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
from dask_flame.runner.awaited_process import end_awaited_process, starts_process
from dask_flame.runner.devices import Devices
from dask_flame.runner.gpus import make_current
from dask_flame.serialization.failures import Interrupted, fit_to_travel, message_of

# Both calls keep the interpreter lock, so that nothing runs between a check and the request.
_request_exception = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)
_withdraw_exception = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)


class Execution:
    """One call, from the moment when the worker takes it until it is over.

    Attributes
    ----------
    key : str
    run_id : int
        The scheduler's number for this run of the call.
    timeout : float or None
        Maximum duration of the execution, in seconds.
    work : asyncio.Task or None
        The task that runs it on the event loop, until the call is over.
    coroutine : bool
        Whether its code runs on the event loop too.
    since : float or None
        When its code began, in seconds of :func:`time.monotonic`.
    ran : float or None
        Seconds for which it had run when its timeout expired.
    interrupted : bool
        Whether it has been asked to stop.
    unwanted : bool
        Whether the scheduler has released it.
    over : bool
        Whether the worker has finished with it.
    ended : bool
        Whether its code has ended.
    waiting : Future or None
        The future that its thread waits for, if an interruption can cancel it.
    left : bool
        For a coroutine: whether it has ever left its slot; see
        :mod:`dask_flame.runner.nested`.
    back : bool
        Whether its thread left its slot and came back.
    outside : int
        For a coroutine: number of its waits in progress without a slot.
    gpus : float
        Number of GPUs requested.
    packed : bool
        Whether its code itself signals when it begins.
    devices : Devices
        Its GPUs, from the moment when its code begins.
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
        self._requested = False
        self._asked = False

    def take(self) -> bool:
        """Return whether a submission to the pool is this call; True only once."""
        first = not (self._taken or self.coroutine)
        self._taken = True
        return first

    def start(self) -> None:
        """Begin the execution in this thread."""
        self.thread = threading.get_ident()
        self.devices = self.worker.gpus.take(self, self.gpus)
        if not self.packed:
            self.begin()

    def begin(self) -> None:
        """Begin the call's own code: its inputs have been unpickled, which may involve imports."""
        self.since = time.monotonic()
        if self.on_start is not None:
            self.worker.loop.add_callback(self.on_start)
        if self.packed and not self.coroutine:
            # Not earlier: an interrupted import may leave the lock of its module held, and all
            # later imports of the module would wait for it.
            self._inside = True
            if self.interrupted:
                raise Interrupted

    def run(self, call: Callable[[], Any]) -> Any:
        """Run the call in this thread; afterwards no interruption is or will be raised in it.

        Parameters
        ----------
        call : callable
            distributed's function that runs the call.

        Returns
        -------
        dict
            The return value of ``call``. If the call was interrupted outside of its own code, and
            so has no result and no error: the value for a call that asks to be run again, which
            requires no pickling.
        """
        self.start()
        assert self.thread is not None
        thread = self.thread
        make_current(self.devices)
        try:
            try:
                self._inside = not self.packed
                if self.interrupted:
                    return _rescheduled(thread)
                outcome = call()
            finally:
                # The interpreter raises pending exceptions after calls and at backward jumps.
                # Neither occurs before the withdrawal has taken effect.
                self._inside = False
                if self._requested:
                    _withdraw_exception(thread, None)
                    _forget_requests(thread)
        except Interrupted as error:
            # Raised in distributed's code around the call, which expects no such error: usually a
            # second interruption, while distributed records the first.
            with self.worker.active_threads_lock:
                if self.worker.active_threads.get(thread) == self.key:
                    del self.worker.active_threads[thread]
            _clear_frames(error)
            return _rescheduled(thread)
        except BaseException as error:
            # distributed failed to record the result or the error of the call.
            with self.worker.active_threads_lock:
                self.worker.active_threads.pop(thread, None)
            return {**_rescheduled(thread), **_failed(error)}
        raised = outcome.get("actual_exception") if isinstance(outcome, dict) else None
        kept = self.worker.post_mortems
        if (
            raised is None
            or kept is None
            or not kept.takes(self.key, partial(_clear_frames, raised))
        ):
            _clear_frames(raised)
        return outcome

    def interrupt(self) -> bool:
        """Ask the call to stop; on the event loop only. May have to be repeated.

        A child process that the call waits for is asked to end too, and killed the next time.

        Returns
        -------
        bool
            False if it could not be asked at this moment, in which it starts a child process.
        """
        self.interrupted = True
        if self.coroutine:
            # It is suspended in its own code: once started, distributed awaits nothing else.
            if self.work is not None:
                self.work.cancel()
            return True
        with self.worker.active_threads_lock:
            known = self.worker.active_threads.get(self.thread or -1) == self.key
            inside = known and self._inside and not _stopped(self.thread)
            if inside and starts_process(self.thread or -1):
                return False
            first, self._asked = not self._asked, True
            if inside:
                # The call cannot end before this lock is free.
                assert self.thread is not None
                self._requested = True
                _request_exception(self.thread, Interrupted)
                end_awaited_process(self.thread, kindly=first)
        self.wake()
        return True

    def end(self) -> asyncio.Task[Any] | None:
        """Mark the call as over; drop and return the task that runs it.

        The context of the task refers to this object, and the finished task to the call's result.
        This cycle would keep the result until garbage is collected, which happens late, if ever, on
        a runner with few and large results.
        """
        self.over = True
        work, self.work = self.work, None
        return work

    def wake(self) -> None:
        """Cancel the future that its thread waits for, if there is one."""
        waiting = self.waiting
        if waiting is not None:
            waiting.cancel()


def _forget_requests(thread: int) -> None:
    """Have the interpreter forget that exceptions were requested in this thread.

    CPython until 3.12 forgets a request only when it raises the exception, not when the request is
    withdrawn. In 3.11 a thread with a profiler, such as cProfile, looks for the exception without
    end until then.
    """
    try:
        _request_exception(thread, Interrupted)
        for _ in range(1_000):
            pass
    except Interrupted:
        pass


def _rescheduled(thread: int) -> dict[str, Any]:
    return {"op": "task-erred", "thread": thread, "actual_exception": Reschedule()}


def _failed(error: BaseException) -> dict[str, Any]:
    now = wall_clock()
    return {**message_of(error), "actual_exception": error, "start": now, "stop": now}


def _stopped(thread: int | None) -> bool:
    """Return whether the call in this thread has failed, and distributed is recording its error.

    That takes seconds in a busy process, and an interruption would make it start again.
    """
    frame = sys._current_frames().get(thread or -1)
    while frame is not None:
        if frame.f_code in (error_message.__code__, fit_to_travel.__code__):
            return True
        frame = frame.f_back
    return False


def _clear_frames(error: BaseException | None) -> None:
    """Clear the frames that a failed call has left behind.

    One of the frames holds distributed's record of the error, which refers back to the frames:
    without this, the objects of the call (futures, arrays) would stay until garbage is collected.
    The error has been pickled, and needs the frames no more.
    """
    left, seen = [error], set()
    while left:
        found = left.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        # The call may have been interrupted while it handled an error of its own.
        traceback.clear_frames(found.__traceback__)
        # A frame refers to its callers, dask-flame's own, which have the error among their locals.
        found.__traceback__ = None
        left += (found.__cause__, found.__context__)


#: The call in whose context code runs; inherited by what the call starts.
_context: contextvars.ContextVar[Execution | None] = contextvars.ContextVar(
    "dask_flame_execution", default=None
)


def enter(execution: Execution) -> None:
    """Make code in this context belong to this call from now on."""
    _context.set(execution)


def execution_here() -> Execution | None:
    """Return the call in whose context this code runs, or None."""
    return _context.get()


def current() -> Execution | None:
    """Return the call that runs in this thread or coroutine itself, or None."""
    execution = _context.get()
    if execution is None or execution.over:
        return None
    here = threading.get_ident()
    own = execution.worker.thread_id if execution.coroutine else execution.thread
    return execution if own == here else None


class InterruptibleThreadPoolExecutor(ThreadPoolExecutor):
    """A worker's thread pool, in which calls can be interrupted.

    Parameters
    ----------
    nthreads : int
    name : str
        Name of the runner, for the names of the threads.
    on_rejoin : callable
        Called in a call's thread before it rejoins the pool.
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
        # `rejoin` also submits a function from inside a call: only the first one is the call.
        if execution is not None and execution.take():
            call = partial(self._run, execution, call)
        elif (own := current()) is not None and (request := self._withdraw_rejoin()):
            # A thread in the pool that waits for a slot would keep the pool from running the call
            # that has the slot: rejoin only once the slot is available.
            self._on_rejoin(own)
            with self._rejoin_lock:
                self._rejoin_list.append((threading.current_thread(), request))
            future = super().submit(call)
            request.wait()
            return future
        future = super().submit(call)
        return future

    def _withdraw_rejoin(self) -> threading.Event | None:
        """Withdraw this thread's request to rejoin the pool; return None if there is none."""
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
            # Another thread has just left in exchange for this one: replace it.
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
        """Correct the pool's record of this thread, wherever its call was interrupted.

        A call interrupted while it waits in `rejoin` leaves its request behind. The pool would give
        up another thread in exchange for this one, which does not know of it.
        """
        me = threading.current_thread()
        with self._rejoin_lock:
            self._rejoin_list[:] = [item for item in self._rejoin_list if item[0] is not me]
            set_proceed(me in self._threads)

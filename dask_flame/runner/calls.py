"""The calls that a runner executes: their clocks, their ends, what is said of them (runner)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

from dask.utils import parse_timedelta
from distributed import Worker
from distributed.worker_state_machine import (
    ExecuteDoneEvent,
    ExecuteFailureEvent,
    ExecuteSuccessEvent,
    LongRunningMsg,
    RescheduleEvent,
)

from dask_flame.core import current_call
from dask_flame.core.messages import FREED, HELLO, OVERRAN, RETURN, RETURNED, WATCH
from dask_flame.errors import CallTimeout
from dask_flame.runner import main_module
from dask_flame.runner.interrupt import Execution, enter
from dask_flame.serialization.failures import sealed, sealed_traceback
from dask_flame.serialization.packed import PackedTask

#: Seconds after which a call that was asked to stop, and goes on, is asked again.
_ASK_AGAIN = 1.0


class Calls:
    """The calls that a runner executes.

    distributed takes a thread for free as soon as its call is cancelled or has failed, while the
    thread goes on to its end. The scheduler asks about such calls, or is told of them; when the
    thread is free it hears of that.

    Parameters
    ----------
    worker : distributed.Worker

    Attributes
    ----------
    acquainted : bool
        Whether the scheduler knows the words of :mod:`dask_flame.core.messages`. A stock one does
        not, and drops a worker that uses them.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.acquainted = False
        self._executing: dict[Any, Execution] = {}
        self._watched: dict[Any, bool] = {}  # taken back, not begun: whether to be interrupted
        self._untold: set[Any] = set()  # ended, which the worker's state is about to be told
        self._returning: dict[Any, asyncio.Future[None]] = {}
        worker.stream_handlers.update(
            {HELLO: self.hello, WATCH: self.watch, RETURNED: self.returned}
        )

    # A call's way

    @contextlib.contextmanager
    def execute(self, key: Any) -> Iterator[Execution]:
        """Look after this call while the body runs it."""
        ts = self.worker.state.tasks[key]
        annotations = ts.annotations or {}
        coroutine = bool(ts.run_spec.is_coro)
        # In our threads it starts when there is one for it; of other executors we know nothing.
        unknown = annotations.get("executor", "default") != "default" and not coroutine
        execution = Execution(
            self.worker,
            key,
            run_id=ts.run_id,
            timeout=_seconds(annotations.get("timeout")),
            coroutine=coroutine,
            gpus=(ts.resource_restrictions or {}).get("GPU", 0),
            packed=isinstance(ts.run_spec, PackedTask) and not unknown,
        )
        if execution.packed:
            ts.run_spec.on_open = execution.begin
        self._executing[key] = execution
        self._untold.discard(key)
        if execution.timeout is not None:
            execution.on_start = lambda: self._start_clock(execution)
        elsewhere = coroutine or unknown
        if elsewhere:
            execution.start()
        if key in self._watched:
            interrupt = self._watched.pop(key)
            # Not now: a coroutine that is cancelled from within itself, and ends before it awaits
            # anything, leaves nothing that the worker's state could be told.
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: self._taken_back(execution, interrupt=interrupt))
            execution.unwanted = True
        enter(execution)
        current_call.enter(key)
        prints = self.worker.prints
        if prints is not None:
            prints.begin(key)
        try:
            yield execution
        finally:
            work = execution.end()
            if (main := main_module.installed()) is not None:
                main.forget(key)
            if prints is not None:
                prints.end(key)
            if elsewhere:
                execution.ended = True
            del self._executing[key]
            self._untold.add(key)
            self._returning.pop(key, None)
            if execution.unwanted or (execution.ran is not None and self.acquainted):
                # distributed has added its own callback, which tells the worker's state, before.
                assert work is not None
                work.add_done_callback(lambda work: self.say(FREED, key=key))
            del work

    def waiting(self, execution: Execution) -> bool:
        """Whether a call waits for calls of its own, and has no slot meanwhile."""
        if execution.coroutine:
            return execution.outside > 0
        ts = self.worker.state.tasks.get(execution.key)
        return ts in self.worker.state.long_running and not execution.back

    def gone(self, execution: Execution) -> bool:
        """Whether a call is over, and the object let go, if it was to place one."""
        if not execution.ended:
            return False
        ts = self.worker.state.tasks.get(execution.key)
        there = execution.key in self.worker.state.actors
        return not there or ts is None or ts.state == "error"

    def outcome(self, execution: Execution, event: ExecuteDoneEvent) -> ExecuteDoneEvent:
        """What is to be told of a call that has ended: an end that we made is no error of its own.

        Where the scheduler has taken the call back this is told to nobody. It counts when the same
        call was wanted again meanwhile, and where the scheduler does not know of overruns.
        """
        if execution.ran is not None:
            assert execution.timeout is not None
            error = CallTimeout(
                f"{execution.key} was not done within its timeout={execution.timeout:g} s: it had "
                f"been executing on {self.worker.name} for {execution.ran:.1f} s"
            )
            timed = isinstance(event, ExecuteSuccessEvent | ExecuteFailureEvent)
            return ExecuteFailureEvent.from_exception(
                error,
                key=event.key,
                run_id=execution.run_id,
                start=event.start if timed else None,
                stop=event.stop if timed else None,
                stimulus_id=event.stimulus_id,
            )
        if isinstance(event, ExecuteFailureEvent):
            if execution.interrupted:
                return RescheduleEvent(key=event.key, stimulus_id=event.stimulus_id)
            event.exception = sealed(event.exception, event.exception_text)
            event.traceback = sealed_traceback(event.traceback)
        return event

    # Clocks

    def _start_clock(self, execution: Execution) -> None:
        if not execution.over:
            assert execution.timeout is not None
            assert execution.since is not None
            left = execution.since + execution.timeout - time.monotonic()
            asyncio.get_running_loop().call_later(max(0.0, left), self._ran_out, execution)

    def _ran_out(self, execution: Execution) -> None:
        if execution.over or execution.interrupted:
            return
        assert execution.since is not None
        execution.ran = time.monotonic() - execution.since
        if self.acquainted:
            self.say(OVERRAN, key=execution.key, timeout=execution.timeout, seconds=execution.ran)
        self._interrupt(execution)

    def _interrupt(self, execution: Execution) -> None:
        if not execution.over:
            execution.interrupt()
            # What catches everything, in a loop, has to be asked more than once.
            asyncio.get_running_loop().call_later(_ASK_AGAIN, self._interrupt, execution)

    # What the scheduler says

    def hello(self, **kwargs: Any) -> None:
        """The scheduler knows our words."""
        self.acquainted = True

    def watch(self, key: Any, interrupt: bool = False, **kwargs: Any) -> None:
        """The scheduler has taken this call back."""
        self.acquainted = True
        execution = self._executing.get(key)
        state = self.worker.state
        ts = state.tasks.get(key)
        if execution is not None:
            self._taken_back(execution, interrupt=interrupt)
        elif key in self._untold:
            self.say(FREED, key=key)
        elif ts is not None and (ts in state.executing or ts in state.long_running):
            # Its execution begins in the next turn of the loop; nothing can stop that.
            self._watched[key] = interrupt
        else:
            self.say(FREED, key=key)

    def returned(self, key: Any, **kwargs: Any) -> None:
        """A call that had left its slot has one again."""
        waiting = self._returning.pop(key, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _taken_back(self, execution: Execution, *, interrupt: bool) -> None:
        execution.unwanted = True
        self.returned(execution.key)  # it needs no slot to go on to its end
        if interrupt and not execution.interrupted:
            self._interrupt(execution)

    # What is said to the scheduler

    def say(self, word: str, **what: Any) -> None:
        self.worker.batched_send({"op": word, **what})

    def told(self, key: Any) -> None:
        """The worker's state has been told that this call has ended."""
        self._untold.discard(key)

    def seceded(self, key: Any) -> None:
        """The thread of a call has left the pool, not for the first time perhaps."""
        execution = self._executing.get(key)
        if execution is not None and execution.back:
            execution.back = False
            self.left_again(execution)

    def left_again(self, execution: Execution) -> None:
        """A call that had come back has left its slot again, which distributed says only once."""
        if not self.acquainted:
            return
        stimulus = f"flame-left-{time.time()}"
        again = LongRunningMsg(
            key=execution.key,
            run_id=execution.run_id,
            compute_duration=None,
            stimulus_id=stimulus,
        )
        self.worker.batched_send(again.to_dict())

    async def come_back(self, execution: Execution) -> None:
        """Wait until this call has a slot again, or has no need of one."""
        if execution.unwanted or execution.over:
            return
        waiting = self._returning[execution.key] = asyncio.get_running_loop().create_future()
        self.say(RETURN, key=execution.key)
        await waiting


def _seconds(timeout: Any) -> float | None:
    try:
        return None if timeout is None else float(parse_timedelta(timeout))
    except (TypeError, ValueError, KeyError):
        return None  # somebody else's annotation

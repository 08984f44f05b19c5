"""The calls that a runner executes: their timeouts, their ends, their messages (runner)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterator
from functools import partial
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

#: Seconds after which a call that ignored an interruption is interrupted again.
_ASK_AGAIN = 1.0
#: Seconds after which a call that was starting a child process is interrupted.
_STARTS_A_PROCESS = 0.01


class Calls:
    """The calls that a runner executes.

    When a call is cancelled or fails, distributed considers its thread free, while the thread runs
    on to its end. The scheduler asks about such calls, or is told about them, and is notified when
    the thread is free.

    Parameters
    ----------
    worker : distributed.Worker

    Attributes
    ----------
    flame_scheduler : bool
        Whether the scheduler knows the messages of :mod:`dask_flame.core.messages`. A stock
        scheduler does not, and drops a worker that uses them.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.flame_scheduler = False
        self.inline = 0
        self._executing: dict[Any, Execution] = {}
        self._watched: dict[Any, bool] = {}  # released before they began: whether to interrupt
        self._unrecorded: set[Any] = set()  # ended, but not yet recorded in the worker's state
        self._returning: dict[Any, asyncio.Future[None]] = {}
        worker.stream_handlers.update(
            {HELLO: self.hello, WATCH: self.watch, RETURNED: self.returned}
        )
        self._take = worker.stream_handlers["compute-task"]
        worker.stream_handlers["compute-task"] = self.take

    # The course of a call

    @contextlib.contextmanager
    def execute(self, key: Any) -> Iterator[Execution]:
        """Manage a call while the body runs it."""
        began = time.time()  # the clock of files
        ts = self.worker.state.tasks[key]
        annotations = ts.annotations or {}
        coroutine = bool(ts.run_spec.is_coro)
        # In our threads a call starts when a thread is free; other executors do not say.
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
        post_mortems = self.worker.post_mortems
        if post_mortems is not None and isinstance(ts.run_spec, PackedTask):
            ts.run_spec.on_error = partial(post_mortems.failed, key)
        self._executing[key] = execution
        self._unrecorded.discard(key)
        if execution.timeout is not None:
            execution.on_start = lambda: self._start_clock(execution)
        elsewhere = coroutine or unknown
        if elsewhere:
            execution.start()
        if key in self._watched:
            interrupt = self._watched.pop(key)
            # Deferred: a coroutine that is cancelled from within, and ends before it awaits
            # anything, leaves no event for the worker's state.
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: self._released(execution, interrupt=interrupt))
            execution.unwanted = True
        enter(execution)
        current_call.enter(key)
        version = getattr(ts.run_spec, "version", None)
        if version is not None:
            self.worker.local_code.begin(key, ts.run_spec)
        prints = self.worker.prints
        if prints is not None:
            prints.begin(key)
        try:
            yield execution
        finally:
            work = execution.end()
            self.worker.file_server.ended(key, began)
            if (main := main_module.installed()) is not None:
                main.forget(key)
            if prints is not None:
                prints.end(key)
            if elsewhere:
                execution.ended = True
            del self._executing[key]
            self._unrecorded.add(key)
            if version is not None:
                self.worker.local_code.end(key)
            self._returning.pop(key, None)
            if execution.unwanted or (execution.ran is not None and self.flame_scheduler):
                # distributed's own callback, which updates the worker's state, was added before.
                assert work is not None
                work.add_done_callback(lambda work: self.say(FREED, key=key))
            del work

    @property
    def unrecorded(self) -> Collection[Any]:
        """The calls that have ended, but whose results the worker does not hold yet."""
        return self._unrecorded

    def waiting(self, execution: Execution) -> bool:
        """Return whether a call waits for its own calls, without a slot."""
        if execution.coroutine:
            return execution.outside > 0
        ts = self.worker.state.tasks.get(execution.key)
        return ts in self.worker.state.long_running and not execution.back

    def gone(self, execution: Execution) -> bool:
        """Return whether a call is over, and its actor deleted, if it created one."""
        if not execution.ended:
            return False
        ts = self.worker.state.tasks.get(execution.key)
        there = execution.key in self.worker.state.actors
        return not there or ts is None or ts.state == "error"

    def outcome(self, execution: Execution, event: ExecuteDoneEvent) -> ExecuteDoneEvent:
        """Return the event for a call that has ended; an interruption is not an error of the call.

        If the scheduler has released the call, it ignores the event. The event matters if the same
        call was submitted again meanwhile, and with a scheduler that does not know timeouts.
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

    # Timeouts

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
        if self.flame_scheduler:
            self.say(OVERRAN, key=execution.key, timeout=execution.timeout, seconds=execution.ran)
        self._interrupt(execution)

    def _interrupt(self, execution: Execution) -> None:
        if not execution.over:
            # A loop that catches every exception has to be interrupted more than once.
            pause = _ASK_AGAIN if execution.interrupt() else _STARTS_A_PROCESS
            asyncio.get_running_loop().call_later(pause, self._interrupt, execution)

    # Messages from the scheduler

    def take(self, run_spec: Any, **message: Any) -> None:
        """Take a call to run, as the worker does."""
        self._take(run_spec=PackedTask.of(run_spec), **message)

    def hello(self, inline: int = 0, **kwargs: Any) -> None:
        """Note that the scheduler knows dask-flame's messages."""
        self.flame_scheduler = True
        self.inline = inline

    def watch(self, key: Any, interrupt: bool = False, **kwargs: Any) -> None:
        """Handle the release of a call by the scheduler."""
        self.flame_scheduler = True
        execution = self._executing.get(key)
        state = self.worker.state
        ts = state.tasks.get(key)
        if execution is not None:
            self._released(execution, interrupt=interrupt)
        elif key in self._unrecorded:
            self.say(FREED, key=key)
        elif ts is not None and (ts in state.executing or ts in state.long_running):
            # Its execution begins in the next turn of the event loop; that cannot be prevented.
            self._watched[key] = interrupt
        else:
            self.say(FREED, key=key)

    def returned(self, key: Any, **kwargs: Any) -> None:
        """Let a call that had left its slot go on: it has one again."""
        waiting = self._returning.pop(key, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _released(self, execution: Execution, *, interrupt: bool) -> None:
        execution.unwanted = True
        self.returned(execution.key)  # it needs no slot to run to its end
        if interrupt and not execution.interrupted:
            self._interrupt(execution)

    # Messages to the scheduler

    def say(self, word: str, **what: Any) -> None:
        self.worker.batched_send({"op": word, **what})

    def recorded(self, key: Any) -> None:
        """Note that the worker's state has recorded the end of this call."""
        self._unrecorded.discard(key)

    def seceded(self, key: Any) -> None:
        """Handle a call's departure from the thread pool, possibly a repeated one."""
        execution = self._executing.get(key)
        if execution is not None and execution.back:
            execution.back = False
            self.left_again(execution)

    def left_again(self, execution: Execution) -> None:
        """Report that a call left its slot again, which distributed reports only once."""
        if not self.flame_scheduler:
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
        """Wait until this call has a slot again, or needs none."""
        if execution.unwanted or execution.over:
            return
        waiting = self._returning[execution.key] = asyncio.get_running_loop().create_future()
        self.say(RETURN, key=execution.key)
        await waiting


def _seconds(timeout: Any) -> float | None:
    try:
        return None if timeout is None else float(parse_timedelta(timeout))
    except (TypeError, ValueError, KeyError):
        return None  # another library's annotation

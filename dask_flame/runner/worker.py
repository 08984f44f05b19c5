"""The Dask worker of a runner (runner)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

import dask.config
from dask.utils import parse_timedelta
from distributed import Status, Worker
from distributed.protocol import Serialized, pickle, serialize
from distributed.utils import in_async_call
from distributed.worker_state_machine import (
    ExecuteDoneEvent,
    ExecuteFailureEvent,
    SecedeEvent,
    StateMachineEvent,
)

from dask_flame.code.runner.worker import LocalModules
from dask_flame.core.distributed_internals import adopt_client
from dask_flame.core.guarded_server import GuardedServer
from dask_flame.core.immediate_send import ImmediateSender
from dask_flame.core.messages import PAUSED, POST_MORTEM, UNSENDABLE
from dask_flame.files.runner.serve import FileServer
from dask_flame.prints.runner.framing import FramedPrints
from dask_flame.prints.runner.sender import later
from dask_flame.runner.attachments import Attachments
from dask_flame.runner.calls import Calls
from dask_flame.runner.failure_lines import show_failures_in_one_line
from dask_flame.runner.gpus import Gpus, visible
from dask_flame.runner.idle_profiling import IdleProfiling
from dask_flame.runner.interrupt import Execution, InterruptibleThreadPoolExecutor
from dask_flame.runner.nested import Client, come_back
from dask_flame.runner.process_exit import ProcessExit
from dask_flame.runner.redacted_logs import redact_logs
from dask_flame.runner.transfers import SafeComm, without_unreadable
from dask_flame.serialization.failures import (
    answer_always,
    message_of,
    sealed_error,
    shielded,
    unharmed,
)
from dask_flame.serialization.packed import is_being_cancelled
from dask_flame.serialization.plain_data import pickled

if TYPE_CHECKING:
    from dask_flame.runner.post_mortems import PostMortems

#: What to write so that there are post-mortems.
_KEEP = "write Pool(post_mortem=True) before the call"
#: Maximum number of seconds for a worker to close.
_CLOSE_WITHIN = 5.0
#: Loggers that tell of what breaks because a worker closes.
_LOUD_AT_THE_END = (
    "distributed",
    "distributed.client",
    "distributed.worker",
    "tornado.application",
    "asyncio",
)


def _post_mortems(runner: str) -> PostMortems:
    # Imported here, as a runner does not need it otherwise.
    from dask_flame.runner.post_mortems import PostMortems

    return PostMortems(runner)


class RunnerWorker(GuardedServer, Worker):
    """A worker whose calls can be interrupted, and may wait for calls of their own.

    It does not wait for its threads when it closes, because its process ends with it; a stock
    worker that loses its scheduler while busy waits for them for up to 30 s.

    Parameters
    ----------
    *args, **kwargs
        Arguments of :class:`distributed.Worker`.
    process_exit : ProcessExit
        Ends the process.
    rarely : float
        Factor by which the interval between two checks of the event loop is lengthened.
    gpus : int
        Number of GPUs given to it, if its environment does not name them.
    post_mortem : bool, default False
        Whether to keep the frames of failed calls.
    prints : FramedPrints, optional
        The output of its calls, if it is read from the runner's output.
    """

    def __init__(
        self,
        *args: Any,
        process_exit: ProcessExit,
        name: str,
        nthreads: int = 1,
        rarely: float = 1.0,
        gpus: int = 0,
        post_mortem: bool = False,
        prints: FramedPrints | None = None,
        **kwargs: Any,
    ) -> None:
        executor = InterruptibleThreadPoolExecutor(nthreads, name, on_rejoin=come_back)
        super().__init__(*args, name=name, nthreads=nthreads, executor=executor, **kwargs)
        self.batched_stream = ImmediateSender(self.loop)
        redact_logs()
        show_failures_in_one_line()
        answer_always(self.executors["actor"])
        self._process_exit = process_exit
        # A thread, not a timer of the loop, because it must fire when the loop hangs.
        self.last_resort = threading.Timer(_CLOSE_WITHIN, process_exit, (0,))
        self.last_resort.daemon = True
        self.prints = prints
        if prints is not None:
            prints.later = later(self)
        self.local_code = LocalModules(self)
        self.file_server = FileServer()
        self.post_mortems = _post_mortems(name) if post_mortem else None
        self.attachments = Attachments(self, self.post_mortems)
        self.calls = Calls(self)
        self.gpus = Gpus(
            visible(gpus) if gpus else [],
            nthreads,
            gone=self.calls.gone,
            waiting=self.calls.waiting,
        )
        self.idle_profiling = IdleProfiling(self)
        interval = parse_timedelta(dask.config.get("distributed.admin.tick.interval"), "ms")
        self._between_looks = interval - interval / rarely
        self.handlers["flame_idle"] = self.flame_idle
        self.handlers[POST_MORTEM] = self.post_mortem
        self.handlers.update(self.attachments.handlers)
        self.handlers.update(self.file_server.handlers)

    def extend_last_resort(self, seconds: float, code: int) -> None:
        """End the process with this exit code after so many seconds, whatever the loop does."""
        self.last_resort.cancel()
        self.last_resort = threading.Timer(seconds, self._process_exit, (code,))
        self.last_resort.daemon = True
        self.last_resort.start()

    async def execute(self, key: Any, *, stimulus_id: str) -> Any:
        self.idle_profiling.begin()
        try:
            with self.calls.execute(key) as execution:
                event = await self._outcome_of(execution, stimulus_id)
        finally:
            self.idle_profiling.end()
        return self.calls.outcome(execution, event)

    async def _outcome_of(self, execution: Execution, stimulus_id: str) -> Any:
        try:
            return await super().execute(execution.key, stimulus_id=stimulus_id)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            # Raised by the result of a coroutine, when its size is measured. The error would end
            # the loop, or silently this task.
            return ExecuteFailureEvent.from_exception(
                message_of(error),
                key=execution.key,
                run_id=execution.run_id,
                stimulus_id=stimulus_id,
            )

    def handle_stimulus(self, *stims: StateMachineEvent) -> None:
        super().handle_stimulus(*stims)
        for stimulus in stims:
            if isinstance(stimulus, SecedeEvent):
                self.calls.seceded(stimulus.key)
            elif isinstance(stimulus, ExecuteDoneEvent):
                self.calls.recorded(stimulus.key)

    def batched_send(self, msg: dict[str, Any]) -> None:
        if msg["op"] == "task-finished" and msg["nbytes"] <= self.calls.inline:
            value = self.data.get(msg["key"], self)  # itself: an actor, or gone again
            if (data := pickled(value, self.calls.inline)) is not None:
                msg["flame_inline"] = data
        super().batched_send(msg)

    def _send_worker_status_change(self, stimulus_id: str) -> None:
        # Private: notifies the scheduler whenever this worker pauses.
        super()._send_worker_status_change(stimulus_id)
        if self.status is Status.paused and self.post_mortems is not None:
            self.post_mortems.release()  # they may be what takes the memory
        if self.status in (Status.paused, Status.closing_gracefully) and self.calls.flame_scheduler:
            state = self.state
            begun = [ts.key for ts in (*state.executing, *state.long_running)]
            self.calls.say(PAUSED, memory=self.monitor.get_process_memory(), begun=begun)

    def trigger_profile(self) -> None:
        # Reads frames of threads that run: one may have ended, and what CPython 3.11 gives for a
        # frame that begins at this moment is none. A sample less is better than a traceback among
        # the lines that a call prints.
        with contextlib.suppress(AttributeError, KeyError):
            super().trigger_profile()

    async def get_metrics(self) -> dict[str, Any]:
        metrics: dict[str, Any] = await super().get_metrics()
        # Dask's page on the health of event loops also shows the scheduler's, which is checked at
        # Dask's default interval: report that interval, plus the delay.
        metrics["event_loop_interval"] -= self._between_looks
        return metrics

    async def get_data(
        self, comm: Any, keys: Any, who: str | None = None, serializers: Any = None
    ) -> Any:
        # A peer that is no worker, such as a client, gets an error in place of a result.
        comm = self.local_code.pickles(comm, who)
        safe = SafeComm(comm, None if who is None else self.cannot_be_sent)
        return await super().get_data(safe, keys, who=who, serializers=serializers)

    def update_data(self, data: dict[Any, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.local_code.received(data)
        answer: dict[str, Any] = super().update_data(data, *args, **kwargs)
        return answer

    async def gather_dep(self, worker: str, to_gather: Any, *args: Any, **kwargs: Any) -> Any:
        event = await super().gather_dep(worker, to_gather, *args, **kwargs)
        self.local_code.received(to_gather)
        return without_unreadable(self, event, to_gather, self.cannot_be_sent)

    def cannot_be_sent(self, key: Any, why: str) -> None:
        """Report that a result cannot be sent to the runner that asked for it."""
        if self.calls.flame_scheduler:
            self.calls.say(UNSENDABLE, key=key, why=why)

    async def run(self, comm: Any, *args: Any, **kwargs: Any) -> Any:
        return await unharmed(super().run(comm, *args, **kwargs))

    async def run_coroutine(self, comm: Any, *args: Any, **kwargs: Any) -> Any:
        return await unharmed(super().run_coroutine(comm, *args, **kwargs))

    async def plugin_add(self, plugin: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(plugin, bytes):
            plugin = pickle.loads(plugin)
        for hook in ("setup", "transition", "teardown"):
            if hasattr(plugin, hook):
                setattr(plugin, hook, shielded(getattr(plugin, hook)))
        return await super().plugin_add(plugin, *args, **kwargs)

    def actor_attribute(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = super().actor_attribute(*args, **kwargs)
            return answer
        except BaseException as error:
            return {"status": "error", "exception": sealed_error(error)}

    async def actor_execute(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        # The base class sends no answer for a result that cannot be sent, or for an error that is
        # not an Exception: the caller of the actor's method would wait forever.
        try:
            answer: dict[str, Any] = await super().actor_execute(*args, **kwargs)
            if answer["status"] == "OK":
                with self.local_code.of_result(kwargs.get("actor")):
                    header, frames = serialize(answer["result"].data, on_error="raise")
                return {**answer, "result": Serialized(header, frames)}
            error = answer["exception"].data
        except BaseException as raised:
            if isinstance(raised, asyncio.CancelledError) and is_being_cancelled():
                raise
            error = raised
        return {"status": "error", "exception": sealed_error(error)}

    async def flame_idle(self, function: bytes) -> tuple[bool, str]:
        """Run the pool's idle check in a thread; return whether the runner may end, or an error."""
        try:
            check = pickle.loads(function)
            return bool(await asyncio.to_thread(check)), ""
        except Exception as error:
            return True, f"{type(error).__name__}: {error}"

    async def post_mortem(self, key: Any, release: bool = False) -> dict[str, Any]:
        """Return the frames of a failed call, or release them; or why there are none."""
        if self.post_mortems is None:
            return {"failed": f"the pool of {self.name} keeps no frames; {_KEEP}"}
        if release:
            self.post_mortems.release(key)
            return {}
        try:
            # In a thread: values may be large, and their texts take a while.
            return {"found": await asyncio.to_thread(self.post_mortems.failure, key)}
        except LookupError as error:
            return {"failed": str(error.args[0])}

    def _get_client(self, timeout: float | None = None) -> Client:
        # Private: `get_client` and unpickled futures get their client here. The base class would
        # use the default client, if it belongs to this scheduler.
        if not isinstance(self._client, Client) or self._client.status == "closed":
            if timeout is None:
                timeout = dask.config.get("distributed.comm.timeouts.connect")
            client = Client(
                self.scheduler,
                loop=self.loop,
                security=self.security,
                set_as_default=True,
                asynchronous=in_async_call(self.loop),
                direct_to_workers=True,
                name="worker",
                timeout=parse_timedelta(timeout, "s"),
            )
            adopt_client(client)
        adopted: Client = super()._get_client(timeout)
        return adopted

    async def close(self, timeout: float = 30, *args: Any, **kwargs: Any) -> str | None:
        self.idle_profiling.close()
        if self.last_resort.ident is None:
            self._process_exit.broken_off = bool(self.state.executing or self.state.long_running)
            self.last_resort.start()
        kwargs["executor_wait"] = False
        # Closing cancels running calls, transfers and heartbeats, and breaks the connections of
        # calls that still run; their tracebacks are of no use.
        for name in _LOUD_AT_THE_END:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        done: str | None = await super().close(min(timeout, _CLOSE_WITHIN), *args, **kwargs)
        return done

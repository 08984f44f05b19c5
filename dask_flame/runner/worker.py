"""The Dask worker that a runner holds (runner)."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import dask.config
from dask.utils import parse_timedelta
from distributed import Status, Worker
from distributed.http import get_handlers
from distributed.protocol import pickle, serialize
from distributed.security import Security
from distributed.utils import in_async_call
from distributed.worker_state_machine import (
    ExecuteDoneEvent,
    ExecuteFailureEvent,
    SecedeEvent,
    StateMachineEvent,
)

from dask_flame.core import joblib_hook
from dask_flame.core.accept_backoff import accept_patiently
from dask_flame.core.deferred_pages import build_later
from dask_flame.core.distributed_internals import adopt_client
from dask_flame.core.immediate_send import ImmediateSender
from dask_flame.core.messages import PAUSED, RUNNER, UNSENDABLE
from dask_flame.core.threads import in_thread
from dask_flame.prints.runner.framing import FramedPrints, install
from dask_flame.prints.runner.sender import later
from dask_flame.runner import main_module
from dask_flame.runner.calls import Calls
from dask_flame.runner.gpus import Gpus, visible
from dask_flame.runner.idle_profiling import IdleProfiling
from dask_flame.runner.interrupt import Execution, InterruptibleThreadPoolExecutor
from dask_flame.runner.nested import Client, come_back
from dask_flame.runner.process_exit import ProcessExit
from dask_flame.runner.redacted_logs import veil_logs
from dask_flame.runner.shared_memory import track_own_only
from dask_flame.runner.shutdown import Shutdown
from dask_flame.runner.signals import use_usual_signals
from dask_flame.runner.transfers import SafeComm, without_unreadable
from dask_flame.serialization import pickling
from dask_flame.serialization.failures import (
    answer_always,
    message_of,
    sealed_error,
    shielded,
    text_of,
    unharmed,
)
from dask_flame.serialization.packed import is_being_cancelled

T = TypeVar("T")

#: Longest time that a worker may take to close, once it was told to, in seconds.
_CLOSE_WITHIN = 5.0
#: Seconds that the scheduler has to take the results of a runner that is being taken away, beyond
#: the ``shutdown_timeout`` that its calls have. The substrate may not give them.
_SEE_OFF = 10.0

#: Errors of calls that are told elsewhere: that of one that stopped when it was asked to, and of a
#: notebook's cell, which is shown in the cell.
_TOLD = ("Interrupted()", "CellFailed(")

#: What distributed says when a heartbeat has crossed the scheduler's word to close.
_MISSING = "Scheduler was unaware of this worker; shutting down."

#: Dask's setting of what workers serve by HTTP.
_PAGES = "distributed.worker.http.routes"

#: Takes what is to be done when the runner is told, through its leash, to end in peace.
Listen = Callable[[Callable[[], None]], None]


def run(orders: dict[str, Any], farewell: ProcessExit, listen: Listen) -> int:
    """Carry out a runner's orders until its worker has closed; the exit code.

    Parameters
    ----------
    orders : dict
        What :class:`dask_flame.backends.RunnerSpec` holds, as JSON gives it.
    farewell : ProcessExit
        Ends the process.
    listen : callable
        Told what to do when the runner is to end in peace.
    """
    for stream in (sys.stdout, sys.stderr):
        # They are pipes, to which Python would write when there is a lot.
        with contextlib.suppress(AttributeError):  # replaced by what was preloaded
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    dask.config.update(dask.config.config, orders["config"], priority="new")
    logging.getLogger("distributed").setLevel(logging.WARNING)
    logging.getLogger("distributed.worker").addFilter(_of_use)
    for told in ("distributed.protocol", "distributed.comm.utils"):
        # What cannot be pickled or read is told by the error of the call that it belongs to.
        logging.getLogger(told).setLevel(logging.CRITICAL + 1)
    for module in orders["preload"]:
        try:
            importlib.import_module(module)
        except BaseException as error:
            _show(module, error)
            return 1
    know_modules()
    pickling.prepare(interruptible=False)
    main_module.install(orders.get("main", {}))
    track_own_only()
    joblib_hook.register()
    prints = install(orders)
    code, worker = _run_to_its_end(_serve(orders, farewell, listen, prints))
    worker.last_resort.cancel()
    return code


def _run_to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Run this on an event loop that goes on, whatever a call raises in a task or callback of it.

    asyncio lets SystemExit and KeyboardInterrupt through to whoever runs the loop.
    """
    # A call may send it to its own process. Children of the runner have the usual handler.
    signal.signal(signal.SIGINT, lambda *_: None)
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(work)
        while not task.done():
            try:
                loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt, RuntimeError) as error:
                if task.done():
                    break
                # A RuntimeError is the loop's own, which a call has stopped.
                traceback.print_tb(error.__traceback__)
                said = f"{text_of(error)} was raised on the event loop: the runner goes on"
                print(said, file=sys.stderr)
        return task.result()


def _show(module: str, error: BaseException) -> None:
    """Print why a module cannot be imported: the frames of its own, then all in one line."""
    frame = error.__traceback__
    while frame is not None and (
        frame.tb_frame.f_code.co_filename in (__file__, importlib.__file__)
        or frame.tb_frame.f_code.co_filename.startswith("<frozen importlib")
    ):
        frame = frame.tb_next
    if frame is not None or isinstance(error, SyntaxError):
        traceback.print_exception(type(error), error, frame)
    said = f"{type(error).__name__}: {error}".removesuffix(": ")
    print(f"preload={module!r} cannot be imported: {said}", file=sys.stderr)


async def _add_pages(worker: RunnerWorker, modules: list[str]) -> None:
    """Have the worker serve what Dask's configuration says."""
    for module in modules:
        await in_thread(importlib.import_module, module)
    worker.http_application.add_handlers(".*", get_handlers(server=worker, modules=modules))


def know_modules() -> None:
    """Let the inspect module find the files of all modules, before there is anything to hold up.

    It does so when the first error is pickled, with several system calls for each module: 20 ms,
    but seconds in the event loop, or in a thread, of a process where another thread computes.
    """
    inspect.getmodule(inspect.currentframe())


async def _serve(
    orders: dict[str, Any], farewell: ProcessExit, listen: Listen, prints: FramedPrints | None
) -> tuple[int, RunnerWorker]:
    worker = RunnerWorker(
        orders["scheduler"],
        farewell=farewell,
        name=orders["name"],
        nthreads=orders["concurrency"],
        resources=orders["resources"] or None,
        memory_limit=orders["memory"] or 0,
        local_directory=orders["directory"],
        security=Security(**orders["security"]) if orders["security"] else None,
        death_timeout=orders["boot_timeout"],
        startup_information={RUNNER: lambda worker: orders["pool"]},
        host=orders["host"],
        rarely=orders.get("rarely", 1.0),
        gpus=orders["gpus"],
        prints=prints,
    )
    departure = Shutdown(worker, limit=orders["shutdown_timeout"] + _SEE_OFF)
    # Not the loop's own handler, which the loop takes away when it closes: a second SIGTERM would
    # then kill a runner that is on its way out.
    signal.signal(signal.SIGTERM, lambda *_: departure.taken_away())
    use_usual_signals()
    pages = dask.config.get(_PAGES)
    # They are not needed to register, and take their time to import.
    with dask.config.set({_PAGES: []}):
        await worker
    accept_patiently(worker)
    build_later(worker, partial(_add_pages, worker, pages))
    worker.quiet.started()
    departure.started()
    listen(departure.told_to_end)
    await worker.finished()
    return 0, worker


def _of_use(record: logging.LogRecord) -> bool:
    """Whether a log line says more than what is told elsewhere.

    That is how a call ended, that its input cannot come to it, or that the scheduler has removed
    this runner, as it knows itself.
    """
    if isinstance(record.msg, Exception) and record.funcName == "gather_dep":
        return False  # calls go where their input is: see `transfers`
    if record.msg == _MISSING:
        return False
    if not (isinstance(record.msg, str) and record.msg.startswith("Compute Failed")):
        return True
    error = record.getMessage().partition("Exception: ")[2]
    return not error[1:].startswith(_TOLD)


class RunnerWorker(Worker):
    """A worker whose calls can be interrupted, and may wait for calls of their own.

    It does not wait for its threads when it closes, since its process ends with it: a stock worker
    that loses its scheduler while busy waits for them for up to 30 s.

    Parameters
    ----------
    *args, **kwargs
        What :class:`distributed.Worker` takes.
    farewell : ProcessExit
        Ends the process.
    rarely : float
        How many times the usual interval lies between two looks at the event loop.
    gpus : int
        GPUs that it was given, if its environment does not say which.
    prints : FramedPrints, optional
        What its calls print, where that is read from its output.
    """

    def __init__(
        self,
        *args: Any,
        farewell: ProcessExit,
        name: str,
        nthreads: int = 1,
        rarely: float = 1.0,
        gpus: int = 0,
        prints: FramedPrints | None = None,
        **kwargs: Any,
    ) -> None:
        executor = InterruptibleThreadPoolExecutor(nthreads, name, on_rejoin=come_back)
        super().__init__(*args, name=name, nthreads=nthreads, executor=executor, **kwargs)
        self.batched_stream = ImmediateSender(self.loop)
        veil_logs()
        answer_always(self.executors["actor"])
        self._farewell = farewell
        # A thread, not the loop's timer: it has to fire when the loop hangs.
        self.last_resort = threading.Timer(_CLOSE_WITHIN, farewell, (0,))
        self.last_resort.daemon = True
        self.prints = prints
        if prints is not None:
            prints.later = later(self)
        self.calls = Calls(self)
        self.gpus = Gpus(
            visible(gpus) if gpus else [],
            nthreads,
            gone=self.calls.gone,
            waiting=self.calls.waiting,
        )
        self.quiet = IdleProfiling(self)
        interval = parse_timedelta(dask.config.get("distributed.admin.tick.interval"), "ms")
        self._between_looks = interval - interval / rarely
        self.handlers["flame_idle"] = self.flame_idle

    async def execute(self, key: Any, *, stimulus_id: str) -> Any:
        self.quiet.begin()
        try:
            with self.calls.execute(key) as execution:
                event = await self._outcome_of(execution, stimulus_id)
        finally:
            self.quiet.end()
        return self.calls.outcome(execution, event)

    async def _outcome_of(self, execution: Execution, stimulus_id: str) -> Any:
        try:
            return await super().execute(execution.key, stimulus_id=stimulus_id)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            # Raised by what a coroutine has returned, when it is measured. It would end the loop,
            # or this task without a word to anybody.
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
                self.calls.told(stimulus.key)

    def _send_worker_status_change(self, stimulus_id: str) -> None:
        # Private, and what tells the scheduler whenever this worker pauses.
        super()._send_worker_status_change(stimulus_id)
        if self.status in (Status.paused, Status.closing_gracefully) and self.calls.acquainted:
            state = self.state
            begun = [ts.key for ts in (*state.executing, *state.long_running)]
            self.calls.say(PAUSED, memory=self.monitor.get_process_memory(), begun=begun)

    async def get_metrics(self) -> dict[str, Any]:
        metrics: dict[str, Any] = await super().get_metrics()
        # Dask's page of the event loops' health has the scheduler's beside it, which looks as
        # often as Dask's settings say: what is shown is that interval, and the delay beyond it.
        metrics["event_loop_interval"] -= self._between_looks
        return metrics

    async def get_data(
        self, comm: Any, keys: Any, who: str | None = None, serializers: Any = None
    ) -> Any:
        # Who is no worker, a client for one, is told by an error in the place of a result.
        safe = SafeComm(comm, None if who is None else self.cannot_be_sent)
        return await super().get_data(safe, keys, who=who, serializers=serializers)

    async def gather_dep(self, worker: str, to_gather: Any, *args: Any, **kwargs: Any) -> Any:
        event = await super().gather_dep(worker, to_gather, *args, **kwargs)
        return without_unreadable(self, event, to_gather, self.cannot_be_sent)

    def cannot_be_sent(self, key: Any, why: str) -> None:
        """Say that a result cannot go to the runner that asked for it."""
        if self.calls.acquainted:
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
        # The base class answers what it cannot send, or what is no Exception, with silence: whoever
        # waits for a method of an actor would wait for ever.
        try:
            answer: dict[str, Any] = await super().actor_execute(*args, **kwargs)
            if answer["status"] == "OK":
                serialize(answer["result"].data, on_error="raise")
                return answer
            error = answer["exception"].data
        except BaseException as raised:
            if isinstance(raised, asyncio.CancelledError) and is_being_cancelled():
                raise
            error = raised
        return {"status": "error", "exception": sealed_error(error)}

    async def flame_idle(self, function: bytes) -> tuple[bool, str]:
        """Run the pool's idle check, in a thread: whether this runner may end, or its error."""
        try:
            check = pickle.loads(function)
            return bool(await asyncio.to_thread(check)), ""
        except Exception as error:
            return True, f"{type(error).__name__}: {error}"

    def _get_client(self, timeout: float | None = None) -> Client:
        # Private, and where `get_client` and futures that reach a worker get their client from.
        # The base class takes the default client, if it is one of this scheduler's.
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
        self.quiet.close()
        if self.last_resort.ident is None:
            self._farewell.broken_off = bool(self.state.executing or self.state.long_running)
            self.last_resort.start()
        kwargs["executor_wait"] = False
        # Calls, transfers and heartbeats that are under way are broken off; that is what closing
        # means here, and not worth a traceback each.
        logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)
        done: str | None = await super().close(min(timeout, _CLOSE_WITHIN), *args, **kwargs)
        return done

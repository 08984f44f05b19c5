"""The Dask worker of a runner (runner)."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import logging
import os
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
from distributed.protocol import Serialized, pickle, serialize
from distributed.security import Security
from distributed.utils import in_async_call
from distributed.worker_state_machine import (
    ExecuteDoneEvent,
    ExecuteFailureEvent,
    SecedeEvent,
    StateMachineEvent,
)

from dask_flame.code.runner.worker import LocalModules
from dask_flame.core import joblib_hook
from dask_flame.core.accept_backoff import accept_patiently
from dask_flame.core.deferred_pages import build_later
from dask_flame.core.distributed_internals import adopt_client
from dask_flame.core.immediate_send import ImmediateSender
from dask_flame.core.messages import PACKAGES, PAUSED, RUNNER, UNSENDABLE
from dask_flame.core.redaction import hide, without_known
from dask_flame.core.threads import in_thread
from dask_flame.files.runner.place import place_files
from dask_flame.files.runner.serve import FileServer
from dask_flame.packages.install import found
from dask_flame.prints.runner.framing import FramedPrints, install
from dask_flame.prints.runner.sender import later
from dask_flame.runner import main_module
from dask_flame.runner.calls import Calls
from dask_flame.runner.gpus import Gpus, visible
from dask_flame.runner.idle_profiling import IdleProfiling
from dask_flame.runner.interrupt import Execution, InterruptibleThreadPoolExecutor
from dask_flame.runner.nested import Client, come_back
from dask_flame.runner.process_exit import ProcessExit
from dask_flame.runner.redacted_logs import redact_logs
from dask_flame.runner.setup import Setup
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

#: Maximum number of seconds for a worker to close.
_CLOSE_WITHIN = 5.0
#: Seconds for the scheduler to fetch the results of a reclaimed runner, in addition to the
#: ``shutdown_timeout`` of its calls. The substrate may allow less.
_FETCH_WITHIN = 10.0

#: Errors of calls that are reported elsewhere: interruptions, and errors of a notebook's cell,
#: which the cell shows.
_REPORTED_ELSEWHERE = ("Interrupted()", "CellFailed(")

#: distributed's message when a heartbeat crosses the scheduler's request to close.
_MISSING = "Scheduler was unaware of this worker; shutting down."

#: Beginning of distributed's error when the scheduler does not accept a worker.
_REFUSED = "Unexpected response from register"

#: Dask's setting for the HTTP pages of workers.
_PAGES = "distributed.worker.http.routes"

#: Takes the function to call when the leash asks the runner to end.
Listen = Callable[[Callable[[], None]], None]


def run(launch_config: dict[str, Any], process_exit: ProcessExit, listen: Listen) -> int:
    """Run a worker by its launch configuration until it has closed; return the exit code.

    Parameters
    ----------
    launch_config : dict
        The fields of :class:`dask_flame.backends.RunnerSpec`, as read from JSON.
    process_exit : ProcessExit
        Ends the process.
    listen : callable
        Given the function to call when the runner is asked to end.
    """
    for stream in (sys.stdout, sys.stderr):
        # They are pipes, which Python would buffer in blocks.
        with contextlib.suppress(AttributeError):  # replaced by a preloaded module
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    dask.config.update(dask.config.config, launch_config["config"], priority="new")
    logging.getLogger("distributed").setLevel(logging.WARNING)
    logging.getLogger("distributed.worker").addFilter(_is_useful)
    for name in ("distributed.protocol", "distributed.comm.utils"):
        # Errors of serialization are part of the error of the call that they belong to.
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    hide(os.environ.get(name, "") for name in launch_config.get("secrets", ()))
    if not place_files(launch_config):
        return 1
    local: list[str] = []  # may be local modules of the driver, which come later
    for module in launch_config["preload"]:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            local.append(module)
        except BaseException as error:
            _show(module, error)
            return 1
    know_modules()
    pickling.prepare(interruptible=False)
    main_module.install(launch_config.get("main", {}))
    track_own_only()
    joblib_hook.register()
    prints = install(launch_config)
    try:
        code, worker = _run_to_its_end(_serve(launch_config, process_exit, listen, prints, local))
    except RuntimeError as error:
        if str(error.__cause__).startswith(_REFUSED):
            return 1  # distributed has logged why
        raise
    worker.last_resort.cancel()
    return code


def _run_to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on an event loop that survives whatever a call raises on it.

    asyncio passes SystemExit and KeyboardInterrupt on to the code that runs the loop.
    """
    # A call may send SIGINT to its own process. Children of the runner have the default handler.
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
                # A RuntimeError comes from the loop itself, when a call has stopped it.
                traceback.print_tb(error.__traceback__)
                said = f"{text_of(error)} was raised on the event loop: the runner goes on"
                print(said, file=sys.stderr)
        return task.result()


def _show(module: str, error: BaseException) -> None:
    """Print why a module cannot be imported: its own frames, then the error in one line."""
    frame = error.__traceback__
    while frame is not None and (
        frame.tb_frame.f_code.co_filename in (__file__, importlib.__file__)
        or frame.tb_frame.f_code.co_filename.startswith("<frozen importlib")
    ):
        frame = frame.tb_next
    if frame is not None or isinstance(error, SyntaxError):
        lines = traceback.format_exception(type(error), error, frame)
        print(without_known("".join(lines)), end="", file=sys.stderr)
    said = without_known(f"{type(error).__name__}: {error}".removesuffix(": "))
    print(f"preload={module!r} cannot be imported: {said}", file=sys.stderr)


async def _add_pages(worker: RunnerWorker, modules: list[str]) -> None:
    """Add the pages of Dask's configuration to the worker's HTTP server."""
    for module in modules:
        await in_thread(importlib.import_module, module)
    worker.http_application.add_handlers(".*", get_handlers(server=worker, modules=modules))


def know_modules() -> None:
    """Let the inspect module index the files of all modules, while nothing is waiting.

    Otherwise it does so when the first error is pickled, with several system calls for each
    module: 20 ms, but seconds in a process where another thread computes.
    """
    inspect.getmodule(inspect.currentframe())


async def _serve(
    launch_config: dict[str, Any],
    process_exit: ProcessExit,
    listen: Listen,
    prints: FramedPrints | None,
    local: list[str],
) -> tuple[int, RunnerWorker]:
    worker = RunnerWorker(
        launch_config["scheduler"],
        process_exit=process_exit,
        name=launch_config["name"],
        nthreads=launch_config["concurrency"],
        resources=launch_config["resources"] or None,
        memory_limit=launch_config["memory"] or 0,
        local_directory=launch_config["directory"],
        security=Security(**launch_config["security"]) if launch_config["security"] else None,
        death_timeout=launch_config["boot_timeout"],
        startup_information={
            RUNNER: lambda worker: launch_config["pool"],
            PACKAGES: lambda worker: found(launch_config.get("packages")),
        },
        host=launch_config["host"],
        rarely=launch_config.get("rarely", 1.0),
        gpus=launch_config["gpus"],
        prints=prints,
    )
    if local or launch_config.get("setup"):
        await worker.local_code.fetch()
    if not await _preload(local):
        return 1, worker
    shutdown = Shutdown(worker, limit=launch_config["shutdown_timeout"] + _FETCH_WITHIN)
    # Not the loop's own handler, which the loop removes when it closes: a second SIGTERM would
    # then kill a runner that is exiting.
    signal.signal(signal.SIGTERM, lambda *_: shutdown.preempted())
    use_usual_signals()
    setup = Setup(launch_config, worker.gpus.names)
    if not await setup.begin(worker.connection_args, process_exit):
        process_exit.broken_off = True
        worker.extend_last_resort(setup.limit, 1)
        return 1, worker
    try:
        await _register_and_work(worker, shutdown, listen, has_end=setup.has_end)
    finally:
        if setup.has_end:
            process_exit.begin()
            worker.extend_last_resort(setup.limit + 1, 0)
            await setup.end()
    return 0, worker


async def _register_and_work(
    worker: RunnerWorker, shutdown: Shutdown, listen: Listen, *, has_end: bool
) -> None:
    """Run the worker until it has closed."""
    asked_to_end = threading.Event()
    if has_end:
        listen(asked_to_end.set)  # instead of the end of the process, at once
    pages = dask.config.get(_PAGES)
    # The pages are not needed for registration, and their import takes time.
    with dask.config.set({_PAGES: []}):
        await worker
    accept_patiently(worker)
    build_later(worker, partial(_add_pages, worker, pages))
    worker.idle_profiling.started()
    shutdown.started()
    listen(shutdown.end)
    if asked_to_end.is_set():
        shutdown.end()
    await worker.finished()


async def _preload(local: list[str]) -> bool:
    """Import local modules of the driver; return whether that succeeded."""
    for module in local:
        try:
            await in_thread(importlib.import_module, module)
        except BaseException as error:
            _show(module, error)
            return False
    return True


def _is_useful(record: logging.LogRecord) -> bool:
    """Return whether a log record says something that is not reported elsewhere.

    Reported elsewhere are the end of a call, inputs that cannot reach it, and the removal of this
    runner by the scheduler.
    """
    if isinstance(record.msg, Exception) and record.funcName == "gather_dep":
        return False  # calls are moved to their inputs: see `transfers`
    if record.msg == _MISSING:
        return False
    if not (isinstance(record.msg, str) and record.msg.startswith("Compute Failed")):
        return True
    error = record.getMessage().partition("Exception: ")[2]
    return not error[1:].startswith(_REPORTED_ELSEWHERE)


class RunnerWorker(Worker):
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
        prints: FramedPrints | None = None,
        **kwargs: Any,
    ) -> None:
        executor = InterruptibleThreadPoolExecutor(nthreads, name, on_rejoin=come_back)
        super().__init__(*args, name=name, nthreads=nthreads, executor=executor, **kwargs)
        self.batched_stream = ImmediateSender(self.loop)
        redact_logs()
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

    def _send_worker_status_change(self, stimulus_id: str) -> None:
        # Private: notifies the scheduler whenever this worker pauses.
        super()._send_worker_status_change(stimulus_id)
        if self.status in (Status.paused, Status.closing_gracefully) and self.calls.flame_scheduler:
            state = self.state
            begun = [ts.key for ts in (*state.executing, *state.long_running)]
            self.calls.say(PAUSED, memory=self.monitor.get_process_memory(), begun=begun)

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
        # Closing cancels running calls, transfers and heartbeats; their tracebacks are of no use.
        logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)
        done: str | None = await super().close(min(timeout, _CLOSE_WITHIN), *args, **kwargs)
        return done

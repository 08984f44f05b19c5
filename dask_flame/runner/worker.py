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
from collections.abc import Callable
from functools import partial
from typing import Any

import dask.config
from dask.utils import parse_timedelta
from distributed import Worker
from distributed.http import get_handlers
from distributed.protocol import pickle
from distributed.security import Security
from distributed.utils import in_async_call
from distributed.worker_state_machine import ExecuteDoneEvent, SecedeEvent, StateMachineEvent

from dask_flame.background import in_thread
from dask_flame.integrations import joblib
from dask_flame.later import build_later
from dask_flame.prints.framed import FramedPrints, install
from dask_flame.prints.sender import later
from dask_flame.protocol import RUNNER
from dask_flame.runner.calls import Calls
from dask_flame.runner.departure import Departure
from dask_flame.runner.forks import use_usual_signals
from dask_flame.runner.gpus import Gpus, visible
from dask_flame.runner.interrupt import InterruptibleThreadPoolExecutor
from dask_flame.runner.nested import Client, come_back
from dask_flame.runner.quiet import Quiet
from dask_flame.sender import Sender

#: Longest time that a worker may take to close, once it was told to, in seconds.
_CLOSE_WITHIN = 5.0
#: Seconds that the scheduler has to take the results of a runner that is being taken away, beyond
#: the ``shutdown_timeout`` that its calls have. The substrate may not give them.
_SEE_OFF = 10.0

#: Errors of calls that are told elsewhere: that of one that stopped when it was asked to, and of a
#: notebook's cell, which is shown in the cell.
_TOLD = ("Interrupted()", "CellFailed(")

#: Dask's setting of what workers serve by HTTP.
_PAGES = "distributed.worker.http.routes"

Ender = Callable[[int], Any]
#: Takes what is to be done when the runner is told, through its leash, to end in peace.
Listen = Callable[[Callable[[], None]], None]


def run(orders: dict[str, Any], end: Ender, listen: Listen) -> int:
    """Carry out a runner's orders until its worker has closed; the exit code.

    Parameters
    ----------
    orders : dict
        What :class:`dask_flame.backends.RunnerSpec` holds, as JSON gives it.
    end : callable
        Ends the process at once with an exit code.
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
    for module in orders["preload"]:
        try:
            importlib.import_module(module)
        except BaseException as error:
            _show(module, error)
            return 1
    know_modules()
    joblib.register()
    prints = install(orders)
    return asyncio.run(_serve(orders, end, listen, prints))


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
    orders: dict[str, Any], end: Ender, listen: Listen, prints: FramedPrints | None
) -> int:
    worker = RunnerWorker(
        orders["scheduler"],
        end=end,
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
    departure = Departure(worker, limit=orders["shutdown_timeout"] + _SEE_OFF)
    # Not the loop's own handler, which the loop takes away when it closes: a second SIGTERM would
    # then kill a runner that is on its way out.
    signal.signal(signal.SIGTERM, lambda *_: departure.taken_away())
    use_usual_signals()
    pages = dask.config.get(_PAGES)
    # They are not needed to register, and take their time to import.
    with dask.config.set({_PAGES: []}):
        await worker
    build_later(worker, partial(_add_pages, worker, pages))
    worker.quiet.started()
    departure.started()
    listen(departure.told_to_end)
    await worker.finished()
    return 0


def _of_use(record: logging.LogRecord) -> bool:
    """Whether a log line says more than that a call ended in an error that is told elsewhere."""
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
    end : callable
        Ends the process at once with an exit code.
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
        end: Ender,
        name: str,
        nthreads: int = 1,
        rarely: float = 1.0,
        gpus: int = 0,
        prints: FramedPrints | None = None,
        **kwargs: Any,
    ) -> None:
        executor = InterruptibleThreadPoolExecutor(nthreads, name, on_rejoin=come_back)
        super().__init__(*args, name=name, nthreads=nthreads, executor=executor, **kwargs)
        self.batched_stream = Sender(self.loop)
        self._end_process = end
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
        self.quiet = Quiet(self)
        interval = parse_timedelta(dask.config.get("distributed.admin.tick.interval"), "ms")
        self._between_looks = interval - interval / rarely
        self.handlers["flame_idle"] = self.flame_idle

    async def execute(self, key: Any, *, stimulus_id: str) -> Any:
        self.quiet.begin()
        try:
            with self.calls.execute(key) as execution:
                event = await super().execute(key, stimulus_id=stimulus_id)
        finally:
            self.quiet.end()
        return self.calls.outcome(execution, event)

    def handle_stimulus(self, *stims: StateMachineEvent) -> None:
        super().handle_stimulus(*stims)
        for stimulus in stims:
            if isinstance(stimulus, SecedeEvent):
                self.calls.seceded(stimulus.key)
            elif isinstance(stimulus, ExecuteDoneEvent):
                self.calls.told(stimulus.key)

    async def get_metrics(self) -> dict[str, Any]:
        metrics: dict[str, Any] = await super().get_metrics()
        # Dask's page of the event loops' health has the scheduler's beside it, which looks as
        # often as Dask's settings say: what is shown is that interval, and the delay beyond it.
        metrics["event_loop_interval"] -= self._between_looks
        return metrics

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
            Worker._initialized_clients.add(client)
        adopted: Client = super()._get_client(timeout)
        return adopted

    async def close(self, timeout: float = 30, *args: Any, **kwargs: Any) -> str | None:
        self.quiet.close()
        # A thread, not the loop's timer: it has to fire when the loop hangs.
        last_resort = threading.Timer(_CLOSE_WITHIN, self._end_process, (0,))
        last_resort.daemon = True
        last_resort.start()
        kwargs["executor_wait"] = False
        # Calls, transfers and heartbeats that are under way are broken off; that is what closing
        # means here, and not worth a traceback each.
        logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)
        done: str | None = await super().close(min(timeout, _CLOSE_WITHIN), *args, **kwargs)
        return done

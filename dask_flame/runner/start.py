"""Start the worker of a runner by its launch configuration, and run it to its end (runner)."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import logging
import os
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import dask.config
from distributed.client import AllExit
from distributed.http import get_handlers
from distributed.security import Security

from dask_flame.comm import backend as comm_backend
from dask_flame.comm.addresses import PREFIX, new_socket_in
from dask_flame.core import joblib_hook
from dask_flame.core.deferred_pages import build_later
from dask_flame.core.messages import PACKAGES, RUNNER
from dask_flame.core.redaction import hide, without_known
from dask_flame.core.threads import in_thread
from dask_flame.files.runner.place import place_files
from dask_flame.packages.install import found
from dask_flame.prints.runner.framing import FramedPrints, install
from dask_flame.runner import main_module
from dask_flame.runner.failure_lines import is_failure, keep
from dask_flame.runner.process_exit import ProcessExit
from dask_flame.runner.setup import Setup
from dask_flame.runner.shared_memory import track_own_only
from dask_flame.runner.shutdown import Shutdown
from dask_flame.runner.signals import use_usual_signals
from dask_flame.runner.worker import RunnerWorker
from dask_flame.serialization import pickling
from dask_flame.serialization.failures import (
    text_of,
)

T = TypeVar("T")

#: Seconds for the scheduler to fetch the results of a reclaimed runner, in addition to the
#: ``shutdown_timeout`` of its calls. The substrate may allow less.
_FETCH_WITHIN = 10.0

#: Errors of calls that are reported elsewhere: interruptions, errors of a notebook's cell, which
#: the cell shows, and the ends of calls that the driver has stopped.
_REPORTED_ELSEWHERE = ("Interrupted()", "CellFailed(", "CallStopped(")

#: distributed's message when a heartbeat crosses the scheduler's request to close.
_MISSING = "Scheduler was unaware of this worker; shutting down."

#: distributed's message when whoever has asked for a result ends before it has come.
_NOT_FETCHED = "failed during get data with %s -> %s"

#: Beginning of distributed's error when the scheduler does not accept a worker.
_REFUSED = "Unexpected response from register"

#: The folder of this package.
_PACKAGE = str(Path(__file__).parents[1])

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
    logging.getLogger("asyncio").addFilter(_is_an_error)
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
            install(launch_config)  # so that the driver does not show this of each runner
            _show(module, error)
            return 1
    comm_backend.register()
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
    """Write why a module cannot be imported: its own frames, then the error in one line.

    The driver shows the line once, as the reason why runners cannot boot.
    """
    frame = error.__traceback__
    # An import in a thread begins with frames of threading and asyncio.
    while frame is not None and _is_not_its_own(frame.tb_frame.f_code.co_filename):
        frame = frame.tb_next
    lines = []
    if frame is not None or isinstance(error, SyntaxError):
        lines = traceback.format_exception(type(error), error, frame)
    said = f"{type(error).__name__}: {error}".removesuffix(": ")
    lines.append(f"preload={module!r} cannot be imported: {said}\n")
    keep(without_known("".join(lines)))


def _is_not_its_own(file: str) -> bool:
    """Return whether a file is one of this package or of the standard library."""
    if file.startswith(("<frozen importlib", _PACKAGE)):
        return True
    return file.startswith(sysconfig.get_path("stdlib")) and "site-packages" not in file


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
        host=_host(launch_config),
        rarely=launch_config.get("rarely", 1.0),
        gpus=launch_config["gpus"],
        post_mortem=launch_config.get("post_mortem", False),
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


def _host(launch_config: dict[str, Any]) -> str | None:
    """Return where the worker listens."""
    if launch_config["scheduler"].startswith(PREFIX):
        # In the runner's own folder, which is removed with it, however it ends.
        return new_socket_in(launch_config["directory"])
    host: str | None = launch_config["host"]
    return host


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

    Reported elsewhere are the end of a call, inputs that cannot reach it, the removal of this
    runner by the scheduler, and the end of another runner or of a Client.
    """
    if isinstance(record.msg, Exception) and record.funcName == "gather_dep":
        return False  # calls are moved to their inputs: see `transfers`
    if record.msg in (_MISSING, _NOT_FETCHED):
        return False
    if not is_failure(record):
        return True
    error = record.getMessage().partition("Exception: ")[2]
    return not error[1:].startswith(_REPORTED_ELSEWHERE)


def _is_an_error(record: logging.LogRecord) -> bool:
    """Return whether asyncio tells of an error, rather than of a wait for results that has ended.

    A Client waits for each result in a task of its own. If the wait for all of them is broken off,
    for example because the call that waits is interrupted, nobody takes the outcome of these tasks.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], AllExit))

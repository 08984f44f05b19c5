"""Call the function of ``Pool(setup=…)`` before a runner registers, and end it at the end (runner).

The function runs in a thread of its own. If it is a generator function, this thread waits at the
``yield`` for the end of the runner, so that all its code runs in one thread. A coroutine or an
asynchronous generator runs in one task on the event loop of the worker, which also runs ``async
def`` calls: these can use the connections that it opens.

Processes that a call forks inherit the result. They do not run what follows the ``yield``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import logging
import pickle
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from typing import Any

from dask_flame.core import python_versions
from dask_flame.core.messages import SETUP
from dask_flame.errors import FlameError
from dask_flame.runner.devices import Devices, in_setup
from dask_flame.runner.failure_lines import keep
from dask_flame.serialization.failures import text_of

logger = logging.getLogger("dask_flame")

#: Fraction of ``shutdown_timeout`` for what follows the ``yield``. The rest of it is for atexit
#: handlers and open files.
_PART = 0.7
#: Maximum number of seconds for a message to the scheduler.
_TELL_WITHIN = 5.0
_NOTHING = object()
#: Files of frames that are left out of tracebacks.
_OWN = (__file__, "<frozen importlib")


def setup_result() -> Any:
    """Return the result of the pool's ``setup=`` on this runner, in a call.

    Returns
    -------
    Any
        The object that the function has returned or yielded: the same one in all calls of a runner.
        Concurrent calls share it.

    Raises
    ------
    FlameError
        The pool has no ``setup=``, or this process is not a runner, nor forked from one.

    Examples
    --------
    >>> def load_model():
    ...     return {"factor": 3}
    >>> def predict(x):
    ...     return x * dask_flame.setup_result()["factor"]
    >>> cluster = dask_flame.FlameCluster(max=1, setup=load_model)
    >>> client = Client(cluster)
    >>> client.submit(predict, 2).result()
    6
    >>> client.close()
    >>> cluster.close()
    """
    if _here is None:
        raise FlameError(
            "setup_result() is for calls on runners, and this process is not a runner, nor forked "
            "from one; write client.submit(f), and use dask_flame.setup_result() in f"
        )
    return _here.result()


class Setup:
    """The ``setup=`` of a runner's pool.

    Parameters
    ----------
    launch_config : dict
        The launch configuration of the runner.
    gpus : sequence of str
        Names of the GPUs of the runner.
    """

    def __init__(self, launch_config: dict[str, Any], gpus: Sequence[str]) -> None:
        self._launch_config = launch_config
        self._config = launch_config.get("setup")
        self._devices = Devices(range(len(gpus)), gpus)
        self._what = f"setup={self._config['name']}" if self._config else ""
        self._value: Any = _NOTHING
        self._loop = asyncio.get_running_loop()
        self._begun: asyncio.Future[BaseException | None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        self._made: Any = None  # a coroutine or an asynchronous generator
        self._broken_off = False
        self._thread_may_end, self._task_may_end = threading.Event(), asyncio.Event()
        #: Whether code follows the ``yield``.
        self.has_end = False
        global _here
        _here = self

    def result(self) -> Any:
        """Return the result of the function.

        Raises
        ------
        FlameError
        """
        if self._value is not _NOTHING:
            return self._value
        if self._config is not None:
            raise FlameError(
                f"{self._what} has not returned or yielded yet; write setup_result() in calls, "
                "which begin after that"
            )
        pool = self._launch_config["pool"]
        line = "FlameCluster(setup=load_model)"
        if pool != "default":
            line = f'FlameCluster(pools={{"{pool}": Pool(setup=load_model)}})'
        raise FlameError(f"the pool {pool!r} of this runner has no setup=; write {line}")

    async def begin(
        self, connection: dict[str, Any], process_exit: Callable[[int], object]
    ) -> bool:
        """Call the function; if it fails, print why and return False.

        Parameters
        ----------
        connection : dict
            Arguments for a connection to the scheduler, which is told of the beginning and the end.
        process_exit : callable
            Ends the process, if the function blocks the event loop.
        """
        if self._config is None:
            return True
        if python_versions.mismatch(python_versions.here(), self._config["python"]):
            return True  # the scheduler refuses this runner, and says why
        await self._tell(connection, done=False)
        # Nobody else may be left to end this process: it is not connected to the scheduler.
        limit = self._launch_config["boot_timeout"]
        last_resort = threading.Timer(limit + _TELL_WITHIN, process_exit, (1,))
        last_resort.daemon = True
        last_resort.start()
        try:
            if not await self._call(limit):
                return False
        finally:
            last_resort.cancel()
        await self._tell(connection, done=True)
        return True

    async def _call(self, limit: float) -> bool:
        self._thread = threading.Thread(target=self._live, name="flame-setup", daemon=True)
        self._thread.start()
        try:
            async with asyncio.timeout(limit):
                error = await asyncio.shield(self._begun)
        except TimeoutError:
            self._print_where(
                f"{self._what} has not ended within boot_timeout={limit:g} s", failed_boot=True
            )
            return False
        if error is not None:
            self._print_error(self._what, error, failed_boot=True)
        return error is None

    @property
    def limit(self) -> float:
        """Maximum number of seconds for what follows the ``yield``."""
        return _PART * float(self._launch_config["shutdown_timeout"])

    async def end(self) -> None:
        """Run what follows the ``yield``, if anything, within :attr:`limit`."""
        if not self.has_end or self.limit <= 0:
            return
        self._thread_may_end.set()
        self._task_may_end.set()
        try:
            async with asyncio.timeout(self.limit):
                await asyncio.shield(self._ended)
        except TimeoutError:
            self._print_where(
                f"what follows the yield of {self._what} has not ended within {self.limit:g} s of "
                f"shutdown_timeout={self._launch_config['shutdown_timeout']:g} s"
            )

    # In the thread of the function, or in its task

    def _live(self) -> None:
        assert self._config is not None
        in_setup.set(self._devices)  # in the context of the thread, which the task inherits
        try:
            made = pickle.loads(base64.b64decode(self._config["function"]))()
            self._made = made
            if inspect.iscoroutine(made):
                self._on_loop(self._start_task, self._live_as_coroutine(made))
            elif inspect.isasyncgen(made):
                self._on_loop(self._start_task, self._live_as_async_generator(made))
            elif inspect.isgenerator(made):
                self._live_as_generator(made)
            else:
                self._is_ready(made)
        except BaseException as error:
            self._has_failed(error)

    def _live_as_generator(self, generator: Generator[Any, Any, Any]) -> None:
        value = next(generator, _NOTHING)
        self._is_ready(self._yielded(value), has_end=True)
        self._thread_may_end.wait()
        try:
            if next(generator, _NOTHING) is not _NOTHING:
                generator.close()
                self._print_second_yield()
        except BaseException as error:
            self._print_error(f"what follows the yield of {self._what}", error)
        self._on_loop(self._ended.set_result, None)

    async def _live_as_async_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        try:
            value = await anext(generator, _NOTHING)
            self._is_ready(self._yielded(value), has_end=True)
        except BaseException as error:
            self._has_failed(error)
            return
        await self._task_may_end.wait()
        try:
            if await anext(generator, _NOTHING) is not _NOTHING:
                await generator.aclose()
                self._print_second_yield()
        except BaseException as error:
            self._print_error(f"what follows the yield of {self._what}", error)
        self._ended.set_result(None)

    async def _live_as_coroutine(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            self._is_ready(await coroutine)
        except BaseException as error:
            self._has_failed(error)

    def _start_task(self, life: Coroutine[Any, Any, None]) -> None:
        self._task = self._loop.create_task(life, name="flame-setup")

    def _yielded(self, value: Any) -> Any:
        if value is _NOTHING:
            raise FlameError(f"{self._what} is a generator function, and has ended without a yield")
        return value

    def _is_ready(self, value: Any, *, has_end: bool = False) -> None:
        self._value, self.has_end = value, has_end
        self._on_loop(self._begun.set_result, None)

    def _has_failed(self, error: BaseException) -> None:
        self._on_loop(self._begun.set_result, error)

    def _on_loop(self, function: Any, argument: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the runner is ending
            self._loop.call_soon_threadsafe(function, argument)

    # Messages

    async def _tell(self, connection: dict[str, Any], *, done: bool) -> None:
        """Tell the scheduler how far the boot is, which is for display only."""
        from distributed.core import rpc

        try:
            async with (
                asyncio.timeout(_TELL_WITHIN),
                rpc(self._launch_config["scheduler"], connection_args=connection) as scheduler,
            ):
                await getattr(scheduler, SETUP)(name=self._launch_config["name"], done=done)
        except Exception:
            logger.debug("the scheduler was not told of setup=", exc_info=True)

    def _print_error(self, what: str, error: BaseException, *, failed_boot: bool = False) -> None:
        """Print the error in one line, and, in the log only, the traceback before it.

        The traceback is without frames of this module. It is in the error of the calls that wait.

        Parameters
        ----------
        what : str
        error : BaseException
        failed_boot : bool, default False
            Whether the line is for the log, too: the driver shows it once, as the reason why
            runners cannot boot.
        """
        if self._broken_off:
            return
        frame, lines = error.__traceback__, []
        while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_OWN):
            frame = frame.tb_next
        if frame is not None or isinstance(error, SyntaxError):
            lines = traceback.format_exception(type(error), error, frame)
        said = f"{what} has failed: {text_of(error)}"
        _print(said, before="".join(lines), shown=not failed_boot)

    def _print_where(self, what: str, *, failed_boot: bool = False) -> None:
        """Print a message, and the present position of the function's code."""
        self._broken_off = True
        if self._task is not None:
            found = _stack_of(self._made)
        else:
            assert self._thread is not None
            found = traceback.StackSummary()
            if (frame := sys._current_frames().get(self._thread.ident or 0)) is not None:
                found = traceback.extract_stack(frame)
            own = max(
                (n for n, entry in enumerate(found) if entry.filename == __file__), default=-1
            )
            del found[: own + 1]
        where = "".join(found.format()).rstrip()
        if failed_boot:
            _print(f"{what}, and was broken off", before=f"{where}\n", shown=False)
        else:
            _print(f"{what}, and was broken off here:\n{where}".rstrip())

    def _print_second_yield(self) -> None:
        _print(f"{self._what} has yielded twice; what follows the second yield was not run")


def _stack_of(waiting: Any) -> traceback.StackSummary:
    """Return where a coroutine or an asynchronous generator waits, outermost frame first."""
    found = traceback.StackSummary()
    while waiting is not None:
        kind = next((k for k in ("cr", "ag", "gi") if hasattr(waiting, f"{k}_frame")), None)
        if kind is None:
            break
        if (frame := getattr(waiting, f"{kind}_frame")) is not None:
            found += traceback.extract_stack(frame, 1)
        waiting = getattr(waiting, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
    return found


def _print(text: str, *, before: str = "", shown: bool = True) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    if before:
        keep(before)
    if shown:
        print(text, file=sys.stderr, flush=True)
    else:
        keep(f"{text}\n")


#: The setup of this process, if it is a runner.
_here: Setup | None = None

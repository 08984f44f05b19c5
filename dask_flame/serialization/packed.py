"""Send calls as bytes, and unpickle them in the thread that runs them (all places).

distributed pickles a task into a message, and the worker's connection unpickles it there. An error
in unpickling would end the worker and lose the other calls in the message, and a slow import would
block the event loop. With bytes in the message, unpickling happens where the call runs, and an
error in it is an error of that call.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import pickle
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import FunctionType, MappingProxyType
from typing import Any

import cloudpickle
from dask.utils import funcname
from distributed.protocol import pickle as dask_pickle

from dask_flame.core.by_value import is_sent_by_value
from dask_flame.core.distributed_internals import Task
from dask_flame.errors import CallFailed
from dask_flame.serialization.failures import Interrupted, fit_to_travel, text_of
from dask_flame.serialization.opaque import is_coroutine_function

_UNREADABLE = (
    "The call has not run: its runner could not read its function or its arguments. Runners have "
    "the modules that are installed there, and the local modules of the driver as they were when "
    "the call was submitted."
)
_UNSENDABLE = (
    "This call could not be sent to a runner: its function or its arguments cannot be pickled: "
)


def _nothing() -> None:
    pass


def _ignored(error: BaseException) -> None:
    pass


def _unchanged(values: Mapping[Any, Any]) -> Mapping[Any, Any]:
    return values


def is_being_cancelled() -> bool:
    """Return whether the current asyncio task was asked to stop."""
    me = asyncio.current_task()
    return me is not None and me.cancelling() > 0


class PackedTask:
    """A pickled task, in place of dask's own in a runner's worker.

    Parameters
    ----------
    pickled : bytes
        The task, without the buffers.
    buffers : iterable of bytes-like
        Out-of-band buffers of pickle protocol 5, such as the contents of arrays.
    is_coro : bool, default False
        Whether the task calls a coroutine function.
    version : str, optional
        The version of the local modules that the task was submitted with; see
        :mod:`dask_flame.code`.

    Attributes
    ----------
    on_open : callable
        Called in the thread of the call after the task was unpickled and before it runs.
    on_error : callable
        Called with the error of the call where it was raised, before it is made fit to travel.
    convert : callable
        Called with the task's inputs by key, in the thread of the call; return the inputs to use.

    Notes
    -----
    A worker uses only the two methods here and `is_coro`. A call that ends with anything but an
    :class:`Exception` would end the worker or its connection, see
    :func:`dask_flame.serialization.failures.fit_to_travel`.
    """

    __slots__ = (
        "_buffers",
        "_pickled",
        "_task",
        "convert",
        "is_coro",
        "on_error",
        "on_open",
        "version",
    )

    def __init__(
        self,
        pickled: bytes,
        buffers: Iterable[Any] = (),
        is_coro: bool = False,
        version: str | None = None,
    ) -> None:
        self._pickled = pickled
        self._buffers = list(buffers)
        self._task: Any = None
        self.on_open: Callable[[], object] = _nothing
        self.on_error: Callable[[BaseException], object] = _ignored
        self.convert: Callable[[Mapping[Any, Any]], Mapping[Any, Any]] = _unchanged
        self.is_coro = is_coro
        self.version = version

    @classmethod
    def pack(cls, task: Any, version: str | None = None) -> PackedTask:
        """Pickle a task; if that fails, return a task that raises the error when it runs."""
        try:
            buffers: list[pickle.PickleBuffer] = []
            pickled = _pickled_with_known(task)
            if pickled is None:
                pickled = dask_pickle.dumps(task, buffer_callback=buffers.append)
            is_coro = task.is_coro or is_coroutine_function(getattr(task, "func", None))
            return cls(pickled, buffers, bool(is_coro), version)
        except Exception as error:
            said = CallFailed(_UNSENDABLE + text_of(error))
            return cls(pickle.dumps(_Refused(said)))

    @property
    def plain(self) -> tuple[bytes, bool, str | None] | None:
        """The same as plain values for a message; None if it has buffers.

        A message to a runner with an object to unpickle has a frame of its own for it, which takes
        both sides as long as the pickling of the task.
        """
        return None if self._buffers else (self._pickled, self.is_coro, self.version)

    @classmethod
    def of(cls, told: Any) -> Any:
        """Return the task of a message: of `plain` values, or as it is."""
        if isinstance(told, list | tuple):
            pickled, is_coro, version = told
            return cls(pickled, (), is_coro, version)
        return told

    @property
    def opened(self) -> Any:
        """The task, or None before it was unpickled."""
        return self._task

    def open(self) -> Any:
        """Unpickle the task.

        Raises
        ------
        Exception
            Any error of unpickling, with a note.
        """
        if self._task is None:
            try:
                self._task = pickle.loads(self._pickled, buffers=self._buffers)
            except Exception as error:
                with contextlib.suppress(Exception):
                    error.add_note(_UNREADABLE)
                raise
            self._pickled, self._buffers = b"", []
        return self._task

    def _begin(self) -> None:
        self.on_open()
        # Release the references to the call's supervision.
        self.on_open, self.convert = _nothing, _unchanged

    def __call__(self, values: Mapping[Any, Any] = MappingProxyType({})) -> Any:
        if self.is_coro:
            return self._awaited(values)
        try:
            task = self.open()
            values = self.convert(values)
            self._begin()
            return task(values)
        except Interrupted:
            raise
        except BaseException as error:
            self.on_error(error)
            raised = fit_to_travel(error)
        raise raised

    async def _awaited(self, values: Mapping[Any, Any]) -> Any:
        try:
            task, values = await self._opened_in_a_thread(values)
            self._begin()
            return await task(values)
        except Interrupted:
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise  # it is being stopped; the code that stops it reports the reason
            self.on_error(error)
            raised = fit_to_travel(error)
        raise raised

    def _opened_in_a_thread(
        self, values: Mapping[Any, Any]
    ) -> Awaitable[tuple[Any, Mapping[Any, Any]]]:
        # Use the context of the call in the thread, but start the thread in an empty context: it is
        # reused for other calls.
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()

        def opened() -> tuple[Any, Mapping[Any, Any]]:
            return self.open(), self.convert(values)

        def begin() -> Awaitable[tuple[Any, Mapping[Any, Any]]]:
            return loop.run_in_executor(None, lambda: context.run(opened))

        return contextvars.Context().run(begin)

    def __repr__(self) -> str:
        # Dask logs the repr when a call fails. Dask's own repr would show secrets in arguments.
        if self._task is None:
            return "<a call that could not be read>"
        try:
            # Imported here to avoid a cycle.
            from dask_flame.serialization.task_arguments import called_with

            name = funcname(getattr(self._task, "func", self._task))
            return f"<{name}({called_with(self._task)})>"
        except Exception:
            return "<a call>"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if self._task is not None:
            return PackedTask.pack(self._task, self.version).__reduce_ex__(protocol)
        buffers = [pickle.PickleBuffer(buffer) for buffer in self._buffers]
        return PackedTask, (self._pickled, buffers, self.is_coro, self.version)


#: The pickles of functions that are sent by value.
_functions: weakref.WeakKeyDictionary[FunctionType, bytes] = weakref.WeakKeyDictionary()
#: Maximum bytes of such a pickle.
_MOST = 100_000
#: Types of arguments that a function cannot share with its closure or its globals.
_IMMUTABLE = frozenset({str, bytes, bool, int, float, type(None)})


def _pickled_with_known(task: Any) -> bytes | None:
    """Return the pickle of a task with a function that is sent by value, which is pickled once.

    Tasks of a ``client.map`` have the same function. It is a copy that the scheduler has unpickled,
    and that nothing there changes.

    Returns
    -------
    bytes or None
        None for any other task, and if an argument could refer to what the function refers to.
    """
    if type(task) is not Task or type(function := task.func) is not FunctionType:
        return None
    if not is_sent_by_value(function):
        return None
    if not all(type(value) in _IMMUTABLE for value in (*task.args, *task.kwargs.values())):
        return None
    if (known := _functions.get(function)) is None:
        buffers: list[pickle.PickleBuffer] = []
        known = cloudpickle.dumps(function, buffer_callback=buffers.append)
        if buffers or len(known) > _MOST:
            return None
        _functions[function] = known
    parts = known, task.key, task.args, task.kwargs, task.data_producer
    return pickle.dumps(_Rebuilt(parts), pickle.HIGHEST_PROTOCOL)


class _Rebuilt:
    """Unpickles as a task, from the pickle of its function and the other parts."""

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self._parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, self._parts


def _rebuild(
    function: bytes, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any], data_producer: bool
) -> Task:
    return Task(key, pickle.loads(function), *args, _data_producer=data_producer, **kwargs)


class _Refused:
    """Raises an error instead of running a call."""

    is_coro = False

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, values: Any = None) -> Any:
        raise self.error

"""Find the arguments of a task, for display (runner)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from dask.typing import Key
from dask.utils import apply
from distributed import Worker

from dask_flame.core.argument_text import ITEMS, NamedArgument, argument_text
from dask_flame.core.distributed_internals import (
    Alias,
    DataNode,
    Dict,
    List,
    Set,
    Task,
    TaskRef,
    Tuple,
)
from dask_flame.core.parameters import parameters
from dask_flame.core.text import function_name
from dask_flame.serialization.packed import PackedTask

#: Suffix that makes the key of a call unique.
_UNIQUE = re.compile(r"-[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}$")


def about_task(worker: Worker, key: Key, *, hide_random: bool = True) -> dict[str, Any]:
    """Return the function and arguments of a task on this worker; may be called from any thread.

    Parameters
    ----------
    worker : distributed.Worker
        Worker that has the task.
    key : Key
        Key of the task.
    hide_random : bool, default True
        See :func:`dask_flame.core.argument_text.argument_text`.

    Returns
    -------
    dict
        ``function``: its name. ``arguments``: their text. ``parameters``: see
        :func:`dask_flame.core.parameters.parameters`. Only those that are known.
    """
    try:
        found = _called(_opened(worker, key), worker)
        if found is None:
            return {}
        function = found[0]
        about: dict[str, Any] = {"function": function_name(function)}
        if text := argument_text(*found, hide_random=hide_random):
            about["arguments"] = text
        if named := parameters(*found, hide_random=hide_random):
            about["parameters"] = named
        return about
    except Exception:
        # The task may be released meanwhile, or be made by an unknown version of Dask.
        return {}


def _opened(worker: Worker, key: Key) -> Any:
    ts = worker.state.tasks.get(key)
    task = None if ts is None else ts.run_spec
    return task.opened if isinstance(task, PackedTask) else task


def called_with(task: Any, worker: Worker | None = None, *, hide_random: bool = True) -> str:
    """Return the arguments of an opened task as text; references show the results if available.

    Parameters
    ----------
    task : object
        Task of a graph.
    worker : distributed.Worker, optional
        Worker that has the results of other tasks.
    hide_random : bool, default True
        See :func:`dask_flame.core.argument_text.argument_text`.

    Returns
    -------
    str

    Raises
    ------
    Exception
        The task was made by an unknown version of Dask.
    """
    found = _called(task, worker)
    return "" if found is None else argument_text(*found, hide_random=hide_random)


#: A function, its arguments, and a function that resolves references among these.
_Called = tuple[Any, Any, Any, Callable[[Any], Any]]


def _called(task: Any, worker: Worker | None) -> _Called | None:
    """Return the call of a task; None for internal tasks and notebook cells."""
    inner: dict[Any, Any] = {}
    if isinstance(task, Task) and task.has_subgraph():
        # Fused tasks: the last one was requested by the user.
        inner, out = task.args[:2]
        task = inner[out]
        while type(task) is Alias and task.target in inner:
            task = inner[task.target]
    if not isinstance(task, Task):
        return None
    function, args, kwargs = task.func, task.args, task.kwargs
    if function is apply:
        function, args, *more = (plain_node(arg) for arg in args)
        kwargs = more[0] if more else {}
    if getattr(function, "__module__", "").startswith("dask_flame.notebook."):
        return None  # a notebook cell has no arguments

    def resolve(value: Any) -> Any:
        kind = type(value)
        if kind is TaskRef:
            return _value(worker, value.key, inner)
        if kind is Alias:
            return _value(worker, value.target, inner)
        return plain_node(value)

    return function, args, kwargs, resolve


def plain_node(value: Any) -> Any:
    """Return the value of a graph node, limited to the items that are shown."""
    kind = type(value)
    if kind is DataNode:
        return value.value
    if kind in (List, Tuple):
        return value.klass(value.args[: ITEMS + 1])
    if kind is Set:
        return list(value.args[: ITEMS + 1])
    if kind is Dict:
        pairs = iter(value.args[: 2 * ITEMS + 2])
        return dict(zip(pairs, pairs, strict=True))
    if isinstance(value, Task):
        return NamedArgument(f"{getattr(value.func, '__name__', type(value.func).__name__)}(…)")
    return value


def _value(worker: Worker | None, key: Key, inner: dict[Any, Any]) -> Any:
    """Return the result of another task if it is in memory, otherwise its name."""
    node = inner.get(key)
    if isinstance(node, DataNode):
        return node.value
    # Access the dict directly, so that the value is not marked as used or read from disk.
    data: Any = None if worker is None else getattr(worker.data, "fast", worker.data)
    data = getattr(data, "d", data)
    missing = object()
    found = data.get(key, missing) if type(data) is dict else missing
    return NamedArgument(_UNIQUE.sub("", str(key))) if found is missing else found

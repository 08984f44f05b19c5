"""What a task was called with: finds its arguments, and what they stand for (runner)."""

from __future__ import annotations

import re
from typing import Any

from dask.typing import Key
from dask.utils import apply
from distributed import Worker

from dask_flame.core.argument_text import ITEMS, NamedArgument, told
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
from dask_flame.serialization.packed import PackedTask

#: What makes a key unlike others of the same function.
_UNIQUE = re.compile(r"-[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}$")


def arguments_of(worker: Worker, key: Key, *, hide_random: bool = True) -> str:
    """What the task of this key, which runs here, was called with; in any thread.

    Parameters
    ----------
    worker : distributed.Worker
    key : Key
    hide_random : bool
        See :func:`dask_flame.core.argument_text.told`.

    Returns
    -------
    str
        See :func:`dask_flame.core.argument_text.told`. Empty too where there is no such task, as of
        methods of actors, or it is one of our own.
    """
    try:
        return _arguments(worker, key, hide_random)
    except Exception:
        # It may be let go meanwhile, or be made by another Dask than those we know.
        return ""


def _arguments(worker: Worker, key: Key, hide_random: bool) -> str:
    ts = worker.state.tasks.get(key)
    task = None if ts is None else ts.run_spec
    if isinstance(task, PackedTask):
        task = task.opened
    return called_with(task, worker, hide_random=hide_random)


def called_with(task: Any, worker: Worker | None = None, *, hide_random: bool = True) -> str:
    """What a task that was opened is called with; of other tasks their results, if there are any.

    Raises
    ------
    Exception
        Where the task is none that this Dask makes.
    """
    inner: dict[Any, Any] = {}
    if isinstance(task, Task) and task.has_subgraph():
        # Several tasks that were fused: what was asked for is the last one.
        inner, out = task.args[:2]
        task = inner[out]
        while type(task) is Alias and task.target in inner:
            task = inner[task.target]
    if not isinstance(task, Task):
        return ""
    function, args, kwargs = task.func, task.args, task.kwargs
    if function is apply:
        function, args, *more = (_plain(arg) for arg in args)
        kwargs = more[0] if more else {}
    if getattr(function, "__module__", "").startswith("dask_flame.notebook."):
        return ""  # a cell has none

    def resolve(value: Any) -> Any:
        kind = type(value)
        if kind is TaskRef:
            return _value(worker, value.key, inner)
        if kind is Alias:
            return _value(worker, value.target, inner)
        return _plain(value)

    return told(function, args, kwargs, resolve, hide_random=hide_random)


def _plain(value: Any) -> Any:
    """What a node of a graph stands for; as much of it as is shown."""
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
    """What another task has made, where it is in memory; else what it is called."""
    node = inner.get(key)
    if isinstance(node, DataNode):
        return node.value
    # Past what counts as a use of it, and might read it from disk.
    data: Any = None if worker is None else getattr(worker.data, "fast", worker.data)
    data = getattr(data, "d", data)
    missing = object()
    found = data.get(key, missing) if type(data) is dict else missing
    return NamedArgument(_UNIQUE.sub("", str(key))) if found is missing else found

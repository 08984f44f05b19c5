"""Graphs as clients send them, made fit for the scheduler (driver, scheduler)."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import cloudpickle
from dask.typing import Key
from distributed.scheduler import TaskState

from dask_flame.core.distributed_internals import DataNode, GraphNode
from dask_flame.errors import CallFailed
from dask_flame.serialization.failures import text_of


def name_data_of_map(
    graph: Mapping[Key, GraphNode], order: Mapping[Key, int], tasks: Mapping[Key, TaskState]
) -> tuple[dict[Key, GraphNode], dict[Key, int]]:
    """Give the large keyword arguments of a ``client.map`` keys of their own, and a priority.

    ``client.map(f, xs, data=array)`` makes a node of its own of an argument above 100 kB, so that
    it travels once. distributed takes the argument's name for its key: a second ``map`` with
    another ``data=`` would be given the first one's. And it leaves the node without a priority,
    which a worker's message needs.

    Parameters
    ----------
    graph : mapping of Key to GraphNode
    order : mapping of Key to int
        The order of its calls, as the client or dask gives it. Only ``map`` leaves nodes out.
    tasks : mapping of Key to TaskState
        What the scheduler knows already. Calls among it keep the data that they were given.

    Returns
    -------
    tuple of dict
        The graph and the order to use instead.
    """
    unnamed = [key for key, node in graph.items() if key not in order and type(node) is DataNode]
    if not order or not unnamed:
        return dict(graph), dict(order)
    token = uuid.uuid4().hex
    names: dict[Key, Key] = {key: f"{key}-{token}" for key in unnamed}
    named: dict[Key, GraphNode] = {}
    for key, node in graph.items():
        if key in names:
            named[names[key]] = DataNode(names[key], node.value)
        elif (ts := tasks.get(key)) is not None and ts.run_spec is not None:
            named[key] = ts.run_spec
        else:
            named[key] = node.substitute(names) if names.keys() & node.dependencies else node
    first = min(order.values()) - 1
    return named, {**order, **dict.fromkeys(names.values(), first)}


_PLAIN = (str, bytes, bool, int, float, type(None))


def cannot_name(keys: Iterable[Key]) -> CallFailed | None:
    """Return the error of calls with a key that no message can carry; None where there is none."""
    for key in keys:
        if not _encodes(key):
            return CallFailed(
                f"the key {key!r} is no text that can be sent: it has half of a surrogate pair, as "
                "names of files have that are not UTF-8; write "
                "key=name.encode(errors='replace').decode()"
            )
    return None


def _encodes(key: Key) -> bool:
    if isinstance(key, tuple):
        return all(map(_encodes, key))
    try:
        str(key).encode()
    except UnicodeEncodeError:
        return False
    return True


def unfit(annotations: Mapping[str, Any]) -> CallFailed | None:
    """Return the error of calls whose annotations cannot be sent; None where they can."""
    for name, value in annotations.items():
        if plain(value):
            continue
        try:
            cloudpickle.loads(cloudpickle.dumps(value))
        except BaseException as error:
            return CallFailed(
                f"the annotation {name!r} of these calls cannot be sent to the scheduler: "
                f"{text_of(error)}; dask.annotate({name}=…) takes what can be pickled"
            )
    return None


def plain(value: Any) -> bool:
    """Return whether a message can carry this as it is, with no pickle in it."""
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(plain, value))
    if isinstance(value, dict):
        return all(plain(key) and plain(item) for key, item in value.items())
    return type(value) in _PLAIN

"""Correct graphs from clients before the scheduler reads them (driver, scheduler)."""

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
    """Give large keyword arguments of a ``client.map`` unique keys and a priority.

    ``client.map(f, xs, data=array)`` puts an argument above 100 kB into a node of its own, so that
    it is sent once. distributed uses the argument's name as its key, so a second ``map`` with
    another ``data=`` would get the data of the first. It also sets no priority for the node, which
    messages to workers need.

    Parameters
    ----------
    graph : mapping of Key to GraphNode
        The graph from a client.
    order : mapping of Key to int
        Order of its tasks, from the client or dask. Only ``map`` omits nodes.
    tasks : mapping of Key to TaskState
        Tasks that the scheduler already has. They keep their data.

    Returns
    -------
    tuple of dict
        Graph and order to use instead.
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


#: The integers that msgpack, and so a key, can have.
_INTEGERS = range(-(2**63), 2**64)


def cannot_name(keys: Iterable[Key]) -> CallFailed | None:
    """Return an error for the first key that no message can carry, or None."""
    for key in keys:
        if why := _why_not_sent(key):
            return CallFailed(f"the key {key!r} cannot be sent: {why}")
    return None


def _why_not_sent(key: Key) -> str:
    """Return why no message can carry a key; empty if one can."""
    if isinstance(key, tuple):
        return next(filter(None, map(_why_not_sent, key)), "")
    if isinstance(key, int):
        return "" if key in _INTEGERS else "its number has more than 64 bits; write key=str(number)"
    try:
        str(key).encode()
    except UnicodeEncodeError:
        return (
            "it has half of a surrogate pair, as names of files have that are not UTF-8; write "
            "key=name.encode(errors='replace').decode()"
        )
    return ""


def unfit(annotations: Mapping[str, Any]) -> CallFailed | None:
    """Return an error for the first annotation that cannot be pickled, or None."""
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
    """Return whether a message can contain a value without pickling it."""
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(plain, value))
    if isinstance(value, dict):
        return all(plain(key) and plain(item) for key, item in value.items())
    return type(value) in _PLAIN

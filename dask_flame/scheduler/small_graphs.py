"""Read the graph of a single call without a thread (scheduler).

Distributed reads each graph in a thread, so that a large one does not block the event loop. For the
graph of ``client.submit``, the way to the thread and back takes longer than all else that is done
with it.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import distributed.scheduler

from dask_flame.core.distributed_internals import is_graph_of_one_call, replace

#: Whether no other graph is being read, which this one could overtake.
_alone: contextvars.ContextVar[bool] = contextvars.ContextVar("dask_flame_alone", default=False)


@contextlib.contextmanager
def read_alone(alone: bool) -> Iterator[None]:
    """Note in the body, which reads a graph, whether no other graph is being read."""
    token = _alone.set(alone)
    try:
        yield
    finally:
        _alone.reset(token)


def prepare() -> None:
    """Read such graphs on the event loop from now on; once per process."""
    offload = distributed.scheduler.offload
    if hasattr(offload, "dask_flame"):
        return

    @functools.wraps(offload)
    def offload_large(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        if _alone.get() and is_graph_of_one_call(function, kwargs.get("expr")):
            return _at_once(function, *args, **kwargs)
        done: Awaitable[Any] = offload(function, *args, **kwargs)
        return done

    offload_large.dask_flame = True  # type: ignore[attr-defined]
    replace(distributed.scheduler, "offload", offload_large)


async def _at_once(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)

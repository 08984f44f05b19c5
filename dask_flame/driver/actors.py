"""The proxy of a placed object (driver, and inside calls on a runner)."""

from __future__ import annotations

import contextlib
import functools
import weakref
from typing import Any

from distributed import Actor

from dask_flame.core.distributed_internals import parts_of


class Placed(Actor):
    """The proxy of a Dask actor that releases the actor as soon as it is deleted.

    Each method call of a :class:`distributed.Actor` creates a reference cycle that keeps the proxy,
    and thus the actor and its slot, until garbage collection. Here such cycles only refer to an
    inner proxy.

    Parameters
    ----------
    actor : distributed.Actor
        The inner proxy; it must have no other references.
    """

    def __init__(self, actor: Actor) -> None:
        self._beneath = actor
        *arguments, future = parts_of(actor)
        super().__init__(*arguments)
        weakref.finalize(self, future.release).atexit = False

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._beneath, name)
        if not callable(attribute):
            return attribute

        @functools.wraps(attribute)
        def method(*args: Any, **kwargs: Any) -> Any:
            future = attribute(*args, **kwargs)
            # Keep the object until the method has finished, even if the proxy is deleted.
            self._io_loop.add_callback(_hold, self, future)
            return future

        return method


async def _hold(placed: Placed, future: Any) -> None:
    with contextlib.suppress(Exception):
        await future

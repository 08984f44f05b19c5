"""The proxy of a placed object (driver, and inside calls on a runner)."""

from __future__ import annotations

import contextlib
import functools
import weakref
from typing import Any

from distributed import Actor

from dask_flame.core.distributed_internals import parts_of


class Placed(Actor):
    """A Dask actor that is let go at the moment when its proxy is.

    Each call of a method of a :class:`distributed.Actor` leaves a cycle of references behind that
    holds the proxy, and so the actor and its slot, until garbage is collected. Here it holds an
    actor beneath this one.

    Parameters
    ----------
    actor : distributed.Actor
        Nobody else's.
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
            # Until then the object is needed, whoever holds the proxy.
            self._io_loop.add_callback(_hold, self, future)
            return future

        return method


async def _hold(placed: Placed, future: Any) -> None:
    with contextlib.suppress(Exception):
        await future

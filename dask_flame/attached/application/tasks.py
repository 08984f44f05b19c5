"""Keep tasks that a cell starts from ending the application's event loop (application).

The loop ends when a task raises SystemExit or KeyboardInterrupt. While a step of a cell's coroutine
runs, the loop's task factory is one whose tasks raise an AttachError instead; no other code can run
on the loop meanwhile. Callbacks that a cell gives to ``loop.call_soon`` are not covered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

from dask_flame.attached.application.interruption import Guard
from dask_flame.errors import AttachError


def step(loop: Any, guard: Guard, function: Callable[..., Any], *args: Any) -> Any:
    """Run a step of a coroutine of a cell, whose tasks are held."""
    with _holding(loop, guard):
        return guard.call(function, *args)


@contextlib.contextmanager
def _holding(loop: Any, guard: Guard) -> Iterator[None]:
    before = loop.get_task_factory()

    def make(loop: Any, coroutine: Any, **options: Any) -> Any:
        import asyncio

        held = _Held(loop, guard, coroutine)
        if before is None:
            return asyncio.Task(held, loop=loop, **options)
        return before(loop, held, **options)

    loop.set_task_factory(make)
    try:
        yield
    finally:
        if loop.get_task_factory() is make:
            loop.set_task_factory(before)


class _Held(Coroutine[Any, Any, Any]):
    """A coroutine that raises neither SystemExit nor KeyboardInterrupt."""

    def __init__(self, loop: Any, guard: Guard, coroutine: Any) -> None:
        self._loop, self._guard, self._coroutine = loop, guard, coroutine

    def send(self, value: Any) -> Any:
        return self._step(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._coroutine.throw, *error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._coroutine.__await__())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)

    def _step(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return step(self._loop, self._guard, function, *args)
        except (KeyboardInterrupt, SystemExit) as error:
            raise AttachError(
                f"a task that a cell has started was ended by {type(error).__name__}, which would "
                "have ended the application's event loop"
            ) from error

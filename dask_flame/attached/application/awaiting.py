"""Await on the application's event loop, from the thread of a cell (application).

Only what a cell awaits runs on the loop. Where the loop executes code of the cell, this code is
interrupted if it takes too long, because the application waits for it. Neither a KeyboardInterrupt
nor a SystemExit leaves it: both would end the loop.
"""

from __future__ import annotations

import ast
import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

from dask_flame.attached.application.interruption import Guard, current_work, shielded
from dask_flame.attached.application.loops import running_loop
from dask_flame.attached.application.tasks import step
from dask_flame.errors import AttachError

#: Seconds for which code of a cell may keep the application's event loop from other work.
LOOP_LIMIT = 0.5
#: Seconds after which a thread that waits for the loop looks for an interrupt.
_LOOK = 0.05
#: Name by which code of a cell calls :func:`awaited`.
NAME = "__await_on_the_loop__"

_ASYNC = (ast.AsyncFor, ast.AsyncWith, ast.NamedExpr)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def awaited(make: Callable[[], Any]) -> Any:
    """Await what a function returns on the application's event loop, and return the result.

    Without such a loop, a new one is used in this thread.
    """
    # Code that an import runs may swallow an interrupt, which happens on Python 3.13.
    with shielded():
        import asyncio

    loop = running_loop()
    if loop is None:

        async def wait() -> Any:
            return await make()

        return asyncio.run(wait())
    steps = Steps(make, loop)
    work = current_work()
    # An exception in the middle of waiting would leave the event locked, which the loop sets.
    with shielded() as shield:
        if work is not None:
            work.elsewhere = steps
        try:
            steps.start()
            while not steps.ended.wait(_LOOK):
                if loop.is_closed():
                    raise AttachError("the event loop of the application has ended")
                if shield.interrupted():  # before `elsewhere` was set
                    steps.interrupt()
            return steps.outcome()
        finally:
            if work is not None:
                work.elsewhere = None


class Steps:
    """A coroutine of a cell on the application's loop.

    Attributes
    ----------
    ended : threading.Event
    """

    def __init__(self, make: Callable[[], Any], loop: Any) -> None:
        self.ended = threading.Event()
        self._make: Callable[[], Any] | None = make
        self._loop = loop
        self._guard = Guard()
        self._task: Any = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._interrupted = self._delivered = self._blocked = False

    def start(self) -> None:
        # It has the context of the cell, to which its prints belong.
        self._loop.call_soon_threadsafe(self._begin)

    def interrupt(self) -> bool:
        """Cancel it, and interrupt the code that it runs; return False if it has ended before."""
        if self.ended.is_set():
            return False
        self._interrupted = True
        if self._guard.interrupt():
            self._delivered = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._cancel)
        return True

    def blocked_for(self) -> float:
        """Return for how many seconds the loop's thread has not moved since it was interrupted."""
        return self._guard.blocked_for()

    def watch(self) -> None:
        """Interrupt it if it has kept the loop from other work for too long."""
        if self._guard.inside_for() > LOOP_LIMIT:
            self._blocked = True
            self._guard.interrupt()

    def outcome(self) -> Any:
        error, self._error = self._error, None
        value, self._value = self._value, None
        if self._blocked and isinstance(error, KeyboardInterrupt):
            raise AttachError(
                f"this code has kept the application's event loop from other work for "
                f"{LOOP_LIMIT:g} s, and was interrupted; await only what gives way, and compute "
                "outside of await, where a cell has a thread of its own"
            ).with_traceback(error.__traceback__)
        if self._interrupted and error is not None:
            raise KeyboardInterrupt().with_traceback(error.__traceback__)
        if error is not None:
            raise error
        if self._interrupted and not self._delivered:
            raise KeyboardInterrupt  # it had ended before it could be canceled
        return value

    def _begin(self) -> None:
        if self._interrupted:
            self._error = KeyboardInterrupt()
            self.ended.set()
            return
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._end)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: Any) -> None:
        self._task = self._make = None
        if task.cancelled() and self._error is None:
            import asyncio

            self._error = asyncio.CancelledError()
        self.ended.set()

    async def _run(self) -> None:
        await self

    def __await__(self) -> Generator[Any, Any, None]:
        assert self._make is not None
        coroutine = _wait(self._make)
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            try:
                if thrown is None:
                    waited = step(self._loop, self._guard, coroutine.send, sent)
                else:
                    waited = step(self._loop, self._guard, coroutine.throw, thrown)
            except StopIteration as stop:
                self._value = stop.value
                return
            except BaseException as error:
                self._error = error  # nothing of it may reach the loop
                return
            thrown = None
            try:
                sent = yield waited
            except BaseException as error:
                thrown = error
                self._delivered = True


async def _wait(make: Callable[[], Any]) -> Any:
    return await make()


def on_the_loop(tree: ast.Module) -> ast.Module:
    """Return a cell in which each ``await`` outside of functions calls :func:`awaited`.

    The rest of the cell then runs in its own thread. A cell with ``async for``, ``async with`` or
    an assignment inside of an expression is left as it is.

    Examples
    --------
    >>> ast.unparse(on_the_loop(ast.parse("x = await f(1)")))
    'x = __await_on_the_loop__(lambda: f(1))'
    >>> ast.unparse(on_the_loop(ast.parse("async with f(): pass")))
    'async with f():\\n    pass'
    """
    if any(_must_stay(node) for node in _outside_functions(tree)):
        return tree
    changed: ast.Module = ast.fix_missing_locations(_Awaits().visit(tree))
    return changed


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, _SCOPES):
            yield child
            yield from _outside_functions(child)


def _must_stay(node: ast.AST) -> bool:
    if isinstance(node, _COMPREHENSIONS):
        inside = list(ast.walk(node))
        return any(isinstance(one, ast.Await) for one in inside) or any(
            isinstance(one, ast.comprehension) and one.is_async for one in inside
        )
    if isinstance(node, ast.Await):
        # One inside of another would have to wait in the loop's thread.
        return any(isinstance(one, ast.Await) for one in _outside_functions(node))
    return isinstance(node, _ASYNC)


class _Awaits(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> ast.AST:
        return node if isinstance(node, _SCOPES) else super().generic_visit(node)

    def visit_Await(self, node: ast.Await) -> ast.AST:
        nothing = ast.arguments([], [], None, [], [], None, [])
        function = ast.copy_location(ast.Lambda(nothing, node.value), node)
        call = ast.Call(ast.Name(NAME, ast.Load()), [function], [])
        return ast.copy_location(call, node)

"""Run a cell in the application's process, in a namespace of its own (application)."""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import os
import sys
import traceback
import types
from collections.abc import Mapping
from typing import Any

from dask_flame.attached.application import awaiting
from dask_flame.attached.application.awaiting import awaited
from dask_flame.attached.application.display import formatted
from dask_flame.attached.application.outputs import Outputs
from dask_flame.core.cell_streams import current

#: Compiler flag for ``await`` and ``async for`` outside of functions, as in notebooks.
FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
#: Where the frames are that a traceback does not show.
_HERE = os.path.join(os.path.dirname(__file__), "")
#: Maximum number of characters of a traceback.
_MOST_TRACEBACK = 200_000


class Namespace:
    """The names of one attachment.

    Names of the application can be used without an import, unless a cell has assigned them: the
    variables of its main module, and the modules that are loaded.

    Parameters
    ----------
    main : mapping, optional
        Variables in place of those of the main module: of a frame, for example.

    Attributes
    ----------
    names : dict
        The globals of the cells.
    """

    def __init__(self, main: Mapping[str, Any] | None = None) -> None:
        self._main = main
        self.names: dict[str, Any] = {
            "__name__": "__main__",
            "__doc__": None,
            "__builtins__": builtins,
            "display": display,
            awaiting.NAME: awaited,
        }
        self._lent: dict[str, Any] = {}
        self._files: set[str] = set()

    def lend(self, used: set[str]) -> None:
        """Bind those of the names to the application's objects that no cell has assigned."""
        main = self._variables()
        for name in used | self._lent.keys():
            if name in self.names and self.names[name] is not self._lent.get(name, self):
                self._lent.pop(name, None)
                continue
            self.names.pop(name, None)
            self._lent.pop(name, None)
            if name.startswith("__") or name in vars(builtins):
                continue
            value = main.get(name, sys.modules.get(name, self))
            if value is not self:
                self.names[name] = self._lent[name] = value

    def _variables(self) -> Mapping[str, Any]:
        return vars(sys.modules["__main__"]) if self._main is None else self._main

    def keep(self, bound: set[str]) -> None:
        """Regard these names as the cells' own from now on."""
        for name in bound:
            self._lent.pop(name, None)

    def visible(self) -> dict[str, Any]:
        """Return all names that a cell can use, except builtins."""
        modules = {name: value for name, value in list(sys.modules.items()) if "." not in name}
        main = {
            name: value
            for name, value in list(self._variables().items())
            if not name.startswith("__")
        }
        return {**modules, **main, **self.names}

    def own(self) -> list[str]:
        """Return the names that cells have assigned."""
        return [
            name
            for name, value in self.names.items()
            if not name.startswith("_")
            and value is not display
            and value is not self._lent.get(name, self)
        ]

    def remember(self, filename: str, source: str) -> None:
        """Let tracebacks and ``inspect`` find the lines of a cell."""
        self._files.add(filename)
        lines = [line + "\n" for line in source.splitlines()]
        linecache.cache[filename] = (len(source), None, lines, filename)

    def close(self) -> None:
        """Forget everything."""
        for filename in self._files:
            linecache.cache.pop(filename, None)
        self._files.clear()
        self._lent.clear()
        self._main = {}
        # Not cleared: functions that the cells have given to the application use these globals.
        self.names = {}


def execute(source: str, filename: str, namespace: Namespace) -> Any:
    """Run the code of a cell; return the value of its last expression, or None."""
    namespace.remember(filename, source)
    tree = compile(source, filename, "exec", FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
    assert isinstance(tree, ast.Module)
    namespace.lend({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})
    namespace.keep(_bound(tree))
    tree = awaiting.on_the_loop(tree)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    names = namespace.names
    _evaluate(compile(tree, filename, "exec", FLAGS, dont_inherit=True), names)
    if not isinstance(last, ast.Expr):
        return None
    code = compile(ast.Expression(last.value), filename, "eval", FLAGS, dont_inherit=True)
    value = _evaluate(code, names)
    if value is not None:
        names["_"] = value
    return value


def _bound(tree: ast.Module) -> set[str]:
    """Return the names that a cell binds, also those in functions that it defines."""
    bound = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name.partition(".")[0])
    return bound


def _evaluate(code: types.CodeType, names: dict[str, Any]) -> Any:
    value = eval(code, names)
    if code.co_flags & inspect.CO_COROUTINE:
        return awaited(lambda: value)
    return value


def error_of(error: BaseException, filename: str) -> dict[str, Any]:
    """Return the name, the message and the traceback of an error, without frames of dask-flame."""
    _hide_own_frames(error, filename)
    text = "".join(traceback.format_exception(error))
    if len(text) > _MOST_TRACEBACK:
        text = f"{text[: _MOST_TRACEBACK // 2]}\n…\n{text[-_MOST_TRACEBACK // 2 :]}"
    return {"name": type(error).__name__, "value": said(error), "traceback": text.splitlines()}


def _hide_own_frames(error: BaseException, filename: str) -> None:
    """Remove the frames above the cell's and those of dask-flame from a traceback."""
    kept: list[types.TracebackType] = []
    entry, ours, begun = error.__traceback__, False, isinstance(error, SyntaxError)
    while entry is not None:
        code = entry.tb_frame.f_code
        begun = begun or code.co_filename == filename
        before, ours = ours, code.co_filename.startswith(_HERE)
        # The function in which an awaited expression is put has the line of its caller.
        repeated = before and code.co_filename == filename and code.co_name == "<lambda>"
        if begun and not ours and not repeated:
            kept.append(entry)
        entry = entry.tb_next
    if not begun:
        return
    following: types.TracebackType | None = None
    for entry in reversed(kept):
        entry.tb_next = following
        following = entry
    error.__traceback__ = following


def said(error: BaseException) -> str:
    """Return the message of an error, also if its ``str()`` fails."""
    try:
        return str(error)[:10_000]
    except Exception as other:
        return f"(its text fails: {type(other).__name__})"


def display(*objects: Any, display_id: str | None = None, update: bool = False) -> None:
    """Show objects in the notebook; outside of a cell, print them."""
    outputs = current(Outputs)
    for value in objects:
        if outputs is None:
            print(repr(value))
            continue
        data, metadata = formatted(value)
        transient = {} if display_id is None else {"display_id": display_id}
        outputs.display(data, metadata, transient, update=update)

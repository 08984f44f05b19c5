"""Run a cell on a runner, and return the names that it has assigned (runner)."""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import importlib
import inspect
import linecache
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

import cloudpickle
import tblib.pickling_support
from distributed import get_worker

from dask_flame.core.cell_streams import redirected
from dask_flame.errors import FlameError
from dask_flame.notebook.cells import tracebacks
from dask_flame.notebook.cells.names import FLAGS
from dask_flame.notebook.cells.outputs import Outputs
from dask_flame.notebook.cells.transfer import Parcel, pack, reason, unpack
from dask_flame.notebook.cells.widgets import draw_bars_as_text, without_views
from dask_flame.runner import main_module
from dask_flame.serialization.failures import Interrupted

#: Name of the last expression's value in the result; no cell can assign it.
VALUE = "the last expression"
#: Name of the error in the result.
ERROR = "the error"
#: Maximum length of the text of a value that cannot be sent back.
_LONGEST = 10_000


@dataclass(frozen=True)
class Order:
    """A cell to run.

    Attributes
    ----------
    source : str
        Python code, with the line numbers of the notebook.
    filename : str
        Name of the cell in tracebacks.
    topic : str
        Topic of the events that carry the output.
    key : str
        Key of the cell's task.
    names : Parcel
        Values that the cell uses.
    submodules : tuple of str
        Submodules to import, because the cell uses them as attributes.
    changes : frozenset of str
        Names that the cell assigns, or whose items or attributes it assigns.
    quiet : bool
        Whether to drop the value of the last expression.
    """

    source: str
    filename: str
    topic: str
    key: str
    names: Parcel
    submodules: tuple[str, ...]
    changes: frozenset[str]
    quiet: bool


@dataclass(frozen=True)
class Outcome:
    """Result of a cell.

    Attributes
    ----------
    names : Parcel
        Assigned values, and the value of the last expression.
    deleted : tuple of str
        Names that the cell has deleted.
    shown : mapping of str to object
        Display data of the last expression's value, in case the value cannot be sent.
    error : bytes
        The pickled error; empty without an error, or if it cannot be pickled.
    error_text : tuple of str
        Class name, message and traceback of the error as text.
    """

    names: Parcel
    deleted: tuple[str, ...]
    shown: dict[str, Any]
    error: bytes = b""
    error_text: tuple[str, str, str] = ("", "", "")


class CellFailed(Exception):
    """Raised when a cell has raised, so that its task fails in Dask; contains the outcome."""

    def __init__(self, said: str, outcome: bytes) -> None:
        super().__init__(said, outcome)

    @property
    def outcome(self) -> bytes:
        return bytes(self.args[1])

    def __str__(self) -> str:
        return str(self.args[0])

    def __repr__(self) -> str:
        return f"CellFailed({self.args[0]!r})"


def run_cell(packed: bytes) -> bytes:
    """Run a pickled :class:`Order` and return a pickled :class:`Outcome`.

    Raises
    ------
    CellFailed
        The cell has raised; contains the outcome.
    """
    order: Order = cloudpickle.loads(packed)
    worker = get_worker()
    outputs = Outputs(worker, order.topic, order.key)
    outputs.begin()
    namespace = {"__name__": "__main__", "__doc__": None, "__builtins__": builtins}
    if (main := main_module.installed()) is not None:
        main.use(namespace)
        # Before the cell's names are unpickled, which may be such bars.
        draw_bars_as_text()
    try:
        with redirected(outputs):
            outcome = _run(order, namespace)
    finally:
        outputs.finish()
    answer: bytes = cloudpickle.dumps(outcome)
    if outcome.error_text[0]:
        raise CellFailed(": ".join(filter(None, outcome.error_text[:2])), answer)
    return answer


def _run(order: Order, namespace: dict[str, Any]) -> Outcome:
    for module in order.submodules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    given, lost = unpack(order.names, namespace)
    if lost:
        return _failed(FlameError(_cannot_unpack(lost)), order, Parcel(), ())
    namespace.update(given)
    lines = [line + "\n" for line in order.source.splitlines()]
    linecache.cache[order.filename] = (len(order.source), None, lines, order.filename)
    value, error = None, None
    with _working_directory(), _ipython(namespace) as show:
        before = dict(namespace)
        try:
            value = _execute(order, namespace)
        except Interrupted:
            raise
        except BaseException as raised:
            error = raised
    assigned = _assigned(order, before, namespace)
    if value is not None and not order.quiet:
        assigned.append(VALUE)
    parcel = pack({**namespace, VALUE: value}, namespace, assigned, follow=False)
    deleted = tuple(name for name in given if name not in namespace)
    if error is not None:
        return _failed(error, order, parcel, deleted)
    shown: dict[str, Any] = {}
    if VALUE in assigned and type(value).__module__ != "builtins":
        # Send the full display only if the value itself cannot be sent.
        shown = show(value) if VALUE in parcel.failed else {"text/plain": _text(value)}
    elif VALUE in parcel.failed:
        shown = {"text/plain": _text(value)}
    return Outcome(parcel, deleted, shown)


def _execute(order: Order, namespace: dict[str, Any]) -> Any:
    """Run the cell's code and return the value of its last expression, or None."""
    tree = compile(
        order.source, order.filename, "exec", FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True
    )
    assert isinstance(tree, ast.Module)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    _evaluate(compile(tree, order.filename, "exec", FLAGS, dont_inherit=True), namespace)
    if not isinstance(last, ast.Expr):
        return None
    expression = ast.Expression(last.value)
    code = compile(expression, order.filename, "eval", FLAGS, dont_inherit=True)
    return _evaluate(code, namespace)


def _evaluate(code: CodeType, namespace: dict[str, Any]) -> Any:
    value = eval(code, namespace)
    if code.co_flags & inspect.CO_COROUTINE:
        # This thread has no event loop.
        return asyncio.run(value)
    return value


def _assigned(order: Order, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the names that were bound to other objects or changed by assignment."""
    return [
        name
        for name, value in after.items()
        if not (name.startswith("__") and name.endswith("__"))
        and (
            name not in before
            or value is not before[name]
            or (name in order.changes and not inspect.ismodule(value))
        )
    ]


@contextlib.contextmanager
def _working_directory() -> Iterator[None]:
    """Undo changes of the working directory: later calls of the process rely on it."""
    try:
        before = os.getcwd()
    except OSError:  # it was removed
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.chdir(before)


@contextlib.contextmanager
def _ipython(namespace: dict[str, Any]) -> Iterator[Any]:
    """Provide IPython's features to a cell, as far as they are installed here."""
    try:
        from dask_flame.notebook.cells.shell import (
            begin_figures,
            cell_shell,
            end_figures,
            own_names,
        )

        shell = cell_shell(namespace)
    except ImportError:
        shell = None
    if shell is None:
        yield lambda value: {"text/plain": _text(value)}
        return
    namespace.update(own_names(shell))
    begin_figures(shell)

    def show(value: Any) -> dict[str, Any]:
        data, _ = shell.display_formatter.format(value)
        return without_views(data) or {"text/plain": _text(value)}

    try:
        yield show
    finally:
        end_figures(shell)


def _text(value: Any) -> str:
    try:
        return repr(value)[:_LONGEST]
    except Exception as error:
        return f"<{type(value).__name__} whose repr() fails: {reason(error)}>"


def _cannot_unpack(lost: dict[str, str]) -> str:
    reasons = "; ".join(f"{name} ({why})" for name, why in lost.items())
    return (
        f"what the cell uses cannot be unpacked on the runner: {reasons}. "
        "Is everything installed there that is imported here?"
    )


def _failed(
    error: BaseException, order: Order, parcel: Parcel, deleted: tuple[str, ...]
) -> Outcome:
    """Return the outcome of a cell that has raised, without frames of dask-flame."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != order.filename:
        frames = frames.tb_next
    error.__traceback__ = frames
    kind = type(error).__name__
    text = "".join(traceback.format_exception(type(error), error, frames))
    try:
        tblib.pickling_support.install(*_chain(error))
        data = tracebacks.dumps({ERROR: error})
    except Exception:
        data = b""
    return Outcome(parcel, deleted, {}, data, (kind, _said(error), text))


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as other:
        return f"(its text fails: {reason(other)})"


def _chain(error: BaseException) -> Iterator[BaseException]:
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]
            if isinstance(one, BaseExceptionGroup):
                waiting += one.exceptions

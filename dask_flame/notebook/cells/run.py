"""A cell on a runner: unpacked, run, and what it has assigned packed again (runner)."""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import importlib
import inspect
import linecache
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

import cloudpickle
import tblib.pickling_support
from distributed import get_worker

from dask_flame.errors import FlameError
from dask_flame.notebook.cells.names import FLAGS
from dask_flame.notebook.cells.outputs import Outputs, gathered
from dask_flame.notebook.cells.transfer import Parcel, pack, reason, unpack
from dask_flame.runner import main_module
from dask_flame.serialization.failures import Interrupted

#: The name under which the value of the last expression comes back; no cell can assign it.
VALUE = "the last expression"
#: ... and that under which an error does.
ERROR = "the error"
#: The longest text that is shown of a value that cannot be brought back.
_LONGEST = 10_000


@dataclass(frozen=True)
class Order:
    """A cell to run.

    Attributes
    ----------
    source : str
        Python, with the lines where they are in the notebook.
    filename : str
        What the notebook calls it in tracebacks.
    topic, key : str
        Of the events that carry what it prints.
    names : Parcel
        What it uses.
    submodules : tuple of str
        What has been imported as a part of another module.
    changes : frozenset of str
        What it assigns, or assigns items or attributes of, in so many words.
    quiet : bool
        Whether the value of its last expression is not wanted.
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
    """What has come of a cell.

    Attributes
    ----------
    names : Parcel
        What it has assigned, and the value of its last expression.
    gone : tuple of str
        Names that it has deleted.
    shown : mapping of str to object
        The value of its last expression as it can be displayed, where it might not travel.
    error : bytes
        What it has raised; empty where it has not, or that cannot travel.
    told : tuple of str
        The same as text: its kind, what it says, and its traceback.
    """

    names: Parcel
    gone: tuple[str, ...]
    shown: dict[str, Any]
    error: bytes = b""
    told: tuple[str, str, str] = ("", "", "")


class CellFailed(Exception):
    """What a cell that has raised raises in turn, for Dask to know: it holds an outcome."""

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
    """Run a cell: takes an :class:`Order`, returns an :class:`Outcome`, both packed.

    Raises
    ------
    CellFailed
        If the cell has raised; with the outcome.
    """
    order: Order = cloudpickle.loads(packed)
    worker = get_worker()
    outputs = Outputs(worker, order.topic, order.key)
    outputs.say("begin", str(worker.name))
    namespace = {"__name__": "__main__", "__doc__": None, "__builtins__": builtins}
    if (main := main_module.installed()) is not None:
        main.use(namespace)
    try:
        with gathered(outputs):
            outcome = _run(order, namespace)
    finally:
        outputs.finish()
    answer: bytes = cloudpickle.dumps(outcome)
    if outcome.told[0]:
        raise CellFailed(": ".join(filter(None, outcome.told[:2])), answer)
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
    with _ipython(namespace) as show:
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
    gone = tuple(name for name in given if name not in namespace)
    if error is not None:
        return _failed(error, order, parcel, gone)
    shown: dict[str, Any] = {}
    if VALUE in assigned and type(value).__module__ != "builtins":
        # In full only if there is nothing else to show.
        shown = show(value) if VALUE in parcel.failed else {"text/plain": _text(value)}
    elif VALUE in parcel.failed:
        shown = {"text/plain": _text(value)}
    return Outcome(parcel, gone, shown)


def _execute(order: Order, namespace: dict[str, Any]) -> Any:
    """Run the cell's code; the value of its last expression, or None."""
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
        # This is a thread without an event loop.
        return asyncio.run(value)
    return value


def _assigned(order: Order, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is bound to another object than before, or was changed in so many words."""
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
def _ipython(namespace: dict[str, Any]) -> Iterator[Any]:
    """What a notebook offers to its cells, as far as it is installed here."""
    try:
        from dask_flame.notebook.cells.shell import begin_figures, cell_shell, end_figures

        shell = cell_shell(namespace)
    except ImportError:
        shell = None
    if shell is None:
        yield lambda value: {"text/plain": _text(value)}
        return
    namespace["get_ipython"] = lambda: shell
    begin_figures(shell)

    def show(value: Any) -> dict[str, Any]:
        data, _ = shell.display_formatter.format(value)
        return data or {"text/plain": _text(value)}

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
    told = "; ".join(f"{name} ({why})" for name, why in lost.items())
    return (
        f"what the cell uses cannot be unpacked on the runner: {told}. "
        "Is everything installed there that is imported here?"
    )


def _failed(error: BaseException, order: Order, parcel: Parcel, gone: tuple[str, ...]) -> Outcome:
    """The outcome of a cell that has raised: without our own frames."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != order.filename:
        frames = frames.tb_next
    error.__traceback__ = frames
    kind = type(error).__name__
    text = "".join(traceback.format_exception(type(error), error, frames))
    try:
        tblib.pickling_support.install(*_chain(error))
        data = cloudpickle.dumps({ERROR: error})
    except Exception:
        data = b""
    return Outcome(parcel, gone, {}, data, (kind, _said(error), text))


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

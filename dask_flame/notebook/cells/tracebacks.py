"""Pickle tracebacks with the positions of their frames (driver, runner).

tblib's tracebacks have frames whose code begins at the line that failed. IPython looks for the
lines to show from the first line of a frame's code, and would show those that follow.
"""

from __future__ import annotations

import ast
import inspect
import io
import pickle
from dataclasses import dataclass, replace
from types import CodeType, TracebackType
from typing import Any

import cloudpickle

#: Names of globals and locals that decide how a frame is shown.
_SHOWN_BY = ("__name__", "__file__", "__tracebackhide__")

#: A name that nothing can have.
_MISSING = "not a name"
#: Line, last line, column and last column; columns count bytes.
Position = tuple[int, int, int, int]


@dataclass(frozen=True)
class Frame:
    """One entry of a traceback.

    Attributes
    ----------
    filename, name, qualname : str
        Of the frame's code.
    first : int
        First line of the code.
    line : int
        Line that was executed.
    position : tuple of int or None
        Position of the expression that was executed, if known.
    names : dict
        The values by which tools recognize frames to hide.
    """

    filename: str
    name: str
    qualname: str
    first: int
    line: int
    position: Position | None
    names: dict[str, Any]


def dumps(value: Any) -> bytes:
    """Pickle a value with the tracebacks of the exceptions in it.

    The exceptions themselves need ``tblib.pickling_support.install``.
    """
    file = io.BytesIO()
    _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, TracebackType):
            return rebuilt, (frames_of(obj),)
        return super().reducer_override(obj)


def frames_of(traceback: TracebackType | None) -> tuple[Frame, ...]:
    """Return the entries of a traceback, the outermost first, without hidden ones at its end."""
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        known = {**traceback.tb_frame.f_globals, **traceback.tb_frame.f_locals}
        names = {name: known[name] for name in _SHOWN_BY if isinstance(known.get(name), str | bool)}
        frames.append(
            Frame(
                code.co_filename,
                code.co_name,
                code.co_qualname,
                code.co_firstlineno,
                traceback.tb_lineno,
                _position(traceback),
                names,
            )
        )
        traceback = traceback.tb_next
    # IPython shows the last entry even if it is to be hidden.
    while len(frames) > 1 and frames[-1].names.get("__tracebackhide__"):
        frames.pop()
    return tuple(frames)


def _position(traceback: TracebackType) -> Position | None:
    positions = list(traceback.tb_frame.f_code.co_positions())
    place = traceback.tb_lasti // 2
    if not 0 <= place < len(positions):
        return None
    line, last, column, end = positions[place]
    if line is None or last is None or column is None or end is None:
        return None
    return line, last, column, end


def rebuilt(frames: tuple[Frame, ...]) -> TracebackType | None:
    """Return a traceback with these entries."""
    # A recursion has many entries with the same code.
    codes: dict[tuple[Any, ...], CodeType] = {}
    built: TracebackType | None = None
    for frame in reversed(frames):
        place = (frame.filename, frame.qualname, frame.first, frame.line, frame.position)
        code = codes.get(place)
        if code is None:
            code = codes[place] = _code(_legible(frame))
        entry = _entry(code, frame.names)
        entry.tb_next = built
        built = entry
    return built


def _legible(frame: Frame) -> Frame:
    """Return the entry, or one that IPython shows with the right lines.

    Where IPython does not parse the source, it takes the lines from ``inspect.getsourcelines``,
    which finds another beginning for comprehensions and the bodies of classes. It finds all lines
    for the code of a module. IPython shows the qualified name.
    """
    try:
        lines, first = inspect.getsourcelines(_code(frame))
    except (OSError, SyntaxError, IndexError):
        return frame
    if first == frame.first and frame.line < first + len(lines):
        return frame
    return replace(frame, name="<module>", first=1)


def _code(frame: Frame) -> CodeType:
    """Return code that raises an error at the position of an entry."""
    line, last, column, end = frame.position or (frame.line, frame.line, 0, 0)
    # Code of a module begins at line 1, from which its lines are counted.
    above = frame.first - 1
    place = {
        "lineno": max(1, line - above),
        "end_lineno": max(1, last - above),
        "col_offset": column,
        "end_col_offset": end,
    }
    missing = ast.Expr(ast.Name(_MISSING, ast.Load(), **place), **place)
    code = compile(ast.Module([missing], []), frame.filename, "exec", dont_inherit=True)
    return code.replace(co_firstlineno=frame.first, co_name=frame.name, co_qualname=frame.qualname)


def _entry(code: CodeType, names: dict[str, Any]) -> TracebackType:
    try:
        exec(code, {"__builtins__": {}, **names})
    except NameError as error:
        # The first entry is this function's.
        entry = error.__traceback__.tb_next if error.__traceback__ else None
        if entry is not None:
            return entry
    raise RuntimeError(f"{_MISSING!r} is a name")

"""Warn where Dask answers a call with the result of another one, because of its key (driver)."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

from dask.typing import Key

from dask_flame.core.argument_text import argument_text
from dask_flame.core.distributed_internals import SubmittedCalls
from dask_flame.core.terminal_text import plain
from dask_flame.core.text import function_name


@dataclass(frozen=True, slots=True)
class _Function:
    """A function as it was when calls were submitted; holds neither it nor what it refers to."""

    there: Callable[[], Any]  # None if it does not exist any more
    name: str
    parts: tuple[Any, ...] | None  # of a function of Python
    version: str | None

    @classmethod
    def of(cls, function: Any, version: str | None) -> _Function:
        parts = _parts(function) if isinstance(function, FunctionType) else None
        name = getattr(function, "__qualname__", None) or function_name(function)
        return cls(_weak(function), name, parts, version)


class HeldKeys:
    """The calls behind the keys that a Client holds.

    Dask takes two calls with one key for the same call: while a future of the first is held, it
    returns the result of the first, whatever the function and the arguments of the second are.
    """

    def __init__(self) -> None:
        #: Functions and arguments, as texts.
        self._known: dict[Key, tuple[_Function, str]] = {}

    def check(
        self, found: SubmittedCalls, held: Mapping[Key, Any] | Collection[Key], version: str | None
    ) -> None:
        """Warn about calls whose key is held for another call, and remember the others.

        Parameters
        ----------
        found : SubmittedCalls
            Calls that are about to be submitted.
        held : mapping or collection of Key
            The keys of the futures that the Client holds.
        version : str or None
            The version of the local modules.

        Warns
        -----
        UserWarning
            A held key belongs to a call with another function, or other arguments.
        """
        if not found.own_keys:
            return  # Dask's own keys depend on the function and the arguments
        function = found.function
        now = _Function.of(function, version)
        stale: tuple[Key, str] | None = None
        for key, args, kwargs in found.each():
            before = self._known.get(key) if key in held else None
            if before is None:
                self._known[key] = now, _fingerprint(function, args, kwargs)
            elif stale is None and (what := _difference(before[0], now)):
                stale = key, what
            elif stale is None and before[1] != _fingerprint(function, args, kwargs):
                stale = key, "other arguments"
        if len(self._known) > 2 * len(held) + 1_000:
            self._known = {key: one for key, one in self._known.items() if key in held}
        if stale is not None:
            _warn(*stale, function_name(function))


def _difference(before: _Function, now: _Function) -> str:
    """Return how a function differs from the earlier one; empty if it does not."""
    earlier, function = before.there(), now.there()
    if before.parts is not None and now.parts is not None:
        # Tools that reload modules replace the code of a function in place.
        if (before.parts, before.version) == (now.parts, now.version):
            return ""
        return "an earlier version of it" if before.name == now.name else before.name
    if earlier is not None and earlier is not function and earlier != function:
        return before.name
    return "" if before.version == now.version else "an earlier version of it"


def _weak(function: Any) -> Callable[[], Any]:
    """Return what returns a function while somebody else holds it."""
    try:
        if isinstance(function, MethodType):
            return weakref.WeakMethod(function)
        return weakref.ref(function)
    except TypeError:
        return lambda: function  # such as a function of C, which holds nothing


def _parts(function: FunctionType) -> tuple[Any, ...]:
    code = function.__code__
    cells = tuple(id(_content(cell)) for cell in function.__closure__ or ())
    constants = tuple(c if not hasattr(c, "co_code") else c.co_code for c in code.co_consts)
    return code.co_code, constants, code.co_names, repr(function.__defaults__), cells


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # not set yet


def _fingerprint(function: Any, args: Any, kwargs: Mapping[str, Any]) -> str:
    # As texts, which are short: the arguments themselves may be large and must not be kept.
    return argument_text(function, args, kwargs)


def _warn(key: Key, what: str, name: str) -> None:
    warnings.warn(
        f"the key {plain(str(key))!r} of this {name}() belongs to a call of {what}, whose future "
        "you still hold, so Dask returns its old result and runs nothing; leave key= out, and "
        "write dask_flame.label(...) in the function to name its curve, or release the old "
        "futures first: del futures",
        UserWarning,
        stacklevel=_level_of_user(),
    )


def _level_of_user() -> int:
    """Return the ``stacklevel`` of the first frame that belongs neither to Dask nor to this."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    return level


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in ("dask", "dask_flame", "distributed")

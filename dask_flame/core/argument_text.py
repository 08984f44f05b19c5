"""Describe the arguments of a call in a short text; does not use Dask (runner).

The arguments may be any objects, and the description takes time from the call. Therefore nothing
slow, large or with side effects is asked of an object: numbers, texts and small containers are
shown with their values, arrays and tables with their shape, everything else by its type. Values
whose names mark them as secrets are never shown.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from itertools import islice
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any

from dask_flame.core.redaction import ELSE, names_hash, secret, veiled

#: Maximum number of characters of one argument, with its name, and of the whole text.
ONE, ALL = 40, 200
#: Replaces an argument, or an item of one, before it is shown: see :func:`argument_text`.
Resolve = Callable[[Any], Any]

#: Maximum nesting of containers, and the number of items shown of each.
_DEPTH, ITEMS = 3, 6
#: Libraries whose arrays and tables know their shape without computation.
_SHAPED = frozenset({"cupy", "jax", "jaxlib", "numpy", "pandas", "polars", "pyarrow", "scipy"})
_SHAPED |= {"torch", "xarray"}
_PLAIN = (bool, int, float, complex, str)
_SHORT = 12
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, type)
_PATHS = (PosixPath, PurePosixPath, PureWindowsPath, WindowsPath)
_NAMESPACES = (types.SimpleNamespace, argparse.Namespace)
_BRACKETS: dict[Any, str] = {tuple: "()", list: "[]", dict: "{}", set: "{}", frozenset: "{}"}
#: Types whose length is known at once, also in derived classes.
_SIZED: tuple[Any, ...] = (*_BRACKETS, str, bytes, bytearray, deque)
#: Names of parameters by function, with the function's code; reading them takes most of the time.
_signatures: weakref.WeakKeyDictionary[types.FunctionType, tuple[Any, tuple[list[str], str]]]
_signatures = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True, slots=True)
class NamedArgument:
    """An argument shown by its name, because its value is elsewhere: usually another task."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Look:
    """How to show values: a replacement function, and whether to hide random-looking texts."""

    resolve: Resolve
    random: bool = True


def argument_text(
    function: Any,
    args: Iterable[Any],
    kwargs: Mapping[Any, Any],
    resolve: Resolve | None = None,
    *,
    hide_random: bool = True,
) -> str:
    """Return the arguments of a call as a text: ``"rate=0.1, layers=4"``.

    Parameters
    ----------
    function : object
        The function called; a ``functools.partial`` is unwrapped.
    args : iterable
    kwargs : mapping
    resolve : callable, optional
        Takes an argument, or an item of one, and returns the value to show in its place.
    hide_random : bool
        Whether to treat random-looking texts as secrets.

    Returns
    -------
    str
        At most `ALL` characters, and `ONE` for each argument; default values are left out. Empty
        if there are no arguments, or on any error: this function never raises.

    Examples
    --------
    >>> argument_text(lambda rate, **more: None, (0.1,), {"layers": [4, 4], "password": "hunter2"})
    'rate=0.1, layers=[4, 4], password=…'
    """
    try:
        shown = _each(function, args, kwargs, _Look(resolve or _same, hide_random))
        return _cut(", ".join(_until_full(shown)), ALL)
    except Exception:
        # The objects may be of any kind, and may change during the loop.
        return ""


def _each(
    function: Any, args: Iterable[Any], kwargs: Mapping[Any, Any], look: _Look
) -> Iterator[str]:
    for name, meant, value in named_arguments(function, args, kwargs):
        yield _one(name, value, look, meant=meant)


def named_arguments(
    function: Any, args: Iterable[Any], kwargs: Mapping[Any, Any]
) -> Iterator[tuple[str, str, Any]]:
    """Yield the name to show, the name that tells the meaning, and the value of each argument.

    The name to show is empty for variadic arguments and for names that begin with an underscore.
    """
    for _ in range(ITEMS):
        if type(function) is not functools.partial:
            break
        args, kwargs = (*function.args, *args), {**function.keywords, **kwargs}
        function = function.func
    names, rest = _names(function)
    for i, value in enumerate(args):
        name = names[i] if i < len(names) else ""
        # Names with a leading underscore are not meant for callers.
        yield "" if name.startswith("_") else name, name or rest, value
    for name, value in kwargs.items():
        name = str.__str__(name)
        yield name, name, value


def value_text(value: Any, *, meant: str = "", hide_random: bool = True) -> str:
    """Return a value as a text of at most `ONE` characters; never raises.

    Parameters
    ----------
    value : object
    meant : str, optional
        Name of the value, which may mark it as a secret.
    hide_random : bool, default True
        Whether to treat random-looking texts as secrets.
    """
    return _one("", value, _Look(_same, hide_random), meant=meant)


def fields_of(value: Any) -> dict[str, Any] | None:
    """Return the items of a dict, dataclass, named tuple or namespace; None for other values.

    No code of the value's class runs. Only the fields that a dataclass's ``repr`` shows are
    included.
    """
    kind = type(value)
    if kind is dict:
        return {name: item for name, item in value.items() if type(name) is str}
    if _static(kind, "__dataclass_fields__", dict):
        fields = [f.name for f in _static(kind, "__dataclass_fields__", dict).values() if f.repr]
        held = _held(value)
        return {name: held[name] for name in fields if name in held}
    if tuple in kind.__mro__ and (named := _static(kind, "_fields", tuple)):
        return dict(zip(named, tuple.__iter__(value), strict=False))
    if any(cls in kind.__mro__ for cls in _NAMESPACES):
        return _held(value)
    return None


def _one(name: str, value: Any, look: _Look, *, meant: str, depth: int = 0) -> str:
    shown = f"{_name(name)}=" if name else ""
    if look.random and type(value) is str and names_hash(meant):
        look = dataclasses.replace(look, random=False)
    try:
        value = look.resolve(value)
        text = ELSE if secret(meant, value) else _short(value, look, depth)
    except Exception:
        # For example, the value changed in the meantime.
        text = ELSE
    return _cut(shown + text, ONE)


def _names(function: Any) -> tuple[list[str], str]:
    """Return the names of the positional parameters, and of the variadic one."""
    if type(function) is not types.FunctionType:
        return _read_names(function)
    code, found = _signatures.get(function, (None, None))
    # Tools that reload modules replace the code of a function in place.
    if found is None or code is not function.__code__:
        found = _read_names(function)
        _signatures[function] = function.__code__, found
    return found


def _read_names(function: Any) -> tuple[list[str], str]:
    kind = type(function)
    if kind not in _FUNCTIONS and kind is not types.MethodType and type not in kind.__mro__:
        # Use the class's __call__: the instance itself might answer with anything.
        calls = inspect.getattr_static(kind, "__call__", None)
        if type(calls) is not types.FunctionType:
            return [], ""
        function = types.MethodType(calls, function)
    try:
        parameters = inspect.signature(function).parameters.values()
    except Exception:
        return [], ""
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    rest = (p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL)
    return [p.name for p in parameters if p.kind in by_position], next(rest, "")


def _short(value: Any, look: _Look, depth: int) -> str:
    """Describe a value in about `ONE` characters, by its exact type, not its base classes."""
    kind = type(value)
    if value is None or value is Ellipsis or kind in (bool, float, complex):
        return repr(value)
    if kind is int:
        return repr(value) if value.bit_length() <= 128 else f"int({value.bit_length()} bits)"
    if kind is str:
        return _text(value, look)
    if kind is NamedArgument:
        return _cut(value.name, ONE)
    if kind in _BRACKETS:
        return _items(value, look, depth)
    if kind in (bytes, bytearray):
        return f"{kind.__name__}({len(value)})"
    if kind is range:
        return _cut(repr(value), ONE)
    if kind in _PATHS:
        return _text(str(value), look)
    if kind in _FUNCTIONS or type in kind.__mro__:
        return _cut(value.__name__, ONE)
    name = _cut(kind.__name__, ONE)
    if _static(kind, "__dataclass_fields__", dict):
        # Only the fields that its own repr() would show.
        fields = [f.name for f in _static(kind, "__dataclass_fields__", dict).values() if f.repr]
        return _named(name, fields, _held(value), look, depth)
    if tuple in kind.__mro__ and (fields := _static(kind, "_fields", tuple)):
        values = dict(zip(fields, tuple.__iter__(value), strict=False))
        return _named(name, fields, values, look, depth)
    if Enum in kind.__mro__:
        return f"{name}.{vars(value)['_name_']}"
    if kind.__module__.partition(".")[0] in _SHAPED:
        return _shaped(name, value)
    base = next((base for base in _SIZED if base in kind.__mro__), None)
    return name if base is None else f"{name}({base.__len__(value)})"


def _text(value: str, look: _Look) -> str:
    # A password in a URL may be long; it ends where the host begins.
    most = 100 * ONE if "://" in value[: 10 * ONE] else 10 * ONE
    start = veiled(value[:most], random=look.random)
    if len(start) < ONE and len(value) <= most:
        return repr(start)
    return repr(start[: ONE - 3])[:-1] + ELSE


def _items(value: Any, look: _Look, depth: int) -> str:
    kind = type(value)
    opening, closing = _BRACKETS[kind][0], _BRACKETS[kind][1]
    if depth >= _DEPTH:
        return f"{kind.__name__}({len(value)})"
    parts: Iterable[str]
    if kind is dict:
        parts = (_pair(k, v, look, depth + 1) for k, v in islice(value.items(), ITEMS))
    else:
        parts = _members(value, look, depth + 1)
    texts = list(_until_full(parts, ONE))
    if len(value) > ITEMS and len(texts) == ITEMS:
        texts.append(ELSE)
    if not texts and kind in (set, frozenset):
        return f"{kind.__name__}()"
    after = "," if kind is tuple and len(value) == 1 else ""
    return opening + ", ".join(texts) + after + closing


def _members(value: Any, look: _Look, depth: int) -> Iterator[str]:
    """Describe the items of a container; an item after a name is treated as its value.

    Such pairs occur in command lines (``["--token", "…"]``) and in tuples.
    """
    before: Any = None
    for item in map(look.resolve, islice(value, ITEMS)):
        option = type(before) is str and (before[:1] == "-" or len(value) == 2)
        yield ELSE if option and secret(before, item) else _short(item, look, depth)
        before = item


def _pair(name: Any, value: Any, look: _Look, depth: int) -> str:
    name, value = look.resolve(name), look.resolve(value)
    shown = _short(name, look, depth)
    hidden = secret(name, value) or secret(shown, value)
    return f"{shown}: {ELSE if hidden else _short(value, look, depth)}"


def _named(
    name: str, fields: Iterable[str], values: Mapping[str, Any], look: _Look, depth: int
) -> str:
    if depth >= _DEPTH:
        return name
    parts = (
        _one(field, values[field], look, meant=field, depth=depth + 1)
        for field in fields
        if field in values
    )
    return f"{name}({', '.join(_until_full(parts, ONE))})"


def _static(kind: type, name: str, expected: type) -> Any:
    found = inspect.getattr_static(kind, name, None)
    return found if type(found) is expected else expected()


def _held(value: Any) -> dict[str, Any]:
    """Return its attributes, without running any code of its class."""
    held: dict[str, Any] = {}
    for cls in type(value).__mro__:
        for name, member in vars(cls).items():
            if type(member) is types.MemberDescriptorType:
                try:
                    held[name] = member.__get__(value)
                except AttributeError:
                    continue  # not set
            elif name == "__dict__" and type(member) is types.GetSetDescriptorType:
                held.update(member.__get__(value))
    return held


def _shaped(name: str, value: Any) -> str:
    shape = getattr(value, "shape", None)
    # Lazy arrays may have an unknown shape.
    if not isinstance(shape, tuple) or any(type(n) is not int for n in shape):
        return name
    if not shape and type(value).__module__ == "numpy":
        return _short(plain, _PLAINLY, 0) if type(plain := value.item()) in _PLAIN else name
    inside = ["\N{MULTIPLICATION SIGN}".join(map(str, shape))] if shape else []
    if (kind := getattr(value, "dtype", None)) is not None:
        inside.append(_cut(str(kind).removeprefix("torch."), _SHORT))
    return f"{name}({', '.join(inside)})"


def _until_full(texts: Iterable[str], room: int = ALL) -> Iterator[str]:
    for text in texts:
        if room < 0:
            yield ELSE
            return
        yield text
        room -= len(text) + 2


def _name(name: str) -> str:
    return _cut(name, ONE // 2) if name.isidentifier() else _text(name, _PLAINLY)


def _same(value: Any) -> Any:
    return value


_PLAINLY = _Look(_same)


def _cut(text: str, most: int) -> str:
    """Shorten a text to so many characters, and make it encodable in UTF-8."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= most else text[: most - 1] + ELSE

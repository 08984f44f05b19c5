"""What a call was called with, as a short text; no Dask in it (runner).

It is made of any object that somebody's call may get, on that call's time. So nothing is asked of
an object that could be slow, huge or have effects: numbers, texts and small containers are shown,
of arrays and tables their shape, of all else the name of its type. What is called as secrets are
is shown nowhere.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from itertools import islice
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any

from dask_flame.core.redaction import ELSE, names_hash, secret, veiled

#: The most characters of one argument, with its name, and of all.
ONE, ALL = 40, 200
#: What makes another's name or value known to :func:`told`: see there.
Resolve = Callable[[Any], Any]

#: Containers in containers that are looked into, and items of each.
_DEPTH, ITEMS = 3, 6
#: Libraries whose arrays and tables know their shape at once.
_SHAPED = frozenset({"cupy", "jax", "jaxlib", "numpy", "pandas", "polars", "pyarrow", "scipy"})
_SHAPED |= {"torch", "xarray"}
_PLAIN = (bool, int, float, complex, str)
_SHORT = 12
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, type)
_PATHS = (PosixPath, PurePosixPath, PureWindowsPath, WindowsPath)
_BRACKETS: dict[Any, str] = {tuple: "()", list: "[]", dict: "{}", set: "{}", frozenset: "{}"}
#: What knows its length at once, whatever is derived from it.
_SIZED: tuple[Any, ...] = (*_BRACKETS, str, bytes, bytearray, deque)


@dataclasses.dataclass(frozen=True, slots=True)
class NamedArgument:
    """What is not at hand, and is shown by its name: another task, as a rule."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Look:
    """How things are looked at: what stands for them, and whether what looks random is hidden."""

    resolve: Resolve
    random: bool = True


def told(
    function: Any,
    args: Iterable[Any],
    kwargs: Mapping[Any, Any],
    resolve: Resolve | None = None,
    *,
    hide_random: bool = True,
) -> str:
    """What a function was called with: ``"rate=0.1, layers=4"``.

    Parameters
    ----------
    function : object
        Of a ``functools.partial``, what that is of.
    args : iterable
    kwargs : mapping
    resolve : callable, optional
        Takes an argument, or an item of one, and returns what to show in its place.
    hide_random : bool
        Whether what looks random is taken for a secret.

    Returns
    -------
    str
        `ALL` characters or fewer, `ONE` of each argument; those that it was not given are left
        out. Empty where there are none, or something is not as it should be: it never raises.

    Examples
    --------
    >>> told(lambda rate, **more: None, (0.1,), {"layers": [4, 4], "password": "hunter2"})
    'rate=0.1, layers=[4, 4], password=…'
    """
    try:
        shown = _each(function, args, kwargs, _Look(resolve or _same, hide_random))
        return _cut(", ".join(_until_full(shown)), ALL)
    except Exception:
        # Objects may be anything, and change while they are looked at.
        return ""


def _each(
    function: Any, args: Iterable[Any], kwargs: Mapping[Any, Any], look: _Look
) -> Iterator[str]:
    for _ in range(ITEMS):
        if type(function) is not functools.partial:
            break
        args, kwargs = (*function.args, *args), {**function.keywords, **kwargs}
        function = function.func
    names, rest = _names(function)
    for i, value in enumerate(args):
        name = names[i] if i < len(names) else ""
        # One that begins so is not for those who call.
        shown = "" if name.startswith("_") else name
        yield _one(shown, value, look, meant=name or rest)
    for name, value in kwargs.items():
        name = str.__str__(name)
        yield _one(name, value, look, meant=name)


def _one(name: str, value: Any, look: _Look, *, meant: str, depth: int = 0) -> str:
    shown = f"{_name(name)}=" if name else ""
    if look.random and type(value) is str and names_hash(meant):
        look = dataclasses.replace(look, random=False)
    try:
        value = look.resolve(value)
        text = ELSE if secret(meant, value) else _short(value, look, depth)
    except Exception:
        # It has changed meanwhile, say.
        text = ELSE
    return _cut(shown + text, ONE)


def _names(function: Any) -> tuple[list[str], str]:
    """Of the arguments by position, and of those that follow them."""
    kind = type(function)
    if kind not in _FUNCTIONS and kind is not types.MethodType and type not in kind.__mro__:
        # Of an object, what its class does when it is called; itself it might answer anything.
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
    """A value, in about `ONE` characters, by its exact type: what derives from one is another."""
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
        # Those that its own repr() would show.
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
    # A password in an address may be long: it ends where the address of the host begins.
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
    """Items of a container; one that follows a name, as in a command line or a pair, bears it."""
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
    """Its attributes, read without what its class may do when it is asked for them."""
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
    # What is lazy has a shape that is none yet.
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
    """It in so many characters, which any encoding has."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= most else text[: most - 1] + ELSE

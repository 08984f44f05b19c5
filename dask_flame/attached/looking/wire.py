"""Pack what was found in a process as plain values, and unpack it; pure (all places).

The values are mappings, lists, texts, numbers, booleans and None, so that any of JSON, msgpack and
pickle can carry them. An unknown or a missing field is no error, as the two processes may have
different versions of dask-flame.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def packed(found: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, and of those inside it."""
    return asdict(found)


def unpacked(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return the dataclass whose fields were packed.

    Parameters
    ----------
    kind : type
    values : mapping
        See :func:`packed`.

    Raises
    ------
    TypeError
        A field without a default is missing.
    """
    hints = _hints(kind)  # type: ignore[arg-type]
    given = {
        field.name: _value(hints[field.name], values[field.name])
        for field in fields(kind)  # type: ignore[arg-type]
        if field.name in values
    }
    missing = [
        field.name
        for field in fields(kind)  # type: ignore[arg-type]
        if field.name not in given and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise TypeError(f"{kind.__name__} lacks {', '.join(missing)}")
    return kind(**given)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _value(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if is_dataclass(hint):
        return unpacked(typing.cast(type, hint), value)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _value(next(each for each in inner if each is not type(None)), value)
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(_value(inner[0], each) for each in value)
    if origin is tuple:
        return tuple(map(_value, inner, value))
    if origin in (dict, Mapping):
        return {name: _value(inner[1], each) for name, each in value.items()}
    return value

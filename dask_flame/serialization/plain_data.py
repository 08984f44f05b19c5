"""Pickle small plain data at once (runner).

Only objects are pickled whose pickling runs no code of the user's, and takes no longer than their
size tells: Python's basic types, collections of them, and arrays and numbers of NumPy.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

_SAFE = frozenset({type(None), bool, float, complex, type(...)})
_SIZED = frozenset({str, bytes, bytearray})
_COLLECTIONS = frozenset({list, tuple, set, frozenset})
#: Maximum number of objects in a collection, nested ones included.
_MOST = 2_000


def pickled(value: Any, limit: int) -> bytes | None:
    """Return the pickle of plain data.

    Parameters
    ----------
    value : object
    limit : int
        Maximum size of the pickle, in bytes.

    Returns
    -------
    bytes or None
        None if the object is larger, or is not plain data: another type, also a subclass.
    """
    try:
        if not _is_plain(value, limit):
            return None
        data = pickle.dumps(value, protocol=5)
    except Exception:
        # Nested too deep, or changed meanwhile by another thread.
        return None
    return data if len(data) <= limit else None


def _is_plain(value: Any, limit: int) -> bool:
    numpy = sys.modules.get("numpy")
    left, seen = limit, 0
    waiting = [value]
    while waiting:
        seen += 1
        one = waiting.pop()
        kind = type(one)
        if kind in _SAFE:
            continue
        if kind in _SIZED:
            left -= len(one)
        elif kind is int:
            left -= one.bit_length() // 8
        elif kind in _COLLECTIONS or kind is dict:
            if seen + len(waiting) + len(one) > _MOST:
                return False
            waiting.extend(one)
            if kind is dict:
                waiting.extend(one.values())
        elif numpy is not None and (kind is numpy.ndarray or _is_number(kind, numpy)):
            if one.dtype.hasobject or not _is_bare(one.dtype):
                return False
            left -= one.nbytes
        else:
            return False
        if left < 0 or seen > _MOST:
            return False
    return True


def _is_bare(dtype: Any) -> bool:
    """Return whether a dtype is without metadata, which may be any object."""
    if dtype.metadata is not None:
        return False
    inner = [dtype.subdtype[0]] if dtype.subdtype is not None else []
    inner += [field[0] for field in (dtype.fields or {}).values()]
    return all(map(_is_bare, inner))


def _is_number(kind: type, numpy: Any) -> bool:
    return kind.__module__ == "numpy" and issubclass(kind, numpy.generic)

"""Tell small messages from large ones, without measuring each of their parts (all places)."""

from __future__ import annotations

from typing import Any

from distributed.protocol.serialize import Serialized, ToPickle
from distributed.utils import nbytes

#: A message with more parts or bytes is measured by Dask.
_PARTS, _BYTES = 200, 2**20
_NUMBERS = frozenset({type(None), bool, int, float})
_COLLECTIONS = frozenset({list, tuple, set, frozenset})


def is_small(message: Any) -> bool:
    """Return whether a message is certainly smaller than a megabyte or two.

    Dask measures each message, down to the last item, to know whether a thread shall serialize it.
    That takes longer than to serialize a usual one.
    """
    parts, size = 0, 0
    waiting = [message]
    while waiting:
        one = waiting.pop()
        kind = type(one)
        parts += 1
        if kind in (str, bytes):
            size += len(one)
        elif kind is Serialized:
            size += sum(map(nbytes, one.frames))
        elif kind is ToPickle:
            waiting.append(one.data)
        elif kind is dict:
            waiting += one
            waiting += one.values()
        elif kind in _COLLECTIONS or issubclass(kind, tuple):
            waiting += one
        elif kind not in _NUMBERS:
            return False
        if size > _BYTES or parts + len(waiting) > _PARTS:
            return False
    return True

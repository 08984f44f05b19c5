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
    # This runs for each message: the parts of a part are appended to those that are still to come.
    parts, size = [message], 0
    for part in parts:
        kind = type(part)
        if kind is str or kind is bytes:
            size += len(part)
        elif kind in _NUMBERS:
            continue
        elif kind is dict:
            parts += part
            parts += part.values()
        elif kind in _COLLECTIONS:
            parts += part
        elif kind is Serialized:
            size += sum(map(nbytes, part.frames))
        elif kind is ToPickle:
            parts.append(part.data)
        elif issubclass(kind, tuple):
            parts += part
        else:
            return False
        if len(parts) > _PARTS:
            return False
    return size <= _BYTES

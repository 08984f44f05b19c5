"""Results of earlier versions on their way between runners (runner)."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

from distributed.protocol import Serialized, deserialize, serialize

from dask_flame.code.runner import versions


class VersionedResult(versions.Unopened):
    """A result of another version than the latest, which is unpickled by the call that uses it.

    In a process that is no runner, unpickling it returns the result itself.

    Parameters
    ----------
    header, frames
        See :func:`distributed.protocol.serialize`.
    """

    def __init__(self, header: dict[str, Any], frames: Iterable[Any]) -> None:
        self._header = header
        self._frames = list(frames)

    @classmethod
    def of(cls, value: Any, serializers: Any) -> VersionedResult:
        """Serialize a result with the modules of the present context."""
        return cls(*serialize(value, serializers=serializers, on_error="raise"))

    @property
    def serialized(self) -> Serialized:
        """The result as a client reads it."""
        return Serialized(self._header, self._frames)

    def open(self) -> Any:
        return deserialize(self._header, self._frames)

    def __sizeof__(self) -> int:
        return sum(memoryview(frame).nbytes for frame in self._frames)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _arrived, (self._header, [pickle.PickleBuffer(frame) for frame in self._frames])


def _arrived(header: dict[str, Any], frames: list[Any]) -> Any:
    found = VersionedResult(header, frames)
    return found.open() if versions.installed() is None else found

"""Pickle values for the notebook, up to a size (application)."""

from __future__ import annotations

import io
import pickle
from typing import Any

from dask_flame.errors import AttachError

#: Default of the largest value that is sent, in bytes.
MOST_VALUE = 64 * 2**20


class _TooLarge(Exception):
    pass


class _Bounded(io.BytesIO):
    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > self._most:
            raise _TooLarge
        return super().write(data)


def pickled(value: Any, what: str, most: int) -> bytes:
    """Return a value as bytes.

    Parameters
    ----------
    value : object
    what : str
        Name of the value for errors.
    most : int
        Maximum number of bytes.

    Raises
    ------
    AttachError
        It is larger, or cannot be pickled.
    """
    import cloudpickle

    size = getattr(value, "nbytes", None)
    if type(size) is int and size > most:
        raise _too_large(what, f"has {size:,} bytes", most)
    file = _Bounded(most)
    try:
        cloudpickle.Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    except _TooLarge:
        raise _too_large(what, f"has more than {most:,} bytes", most) from None
    except Exception as error:
        raise AttachError(
            f"{what} stays in the application, as it cannot be pickled: "
            f"{type(error).__name__}: {error}; show it there, or fetch a part of it"
        ) from None
    return file.getvalue()


def _too_large(what: str, size: str, most: int) -> AttachError:
    return AttachError(
        f"{what} {size}; at most {most:,} are fetched: reduce it in the application, "
        f"or write app.fetch({what!r}, most={most * 4:_})"
    )

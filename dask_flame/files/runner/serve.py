"""Answer requests for files that calls have written (runner)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Any, TypeVar

from dask_flame.core.messages import FETCH_LIST, FETCH_READ
from dask_flame.files.runner.written import Times, doubt, stamped
from dask_flame.files.tree import BLOCK, MOST, dumps, scan

T = TypeVar("T")

#: Maximum number of calls whose working directory and times are kept.
_KEPT = 10_000


class FileServer:
    """List and read files of a runner.

    Attributes
    ----------
    handlers : mapping of str to callable
        Requests of the scheduler.
    """

    def __init__(self) -> None:
        self._began = _folder()
        self._folders: OrderedDict[Any, str] = OrderedDict()
        self._times: OrderedDict[Any, Times] = OrderedDict()
        self.handlers: dict[str, Callable[..., Any]] = {
            FETCH_LIST: self.list_files,
            FETCH_READ: self.read_files,
        }

    def ended(self, key: Any, began: float) -> None:
        """Note when a call ran, and the directory in which it has ended, if not the usual one.

        Parameters
        ----------
        key : Key
        began : float
            Unix time in seconds.
        """
        _keep(self._times, key, (began, time.time()))
        folder = _folder()
        if folder != self._began or key in self._folders:
            _keep(self._folders, key, folder)

    async def list_files(self, key: Any, path: bytes) -> dict[str, Any]:
        """Return what is at a path, relative to the working directory of a call.

        Returns
        -------
        dict
            ``root``: the absolute path, ``items``: see :func:`dask_flame.files.tree.dumps`,
            compressed, ``doubt``: see :func:`dask_flame.files.runner.written.doubt`; or ``errno``,
            ``text`` and ``path`` of an error.
        """
        root = os.path.join(self._folders.get(key, self._began), _expanded(path))
        try:
            # In a thread: it may be a large folder, or a slow disk.
            found = await asyncio.to_thread(_listed, root, self._times.get(key))
        except OSError as error:
            return _told(error, root)
        return {"root": os.fsencode(root), **found}

    async def read_files(self, key: Any, root: bytes, parts: list[Any]) -> dict[str, Any]:
        """Return parts of files.

        Parameters
        ----------
        key : Key
        root : str
            The answer to :meth:`list_files`.
        parts : list of (bytes, int, int)
            Path below `root`, offset and length of each; together up to the size of a block.

        Returns
        -------
        dict
            ``data``: a list of bytes, which are shorter where a file has become so; or an error.
        """
        try:
            return {"data": await asyncio.to_thread(_read, root, parts)}
        except OSError as error:
            return _told(error, os.fsdecode(root))


def _folder() -> str:
    with contextlib.suppress(OSError):  # it was deleted
        return os.getcwd()
    return ""


def _expanded(path: bytes) -> str:
    return os.path.expanduser(os.fsdecode(path))


def _keep(kept: OrderedDict[Any, T], key: Any, value: T) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _KEPT:
        kept.popitem(last=False)


def _listed(root: str, times: Times | None) -> dict[str, Any]:
    items = list(islice(scan(root), MOST + 1))
    if len(items) > MOST:
        raise OSError(None, f"more than {MOST:,} files; fetch an archive of them", root)
    items, states = stamped(items)
    doubts = doubt(root, items, states, times)
    return {"items": zlib.compress(dumps(items), 1), "doubt": doubts}


def _read(root: bytes, parts: list[Any]) -> list[bytes]:
    found = []
    for path, offset, length in parts:
        with open(os.path.join(root, path) if path else root, "rb", buffering=0) as file:
            file.seek(offset)
            found.append(_full(file, min(length, BLOCK)))
    return found


def _full(file: Any, length: int) -> bytes:
    data: bytes = file.read(length)
    while data and len(data) < length and (more := file.read(length - len(data))):
        data += more
    return data


def _told(error: OSError, root: str) -> dict[str, Any]:
    path = os.fsencode(error.filename) if error.filename else os.fsencode(root)
    return {"errno": error.errno, "text": error.strerror or str(error), "path": path}

"""Store results as the frames of their messages, in memory and in files (scheduler)."""

from __future__ import annotations

import asyncio
import errno
import itertools
import math
import os
import shutil
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from distributed.protocol.compression import decompress
from distributed.protocol.serialize import Serialized, merge_and_deserialize
from distributed.spill import SpilledSize

_T = TypeVar("_T")

#: Temporary errors, which say nothing about the file: no memory, or too many open files.
_FOR_NOW = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Parcel(Serialized):
    """A result as its runner sent it: a header and frames, which are not deserialized.

    Parameters
    ----------
    header : dict
    frames : sequence of bytes-like

    Attributes
    ----------
    nbytes : int
        Bytes in its frames.
    """

    def __init__(self, header: dict[str, Any], frames: Sequence[Any]) -> None:
        super().__init__(header, _let_go(frames))
        self.nbytes: int = sum(memoryview(frame).nbytes for frame in self.frames)

    def __sizeof__(self) -> int:
        return self.nbytes  # read by `dask.sizeof`

    def problem(self) -> str | None:
        """Return the error if the runner sent one because it could not serialize the result."""
        if self.header.get("serializer") == "error":
            frames = self.frames
            if "compression" in self.header:
                frames = decompress(self.header, frames)
            try:
                merge_and_deserialize(self.header, frames)
            except TypeError as error:
                lines = str(error).strip().splitlines()
                return ": ".join(dict.fromkeys((lines[0], lines[-1])))
        return "a part of it could not be serialized" if _broken(self.header) else None


class ResultStore(MutableMapping[Any, Parcel]):
    """Parcels by key; the least recently used ones are in files.

    Setting an item never blocks: it stays in memory until :meth:`settle` writes parcels to files. A
    thread of the store writes, reads and removes files, in the order of the requests. Deleting an
    item also removes its file.

    Parameters
    ----------
    folder : Path
        Folder for the files. It is created with the first file and removed by :meth:`close`.
    memory : int or None
        Maximum bytes in memory; None for no limit.

    Attributes
    ----------
    memory, disk : int
        Bytes in memory and in files.
    broken : dict of object to str
        The reason for each parcel in the store that can no longer be read, by key: its file was
        removed, truncated, or overwritten by another process.

    Notes
    -----
    This does not use zict's mappings. ``AsyncBuffer`` moves items to memory when they are read, so
    that a read has to write, and fails if the disk is full. ``File`` leaves a partly written file
    after an error, and derives file names from keys, which may be too long.
    """

    def __init__(self, folder: Path, *, memory: int | None) -> None:
        self.folder = folder
        self.memory = 0
        self.disk = 0
        self._most: float = math.inf if memory is None else memory
        self._kept: OrderedDict[Any, Parcel] = OrderedDict()
        self._files: dict[Any, _File] = {}
        self.broken: dict[Any, str] = {}
        self._numbers = itertools.count()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="flame-home")
        self._settling: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def spilled_total(self) -> SpilledSize:
        """Bytes in files, as distributed's dashboard reads them."""
        return SpilledSize(self.disk, self.disk)

    def weigh(self, keys: Collection[Any]) -> int:
        """Return the bytes of these keys, in memory or in files."""
        found = (self._kept.get(key) or self._files.get(key) for key in keys)
        return sum(item.nbytes for item in found if item is not None)

    async def settle(self) -> None:
        """Write the least recently used parcels to files until the others fit in memory.

        Raises
        ------
        OSError
            A file could not be written. Its parcel, and all others, stay in the store.
        """
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle())
            self._settling.add_done_callback(_look_at)
        # The caller may be cancelled, but files that were written must be counted.
        await asyncio.shield(self._settling)

    async def load(self, keys: Collection[Any]) -> dict[Any, Parcel]:
        """Return the parcels with these keys, from memory or from their files.

        Keys that are missing, or whose file is broken, are left out.

        Raises
        ------
        OSError
            A file cannot be opened at the moment, for example because too many files are open.
        """
        found = {}
        for key in keys:
            if (parcel := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
            elif (file := self._files.get(key)) is not None and not self._closed:
                try:
                    parcel = await self._in_thread(file.read)
                except OSError as error:
                    if error.errno in _FOR_NOW:
                        raise
                    if self._files.get(key) is file:  # not deleted in the meantime
                        self.broken[key] = (
                            f"the file in which it rested, {file.path}, {_why(error)}"
                        )
            if parcel is not None:
                found[key] = parcel
        return found

    async def close(self) -> None:
        """Remove all files, after any write in progress, and end the thread."""
        self._closed = True
        if self._settling is not None:
            await asyncio.wait({self._settling})
        try:
            if self.folder.exists():
                await self._in_thread(partial(shutil.rmtree, self.folder, ignore_errors=True))
        except RuntimeError:
            # The interpreter is shutting down, and threads take no more work.
            shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            self._thread.shutdown(wait=False)

    # The mapping that distributed expects as its workers' data

    def __setitem__(self, key: Any, value: Serialized) -> None:
        parcel = value if isinstance(value, Parcel) else Parcel(value.header, value.frames)
        self.pop_silently(key)
        self._kept[key] = parcel
        self.memory += parcel.nbytes
        if parcel.nbytes > self._most:
            # It must go to a file: write it first, and keep the smaller ones in memory.
            self._kept.move_to_end(key, last=False)

    def __getitem__(self, key: Any) -> Parcel:
        return self._kept[key] if key in self._kept else self._files[key].read()

    def __delitem__(self, key: Any) -> None:
        if not self.pop_silently(key):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return key in self._kept or key in self._files

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain(self._kept, self._files)

    def __len__(self) -> int:
        return len(self._kept) + len(self._files)

    def pop_silently(self, key: Any) -> bool:
        """Delete a key without reading its file; return whether it was there."""
        self.broken.pop(key, None)
        if (parcel := self._kept.pop(key, None)) is not None:
            self.memory -= parcel.nbytes
        elif (file := self._files.pop(key, None)) is not None:
            self.disk -= file.nbytes
            self._remove(file)
        else:
            return False
        return True

    # Files

    async def _settle(self) -> None:
        while self.memory > self._most and not self._closed:
            key, parcel = next(iter(self._kept.items()))
            file = await self._in_thread(partial(self._write, parcel))
            if self._kept.get(key) is not parcel:
                self._remove(file)  # deleted in the meantime
                continue
            del self._kept[key]
            self.memory -= parcel.nbytes
            self._files[key] = file
            self.disk += file.nbytes

    def _write(self, parcel: Parcel) -> _File:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / str(next(self._numbers))
        try:
            with path.open("xb") as f:
                f.writelines(parcel.frames)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        lengths = tuple(memoryview(frame).nbytes for frame in parcel.frames)
        return _File(path, parcel.header, lengths, parcel.nbytes, _checksum(parcel.frames))

    def _remove(self, file: _File) -> None:
        if not self._closed:
            # Removing a large file takes time. The thread removes it before any later write, so
            # the disk never holds more than is counted. While the interpreter shuts down, the
            # thread takes no more work; the file is then removed with the folder.
            with suppress(RuntimeError):
                self._thread.submit(file.path.unlink, missing_ok=True)

    async def _in_thread(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


@dataclass(frozen=True, slots=True)
class _File:
    """A parcel in a file, which contains its frames one after the other."""

    path: Path
    header: dict[str, Any]
    lengths: tuple[int, ...]
    nbytes: int
    checksum: int

    def read(self) -> Parcel:
        """Read the parcel.

        Raises
        ------
        OSError
            The file is missing, or its content has changed.
        """
        buffer = bytearray(self.nbytes)
        with self.path.open("rb") as f:
            if os.fstat(f.fileno()).st_size != self.nbytes or f.readinto(buffer) != self.nbytes:
                raise OSError("has another length than what was written to it")
        if _checksum([buffer]) != self.checksum:
            raise OSError("holds something else than what was written to it")
        view = memoryview(buffer)
        ends = itertools.accumulate(self.lengths)
        frames = [view[end - n : end] for n, end in zip(self.lengths, ends, strict=True)]
        return Parcel(self.header, frames)


def _checksum(frames: Iterable[Any]) -> int:
    """Return a CRC-32, which different bytes share with a probability of 1 in 4 billion."""
    checksum = 0
    for frame in frames:
        checksum = zlib.crc32(frame, checksum)
    return checksum


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "was removed"
    return str(error) if error.errno is None else f"cannot be read ({error.strerror})"


def _let_go(frames: Sequence[Any]) -> list[Any]:
    """Copy frames that are a small part of a message, so that they do not keep it in memory."""
    views = [memoryview(frame) for frame in frames]
    used: dict[int, int] = {}
    for view in views:
        used[id(view.obj)] = used.get(id(view.obj), 0) + view.nbytes
    return [
        view if used[id(view.obj)] * 2 >= memoryview(view.obj).nbytes else bytes(view)
        for view in views
    ]


def _broken(header: dict[str, Any]) -> bool:
    return header.get("serializer") == "error" or any(map(_broken, header.get("sub-headers", ())))


def _look_at(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # otherwise asyncio logs that it was never retrieved

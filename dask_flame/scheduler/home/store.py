"""Results as the frames they were sent in: in memory, and beyond a limit in files (scheduler)."""

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

#: Errors of which a file is not the reason: there is no memory, or too much is open.
_FOR_NOW = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Parcel(Serialized):
    """A result as its runner sent it: a header and frames, which nobody unpickles on the way.

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
        """Why this is no result: its runner could not serialize it, and sent the error instead."""
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
    """Parcels by key, the least recently used ones in files.

    To set an item never waits: it stays in memory until :meth:`settle` has made room. Files are
    written, read and removed in a thread of the shelf's own, in the order in which that was asked
    for; an item that is deleted takes its file with it.

    Parameters
    ----------
    folder : path
        Where the files are. Made with the first of them, removed by :meth:`close`.
    memory : int or None
        Bytes kept in memory; None: all of them.

    Attributes
    ----------
    memory, disk : int
        Bytes in memory and in files.
    broken : dict of object to str
        Why parcels that are still here cannot be read any more, by key: their file was removed,
        cut short, or written over by somebody else.

    Notes
    -----
    Not made of zict's mappings: ``AsyncBuffer`` moves to memory what is read, so that a read has to
    write and fails where the disk is full, and ``File`` leaves the part it could write and takes
    names from keys, which are longer than a file's name may be.
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
        """What distributed asks its workers' mappings, for the dashboard's sake."""
        return SpilledSize(self.disk, self.disk)

    def weigh(self, keys: Collection[Any]) -> int:
        """Bytes that these keys take, wherever they are."""
        found = (self._kept.get(key) or self._files.get(key) for key in keys)
        return sum(item.nbytes for item in found if item is not None)

    async def settle(self) -> None:
        """Write the least recently used parcels to files until the others fit in memory.

        Raises
        ------
        OSError
            A file could not be written. Its parcel, and all others, are still there.
        """
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle())
            self._settling.add_done_callback(_look_at)
        # Whoever waits may be cancelled; what has been written must be accounted for.
        await asyncio.shield(self._settling)

    async def load(self, keys: Collection[Any]) -> dict[Any, Parcel]:
        """The parcels with these keys, from memory or read from their files.

        Not those that are gone since, or that turn out to be broken.

        Raises
        ------
        OSError
            A file cannot be opened now, as too many others are open.
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
                    if self._files.get(key) is file:  # else it was let go of meanwhile
                        self.broken[key] = (
                            f"the file in which it rested, {file.path}, {_why(error)}"
                        )
            if parcel is not None:
                found[key] = parcel
        return found

    async def close(self) -> None:
        """Remove all files, after the one that is being written; the thread ends."""
        self._closed = True
        if self._settling is not None:
            await asyncio.wait({self._settling})
        try:
            if self.folder.exists():
                await self._in_thread(partial(shutil.rmtree, self.folder, ignore_errors=True))
        except RuntimeError:
            # The interpreter is ending and lets no thread do anything any more.
            shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            self._thread.shutdown(wait=False)

    # A mapping, as distributed wants its workers' data to be

    def __setitem__(self, key: Any, value: Serialized) -> None:
        parcel = value if isinstance(value, Parcel) else Parcel(value.header, value.frames)
        self.pop_silently(key)
        self._kept[key] = parcel
        self.memory += parcel.nbytes
        if parcel.nbytes > self._most:
            # It has to go to a file itself: not after all that is smaller.
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
        """Let go of a key without reading its file; whether it was there."""
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
                self._remove(file)  # let go of in the meantime
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
            # To remove a large file takes a while as well. Asked for before any later write, so
            # there is never more on disk than is accounted for. Once the interpreter is ending no
            # thread takes orders; the file then goes with the folder.
            with suppress(RuntimeError):
                self._thread.submit(file.path.unlink, missing_ok=True)

    async def _in_thread(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


@dataclass(frozen=True, slots=True)
class _File:
    """A parcel in a file: its frames one after the other."""

    path: Path
    header: dict[str, Any]
    lengths: tuple[int, ...]
    nbytes: int
    checksum: int

    def read(self) -> Parcel:
        """Read it again.

        Raises
        ------
        OSError
            The file is gone, or is not what was written.
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
    """Return what tells these bytes from others, by chance, once in 4 thousand million times."""
    checksum = 0
    for frame in frames:
        checksum = zlib.crc32(frame, checksum)
    return checksum


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "was removed"
    return str(error) if error.errno is None else f"cannot be read ({error.strerror})"


def _let_go(frames: Sequence[Any]) -> list[Any]:
    """Frames that do not keep a message alive of which they are but a small part."""
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
        task.exception()  # or asyncio complains that nobody did

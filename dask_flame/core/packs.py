"""Packs: contents by their digest, compressed, in one piece of bytes (all places).

A pack is :data:`MAGIC`, followed by any number of records: a digest, the length of the compressed
content (eight bytes, big-endian), and the compressed content.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

MAGIC = b"flp1"
#: Bytes of a digest.
DIGEST = 16
_HEAD = struct.Struct(f">{DIGEST}sQ")


class PackError(ValueError):
    """A pack is damaged, or lacks a content."""


def digest(content: bytes) -> bytes:
    """Return the digest by which a pack holds a content."""
    return blake2b(content, digest_size=DIGEST).digest()


def build(contents: Iterable[tuple[bytes, bytes]], *, level: int = 6) -> bytes:
    """Return a pack.

    Parameters
    ----------
    contents : iterable of (bytes, bytes)
        Pairs of a digest and a content; a digest that comes again is left out.
    level : int, default 6
        The level of compression: 1 is the fastest, 9 the densest.
    """
    return join((name, zlib.compress(content, level)) for name, content in contents)


def join(compressed: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a pack of contents that are compressed already; see :meth:`Pack.compressed`."""
    pieces, seen = [MAGIC], set()
    for name, data in compressed:
        if name not in seen:
            seen.add(name)
            pieces += [_HEAD.pack(name, len(data)), data]
    return b"".join(pieces)


class Pack:
    """Read a pack.

    Parameters
    ----------
    data : bytes or mmap
        By default, a pack without contents.

    Raises
    ------
    PackError
        It is no pack, or ends too early.
    """

    def __init__(self, data: bytes | mmap.mmap = MAGIC) -> None:
        self._data = memoryview(data)
        self._where: dict[bytes, slice] = {}
        if self._data[: len(MAGIC)] != MAGIC:
            raise PackError("this is no pack")
        at = len(MAGIC)
        while at < len(self._data):
            if at + _HEAD.size > len(self._data):
                raise PackError("the pack ends too early")
            name, length = _HEAD.unpack_from(self._data, at)
            at += _HEAD.size
            if at + length > len(self._data):
                raise PackError("the pack ends too early")
            self._where[name] = slice(at, at + length)
            at += length

    @classmethod
    def in_file(cls, file: str | Path) -> Pack:
        """Return the pack in a file, which is mapped into memory; it may be removed then."""
        with open(file, "rb") as opened:
            return cls(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def compressed(self, name: bytes) -> bytes:
        """Return a content as it is in the pack.

        Raises
        ------
        PackError
            The pack does not have it.
        """
        try:
            return bytes(self._data[self._where[name]])
        except KeyError:
            raise PackError(f"the pack lacks {name.hex()}") from None

    def read(self, name: bytes) -> bytes:
        """Return a content.

        Raises
        ------
        PackError
            The pack does not have it, or it is damaged.
        """
        try:
            content = zlib.decompress(self.compressed(name))
        except zlib.error as error:
            raise PackError(f"{name.hex()} is damaged: {error}") from None
        if digest(content) != name:
            raise PackError(f"{name.hex()} is damaged: it has another digest")
        return content


class Packs:
    """The contents of several packs; the latest that has a content is read."""

    def __init__(self) -> None:
        self._packs: dict[str, Pack] = {}

    def add(self, name: str, pack: Pack) -> None:
        """Add a pack, unless there is one of this name."""
        self._packs.setdefault(name, pack)

    def keep(self, names: Collection[str], contents: Collection[bytes]) -> None:
        """Forget the packs that are not named and have none of these contents."""
        self._packs = {
            name: pack
            for name, pack in self._packs.items()
            if name in names or any(key in pack for key in contents)
        }

    def read(self, name: bytes) -> bytes:
        """Return a content by its digest.

        Raises
        ------
        PackError
            No pack has it.
        """
        for pack in reversed(list(self._packs.values())):
            if name in pack:
                return pack.read(name)
        raise PackError(f"no pack has {name.hex()}")

"""Packs of file contents, each found by the digest of its content (all places).

A pack is a header and the compressed contents. The header is the length of its index (4 bytes,
big-endian), then the index as MessagePack: a mapping of digest to offset and length, counted from
the end of the header.
"""

from __future__ import annotations

import hashlib
import mmap
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgpack

#: Size of a digest, in bytes.
DIGEST = 16
_LENGTH = 4
#: Fast, and a third of the size for source code.
_LEVEL = 3


def digest(content: bytes) -> bytes:
    """Return the digest by which a content is found."""
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


def build(contents: Mapping[bytes, bytes]) -> bytes:
    """Return a pack of these contents.

    Parameters
    ----------
    contents : mapping of bytes to bytes
        Contents by their :func:`digest`.
    """
    index: dict[bytes, tuple[int, int]] = {}
    parts: list[bytes] = []
    offset = 0
    for key, content in contents.items():
        part = zlib.compress(content, _LEVEL)
        index[key] = (offset, len(part))
        parts.append(part)
        offset += len(part)
    header = msgpack.packb(index)
    return b"".join([len(header).to_bytes(_LENGTH, "big"), header, *parts])


class Pack(Mapping[bytes, bytes]):
    """The contents of a pack, by digest; they are decompressed when they are looked up.

    Parameters
    ----------
    packed : bytes-like
        A pack, in memory or mapped from a file.
    """

    def __init__(self, packed: bytes | mmap.mmap) -> None:
        self._packed = packed
        start = _LENGTH + int.from_bytes(packed[:_LENGTH], "big")
        index = msgpack.unpackb(packed[_LENGTH:start], strict_map_key=False, use_list=False)
        self._places: dict[bytes, tuple[int, int]] = {
            key: (start + offset, length) for key, (offset, length) in index.items()
        }

    @classmethod
    def read(cls, file: str | Path) -> Pack:
        """Return the pack in a file, which is mapped into memory."""
        with open(file, "rb") as opened:
            return cls(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))

    def __getitem__(self, key: bytes) -> bytes:
        offset, length = self._places[key]
        return zlib.decompress(self._packed[offset : offset + length])

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Packs:
    """The contents of several packs.

    Attributes
    ----------
    packs : dict of str to Pack
        Packs by their id.
    """

    def __init__(self) -> None:
        self.packs: dict[str, Pack] = {}

    def add(self, name: str, pack: Pack) -> None:
        self.packs.setdefault(name, pack)

    def keep(self, names: Iterable[str]) -> None:
        """Forget all packs but these."""
        kept = set(names)
        self.packs = {name: pack for name, pack in self.packs.items() if name in kept}

    def content(self, key: bytes) -> bytes:
        """Return a content by its digest.

        Raises
        ------
        KeyError
            No pack contains it.
        """
        for pack in reversed(list(self.packs.values())):
            if key in pack:
                return pack[key]
        raise KeyError(key)

"""Keep the driver's files for runners that ask for them (scheduler)."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from dask_flame.core.messages import FILES
from dask_flame.core.packs import Pack, digest, join
from dask_flame.files.tree import BLOCK

#: Level of compression: files are read once, while the user waits.
_LEVEL = 1


class BlockStore:
    """Compressed blocks by their digests, in memory.

    Attributes
    ----------
    handlers : mapping of str to callable
        The requests of runners, for the scheduler.
    """

    def __init__(self) -> None:
        self._blocks: dict[bytes, bytes] = {}
        self._complete = asyncio.Event()

    @property
    def handlers(self) -> dict[str, Callable[..., Any]]:
        return {FILES: self.answer}

    def keep(self, block: bytes) -> str:
        """Compress and keep a block; return its digest, in hexadecimal."""
        name = digest(block)
        if name not in self._blocks:
            self._blocks[name] = zlib.compress(block, _LEVEL)
        return name.hex()

    def add(self, pack: bytes | None) -> None:
        """Keep the blocks of a pack; None is the last one."""
        if pack is None:
            self.complete()
            return
        read = Pack(pack)
        self._blocks |= {name: read.compressed(name) for name in read}

    def complete(self) -> None:
        """Answer requests from now on: all blocks are here."""
        self._complete.set()

    def packs(self) -> Iterator[bytes]:
        """Yield all blocks in packs of a size that one message can have."""
        yield from _packs(list(self._blocks.items()))

    def clear(self) -> None:
        """Forget all blocks."""
        self._blocks.clear()

    async def answer(self, wanted: list[str]) -> dict[str, Any]:
        """Return a pack with the first of these blocks, once there are any.

        Parameters
        ----------
        wanted : list of str
            Digests, in hexadecimal.
        """
        await self._complete.wait()
        names = [bytes.fromhex(name) for name in wanted]
        missing = [name.hex() for name in names if name not in self._blocks]
        if missing:
            return {"missing": missing}
        return {"pack": next(_packs([(name, self._blocks[name]) for name in names]), b"")}


def _packs(blocks: list[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Yield packs with at least one block each, and otherwise up to the size of one block."""
    some: list[tuple[bytes, bytes]] = []
    size = 0
    for block in blocks:
        if some and size + len(block[1]) > BLOCK:
            yield join(some)
            some, size = [], 0
        some.append(block)
        size += len(block[1])
    if some:
        yield join(some)

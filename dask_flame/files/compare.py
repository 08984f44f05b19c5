"""Compare what is at a path with what is to be there (driver, runner)."""

from __future__ import annotations

import os
from collections.abc import Iterator

from dask_flame.core.packs import digest
from dask_flame.files.tree import FILE, FOLDER, Item, blocks


def difference(item: Item, path: str) -> str:
    """Return how what is at a path differs from an item; empty if it does not.

    A file must have the same content, and be executable if the item is. A folder may contain more.

    Raises
    ------
    OSError
        It cannot be read.
    """
    if item.kind == FOLDER:
        return "" if os.path.isdir(path) else "is no folder"
    if item.kind != FILE:
        equal = os.path.islink(path) and os.readlink(path) == item.to
        return "" if equal or _same(item, path) else f"is no link to {item.to}"
    if not os.path.isfile(path):
        return "is no file"
    if _same(item, path):
        return ""
    there = os.stat(path)
    if item.mode & 0o100 and not there.st_mode & 0o100:
        return "is not executable"
    # Compared block by block: neither file need fit into memory.
    if there.st_size != item.size or list(digests(path)) != list(item.blocks or _of(item)):
        return "has other content"
    return ""


def _same(item: Item, path: str) -> bool:
    """Return whether an item comes from this very path."""
    if not item.source:
        return False
    look = os.stat if item.kind == FILE else os.lstat
    return os.path.samestat(look(item.source), look(path))


def _of(item: Item) -> Iterator[str]:
    return digests(item.source)


def digests(file: str) -> Iterator[str]:
    """Yield the digests of the blocks of a file, in hexadecimal."""
    for block in blocks(file):
        yield digest(block).hex()

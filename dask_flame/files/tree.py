"""The files below a path, and the form in which machines tell each other of them (all places)."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from dask_flame.core.placed_links import is_placed

#: Files are sent and compared in blocks of this size (bytes).
BLOCK = 4 * 2**20
#: Maximum number of files in one set, so that a message can hold their names.
MOST = 100_000

FILE, FOLDER, LINK = "file", "folder", "link"


class TreeError(OSError):
    """A path cannot be sent: it is no file, folder or link, or its links have no end."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file, a link, or an empty folder; folders that are not empty follow from the paths.

    Attributes
    ----------
    path : str
        Where it is to be: relative to a folder, or in a plan, as the user named the target.
    kind : str
        :data:`FILE`, :data:`FOLDER` or :data:`LINK`.
    mode : int, default 0
        Permissions of a file.
    size : int, default 0
        Bytes of a file.
    to : str, default ""
        Destination of a link.
    blocks : tuple of str, default ()
        Digests of the blocks of a file, in hexadecimal.
    written : int, default 0
        When a file was last written, in nanoseconds since 1970; 0 if that is not to be kept.
    source : str, default ""
        Where it is on this machine; not sent.
    """

    path: str
    kind: str
    mode: int = 0
    size: int = 0
    to: str = ""
    blocks: tuple[str, ...] = ()
    written: int = 0
    source: str = ""


def dumps(items: Iterable[Item]) -> bytes:
    """Return items as JSON. Names are sent as the bytes that they are, in any encoding."""
    plain = [
        {
            name: _sendable(value) if isinstance(value, str) else value
            for name, value in asdict(item).items()
            if name != "source" and value
        }
        for item in items
    ]
    return json.dumps(plain, separators=(",", ":")).encode()


def loads(data: bytes) -> list[Item]:
    """Return the items of :func:`dumps`, with names in the encoding of this machine."""
    return [_item(plain) for plain in json.loads(data)]


def _item(plain: dict[str, Any]) -> Item:
    names = {name: _readable(plain.get(name, "")) for name in ("path", "to")}
    return Item(**{**plain, **names, "blocks": tuple(plain.get("blocks", ()))})


def _sendable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def _readable(name: str) -> str:
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


def scan(root: str) -> Iterator[Item]:
    """Yield what is at a path: one file, whose path is empty, or all that a folder contains.

    A link to something in the same folder stays a link, as does one to nothing. Other links are
    followed: what they point to is sent. Links that clusters have made are left out.

    Raises
    ------
    OSError
        Something cannot be looked at; or, as a TreeError, cannot be sent.
    """
    there = os.stat(root)
    if stat.S_ISDIR(there.st_mode):
        top = os.path.realpath(root)
        yield from _folder(root, "", top, (top,))
    else:
        yield _file(root, "", there)


def _folder(folder: str, path: str, top: str, above: tuple[str, ...]) -> Iterator[Item]:
    with os.scandir(folder) as found:
        # Without what clusters have put there: it would be sent again, each time deeper.
        there = [entry for entry in found if not is_placed(entry.path)]
        entries = sorted(there, key=lambda entry: entry.name)
    if not entries:
        yield Item(path, FOLDER, source=folder)
    for entry in entries:
        here = os.path.join(path, entry.name)
        if entry.is_symlink() and (to := _kept(entry.path, here, top)) is not None:
            yield Item(here, LINK, to=to, source=entry.path)
            continue
        status = os.stat(entry.path)
        if not stat.S_ISDIR(status.st_mode):
            yield _file(entry.path, here, status)
            continue
        real = os.path.realpath(entry.path)
        if real in above:
            raise TreeError(None, "a link to a folder that contains it", entry.path)
        yield from _folder(entry.path, here, top, (*above, real))


def _kept(link: str, path: str, top: str) -> str | None:
    """Return the destination of a link that stays one; None if it is to be followed."""
    if not os.path.exists(link):
        return os.readlink(link)
    real = os.path.realpath(link)
    if os.path.commonpath([real, top]) != top:
        return None
    return os.path.relpath(os.path.relpath(real, top), os.path.dirname(path) or ".")


def _file(source: str, path: str, there: os.stat_result) -> Item:
    if not stat.S_ISREG(there.st_mode):
        raise TreeError(None, "neither a file nor a folder", source)
    mode = stat.S_IMODE(there.st_mode) & 0o777
    return Item(path, FILE, mode=mode, size=there.st_size, source=source)


def below(items: Iterable[Item], target: str) -> Iterator[Item]:
    """Yield items with their paths below a target."""
    for item in items:
        yield replace(item, path=os.path.join(target, item.path) if item.path else target)


def blocks(file: str) -> Iterator[bytes]:
    """Yield the blocks of a file.

    Raises
    ------
    OSError
    """
    with open(file, "rb", buffering=0) as opened:
        while block := _full(opened):
            yield block


def _full(file: Any) -> bytes:
    """Return the next block, which is shorter than :data:`BLOCK` at the end of the file only."""
    block: bytes = file.read(BLOCK)
    while block and len(block) < BLOCK and (more := file.read(BLOCK - len(block))):
        block += more
    return block

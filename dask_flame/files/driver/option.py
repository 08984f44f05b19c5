"""Check the option ``files=`` of a cluster, before it starts (driver)."""

from __future__ import annotations

import errno
import heapq
import os
from collections.abc import Iterable, Mapping
from itertools import islice, pairwise
from typing import Any

from dask_flame.core.option_checks import line, wrong
from dask_flame.core.settings import configured
from dask_flame.core.text import memory
from dask_flame.errors import PoolError
from dask_flame.files.tree import FOLDER, MOST, Item, below, scan

#: Number of files that an error about their size names.
_NAMED = 3
_LARGE = (
    "for more, give runners a volume (docs/files.md), or have calls read an fsspec path such as "
    '"s3://…"; or write '
)


def check_files(value: Any) -> list[Item]:
    """Return what ``files=`` sends, with the paths on runners; nothing of it is read yet.

    Parameters
    ----------
    value : mapping of path to path, or None
        Paths of this machine, and for each its path on runners.

    Raises
    ------
    PoolError
        Something is missing, cannot be sent, or is too large.
    """
    if value is None:
        return []
    if not isinstance(value, Mapping) or not all(map(_is_path, [*value, *value.values()])):
        raise wrong("files", value, "a mapping of paths here to paths on runners")
    found: list[Item] = []
    size, limit = 0, configured("files.limit")
    for source, target in value.items():
        for item in _items(source, target):
            found.append(item)
            size += item.size
            if len(found) > MOST:
                raise PoolError(f"files= are more than {MOST:,} files; {_LARGE}an archive of them")
    if size > limit:
        raise too_large(found, size, limit)
    _check_apart(found)
    return found


def _items(source: Any, target: Any) -> list[Item]:
    here, there = os.fspath(source), os.fspath(target)
    try:
        root = os.path.expanduser(here)
        found = list(islice(scan(root), MOST + 1))
    except OSError as error:
        raise cannot_be_read(here, error) from None
    if there.startswith("~"):
        wanted = "to a path from /, or one relative to the working directory of runners"
        raise wrong("files", {here: there}, wanted)
    into = os.path.normpath(there)
    if found[0].path == "" and found[0].kind != FOLDER:
        if here.endswith("/"):
            raise PoolError(f"files={{{here!r}: …}}: it is a file; leave out the last /")
        if there.endswith("/") or into == ".":
            into = os.path.normpath(os.path.join(into, os.path.basename(root)))
    return [*below(found, into)] if into != "." else found


def _is_path(value: Any) -> bool:
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    return isinstance(path, str) and path.strip() != "" and "\0" not in path


def cannot_be_read(path: str, error: OSError) -> PoolError:
    """Return the error for a path of this machine that cannot be sent."""
    of = os.fspath(error.filename) if error.filename else path
    inside = "" if of == path else f": {of!r}"
    if error.errno == errno.ENOENT and not inside:
        why, what = f"there is no such file or folder in {_here()}", "name one that exists"
    else:
        why, what = error.strerror or str(error), "change that, or name another path"
    return PoolError(f"files={{{path!r}: …}} cannot be sent{inside}: {why}; {what}")


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "the driver's working directory, which was deleted"


def too_large(items: Iterable[Item], size: int, limit: int) -> PoolError:
    """Return the error for files that are larger than the limit."""
    largest = heapq.nlargest(_NAMED, items, key=lambda item: item.size)
    named = ", ".join(f"{i.source!r} ({memory(i.size)})" for i in largest)
    return PoolError(
        f"files= are {memory(size, beside=limit)} in total, more than flame.files.limit="
        f"{memory(limit)}; the largest are {named}; {_LARGE}{line('flame.files.limit')}"
    )


def _check_apart(items: Iterable[Item]) -> None:
    """Raise if one path on runners would be two things."""
    by_path: dict[str, Item] = {}
    for item in items:
        other = by_path.setdefault(item.path, item)
        if other is not item and not item.kind == other.kind == FOLDER:
            raise _twice(other, item)
    ordered = sorted(by_path.values(), key=lambda item: item.path.split(os.sep))
    for first, second in pairwise(ordered):
        if first.kind != FOLDER and second.path.startswith(first.path + os.sep):
            raise _twice(first, second)


def _twice(first: Item, second: Item) -> PoolError:
    return PoolError(
        f"files= have two things for {second.path!r} on runners: {first.source!r} and "
        f"{second.source!r}; give one of them another path"
    )

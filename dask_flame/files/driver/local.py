"""Put files at paths of this machine, for runners that share it with the driver (driver).

A path that has the same content already is left alone, whoever it belongs to. One with other
content is an error. Where there is nothing, a link to a copy in the cluster's folder is made at the
first part of the path that is missing; see :mod:`dask_flame.core.placed_links` for its end.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence

from dask_flame.core.placed_links import copy_of, foreign_folder, is_placed, place
from dask_flame.errors import PoolError
from dask_flame.files.compare import difference
from dask_flame.files.driver.option import cannot_be_read
from dask_flame.files.tree import BLOCK, FILE, FOLDER, Item, scan


def place_here(items: Iterable[Item], folder: str) -> None:
    """Put files in place on this machine, for as long as a folder exists.

    Parameters
    ----------
    items : iterable of Item
        Relative paths are relative to the working directory.
    folder : str
        The cluster's folder, removed by :func:`dask_flame.core.placed_links.remove_folder`.

    Raises
    ------
    PoolError
        A path has other content, or cannot be written; nothing is left but what `folder` notes.
    """
    links: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        path = os.path.abspath(item.path)
        try:
            link = _link(path)
            if link is not None and (folder_of := foreign_folder(link)) is not None:
                raise PoolError(
                    f"files= cannot put anything at {link!r}: it is a link into {folder_of}, which "
                    "is another user's; remove the link, or name another path"
                )
            if link is None or is_placed(link):
                _check_same(item, path)
        except OSError as error:
            raise _refused(path, error) from None
        if link is not None:
            links[link].append(item)
    for link, below in links.items():
        if is_placed(link):
            _check_all(link, below)
        try:
            for item in below:
                _copy(item, copy_of(folder, os.path.abspath(item.path)))
            place(folder, link)
        except OSError as error:
            raise _refused(link, error) from None


def _link(path: str) -> str | None:
    """Return where to make a link so that a path exists; None if it does.

    The link of another cluster with the same files is replaced.
    """
    parts = path.split(os.sep)
    for number in range(2, len(parts) + 1):
        here = os.sep.join(parts[:number])
        if not os.path.lexists(here) or is_placed(here):
            return here
    return None


def _check_same(item: Item, path: str) -> None:
    if os.path.lexists(path) and (why := difference(item, path)):
        raise PoolError(
            f"files= cannot put {item.source!r} at {path!r}: that {why}, and is not "
            "overwritten, as runners of this backend share the driver's files; remove it, or name "
            "another path"
        )


def _check_all(link: str, items: Sequence[Item]) -> None:
    """Check that a link of another cluster has just these files."""
    try:
        there = {os.path.normpath(os.path.join(link, item.path)) for item in scan(link)}
    except OSError:
        there = set()  # the cluster was killed, and its folder is gone
    if there and there != {os.path.abspath(item.path) for item in items}:
        raise PoolError(
            f"files= cannot put anything at {link!r}: another cluster has put other files "
            "there; name another path, or close that cluster"
        )


def _copy(item: Item, path: str) -> None:
    os.makedirs(path if item.kind == FOLDER else os.path.dirname(path), exist_ok=True)
    if item.kind == FILE:
        try:
            with open(item.source, "rb") as source, open(path, "xb") as copy:
                shutil.copyfileobj(source, copy, BLOCK)
        except OSError as error:
            if error.filename == item.source:
                raise cannot_be_read(item.source, error) from None
            raise
        # Their owner can remove them.
        os.chmod(path, item.mode | 0o400)
    elif item.kind != FOLDER:
        os.symlink(item.to, path)


def _refused(path: str, error: OSError) -> PoolError:
    return PoolError(
        f"files= cannot put anything at {path!r} on this machine: "
        f"{error.strerror or error}; runners of this backend are processes of this machine: name "
        'a path that this user may write to, such as files={"data/": "data"}'
    )

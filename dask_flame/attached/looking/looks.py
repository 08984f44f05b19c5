"""The looks that one process can take at another, by name (all places)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from dask_flame.attached.looking.wire import packed, unpacked

#: The longest that the objects of a process may be counted, in seconds.
_COUNTED = 10.0

#: Threads that a process has while somebody is attached, and those among them that run cells.
_OURS, _CELLS = ("dask-flame-attach", "dask-flame-expose"), "dask-flame-attached-cell"

#: By name: the module of the function, which has the same name, and of the class of its value, and
#: that class. Imported when they are needed, so that a first look at the stacks takes no time.
_HERE = "dask_flame.attached.looking"
_LOOKS = {
    "stacks": (f"{_HERE}.stacks", f"{_HERE}.values", "Stacks"),
    "memory": (f"{_HERE}.memory", f"{_HERE}.memory", "Memory"),
    "modules": (f"{_HERE}.modules", f"{_HERE}.modules", "Modules"),
    "versions": (f"{_HERE}.modules", f"{_HERE}.modules", "Versions"),
    "processes": (f"{_HERE}.processes", f"{_HERE}.processes", "Processes"),
    "pools": (f"{_HERE}.pools", f"{_HERE}.pools", "Pools"),
}
#: The names of all looks.
LOOKS = tuple(_LOOKS)


def look(what: str, process: str = "", options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Look at this process, from a thread that is not part of it.

    Parameters
    ----------
    what : str
        One of :data:`LOOKS`.
    process : str, default ""
        The name of this process, to show.
    options : mapping, optional
        Further arguments of the function.

    Returns
    -------
    dict
        Plain values; see :func:`opened`.

    Raises
    ------
    ValueError
        There is no such look.
    """
    given = dict(options or {})
    if what == "stacks":
        given["without"] = {threading.get_ident(), *given.get("without", ())}
    elif what == "memory":
        given["limit"] = min(float(given.get("limit", 1.0)), _COUNTED)
    module, _, _ = _named(what)
    found = packed(getattr(import_module(module), what)(process, **given))
    if what == "stacks":
        found["threads"] = [each for each in found["threads"] if not _serves(each["name"])]
    return found


def _serves(thread: str) -> bool:
    """Return whether a thread serves those who look."""
    return thread.startswith(_OURS) and not thread.startswith(_CELLS)


def opened(what: str, found: Mapping[str, Any]) -> Any:
    """Return what another process has found, with a ``repr`` and HTML."""
    _, module, kind = _named(what)
    return unpacked(getattr(import_module(module), kind), found)


def _named(what: str) -> tuple[str, str, str]:
    try:
        return _LOOKS[what]
    except KeyError:
        raise ValueError(f"there is no look {what!r}; there are: {', '.join(LOOKS)}") from None

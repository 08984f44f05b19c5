"""Find the folders from which the driver imports local modules (driver)."""

from __future__ import annotations

import contextlib
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

from dask_flame.core.process_settings import import_path, is_scratch

#: Top-level modules that every runner has, and has imported before the driver's code arrives.
_OF_RUNNERS = frozenset(
    {"dask_flame", "dask", "distributed", "cloudpickle", "msgpack", "tblib", "tornado", "toolz"}
)


@dataclass(frozen=True)
class FoundRoot:
    """A folder with local modules.

    Attributes
    ----------
    path : str
        Absolute path.
    only : frozenset of str or None
        The top-level names to use; None for all.
    late : bool
        Whether ``sys.path`` has it after the standard library, which then takes precedence.
    """

    path: str
    only: frozenset[str] | None = None
    late: bool = False

    def takes(self, name: str) -> bool:
        """Return whether the driver would import a top-level name from this folder."""
        if name in _OF_RUNNERS or name in sys.builtin_module_names:
            return False
        if self.only is not None:
            return name in self.only
        there = sys.modules.get(name)
        if there is not None:
            return any(_is_in(place, self.path) for place in places_of(there))
        return not (self.late and name in sys.stdlib_module_names)


def automatic() -> list[FoundRoot]:
    """Return the folders of ``sys.path`` that are not installed, and those of imported modules.

    An editable install may import its packages by a finder of its own, without an entry in
    ``sys.path``. Such packages are found once the driver has imported them.
    """
    roots: list[FoundRoot] = []
    seen: set[str] = set()
    late = False
    for path in import_path():
        if path in seen:
            continue
        seen.add(path)
        if _is_installed(path):
            late = True
        elif os.path.isdir(path) and not _has_distributions(path):
            roots.append(FoundRoot(path, late=late))
    elsewhere: dict[str, set[str]] = {}
    for name, parent in _imported_elsewhere({root.path for root in roots}):
        elsewhere.setdefault(parent, set()).add(name)
    roots += [FoundRoot(path, frozenset(names), True) for path, names in elsewhere.items()]
    return roots


def chosen(code: Iterable[str | os.PathLike[str] | ModuleType]) -> list[FoundRoot]:
    """Return the folders of the modules that the user has chosen.

    Parameters
    ----------
    code : iterable of path-like or module
        Folders to import from, packages, and files of modules.

    Raises
    ------
    FileNotFoundError
        The message is the path.
    """
    roots: list[FoundRoot] = []
    for each in code:
        if isinstance(each, ModuleType):
            top = each.__name__.partition(".")[0]
            places = places_of(sys.modules.get(top, each))
            roots += [FoundRoot(os.path.dirname(place), frozenset({top})) for place in places]
            continue
        path = os.path.abspath(os.path.expanduser(each))
        if os.path.isfile(path) and path.endswith(".py"):
            name = os.path.basename(path).removesuffix(".py")
            roots.append(FoundRoot(os.path.dirname(path), frozenset({name})))
        elif os.path.isfile(os.path.join(path, "__init__.py")):
            roots.append(FoundRoot(os.path.dirname(path), frozenset({os.path.basename(path)})))
        elif os.path.isdir(path):
            roots.append(FoundRoot(path))
        else:
            raise FileNotFoundError(path)
    return _together(roots)


def _together(roots: Iterable[FoundRoot]) -> list[FoundRoot]:
    """Return one root for each folder."""
    found: dict[str, FoundRoot] = {}
    for root in roots:
        before = found.get(root.path, root)
        everything = before.only is None or root.only is None
        only = None if everything else frozenset({*(before.only or ()), *(root.only or ())})
        found[root.path] = FoundRoot(root.path, only, root.late)
    return list(found.values())


def places_of(module: ModuleType) -> Iterator[str]:
    """Yield the file of a top-level module, or the folders of a package."""
    path, file = attribute(module, "__path__"), attribute(module, "__file__")
    if path is not None:
        # It may be an object that has any attribute. That of a namespace package looks at all of
        # `sys.path` again, where anything may be.
        with contextlib.suppress(Exception):
            yield from [os.path.abspath(folder) for folder in path if isinstance(folder, str)]
    elif isinstance(file, str):
        yield os.path.abspath(file)


def attribute(module: object, name: str) -> Any:
    """Return an attribute of an entry of ``sys.modules``, without importing a lazy module."""
    try:
        return object.__getattribute__(module, "__dict__").get(name)
    except Exception:
        return None


def _imported_elsewhere(roots: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the imported top-level names in no folder of ``sys.path``, and their folders."""
    for name, module in sys.modules.copy().items():  # other threads may import
        if "." in name or name in ("__main__", "__mp_main__") or name in _OF_RUNNERS:
            continue
        for place in places_of(module):
            if not place.endswith(".py") and not os.path.isdir(place):
                continue  # a compiled module, or one in an archive
            parent = os.path.dirname(place)
            if parent in roots or is_scratch(parent):
                continue
            if _is_installed(parent) or _has_distributions(parent):
                continue
            if os.path.isdir(parent):
                yield name, parent


def _is_in(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip(os.sep) + os.sep)


def _is_installed(path: str) -> bool:
    if not {"site-packages", "dist-packages"}.isdisjoint(path.split(os.sep)):
        return True
    return any(_is_in(path, folder) for folder in _installed())


def _has_distributions(path: str) -> bool:
    """Return whether packages are installed in a folder, as by ``pip install --target``."""
    try:
        return _lists_distributions(path, os.stat(path).st_mtime_ns)
    except OSError:
        return False


@lru_cache(maxsize=256)
def _lists_distributions(path: str, time_ns: int) -> bool:
    return any(name.endswith(".dist-info") for name in os.listdir(path))


@cache
def _installed() -> Sequence[str]:
    """Return the folders of the interpreter and of installed packages."""
    paths = sysconfig.get_paths()
    names = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    folders = {paths[name] for name in names if name in paths}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    return [os.path.abspath(folder) for folder in folders]

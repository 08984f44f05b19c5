"""Find the packages that the driver has imported, and those that they need (driver)."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path

from packaging.markers import Marker

from dask_flame._version import __version__
from dask_flame.packages.differences import CORE
from dask_flame.packages.installed import (
    OWN,
    canonical,
    distributions,
    metadata_folders,
)

#: Packages that serve the driver's process, not its calls: notebooks, test runners, debuggers,
#: installers, and clients of substrates. They are left out, with all that only they need.
_TOOLS = frozenset(
    {
        "coverage",
        "dask-kubernetes",
        "dask-labextension",
        "debugpy",
        "ipykernel",
        "ipython",
        "ipywidgets",
        "jupyter-client",
        "jupyter-core",
        "jupyter-server",
        "jupyterlab",
        "kr8s",
        "marimo",
        "mypy",
        "nbclient",
        "nbconvert",
        "notebook",
        "pip",
        "pytest",
        "setuptools",
        "spyder-kernels",
        "uv",
        "wheel",
    }
)
_OF_TOOLS = ("jupyter-", "pytest-")

#: By canonical name: the version, and the path of the metadata.
Found = Mapping[str, tuple[str, str]]


class ImportedPackages:
    """The packages that this process has imported.

    They are looked for when they are asked for, and again when more modules have been imported
    since. The first time takes about 0.1 s, for which another thread is best. All methods may be
    called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: object = None
        self._roots: dict[str, tuple[str, str]] = {}
        self._versions: dict[str, str] = {}

    def versions(self) -> Mapping[str, str]:
        """Return the versions of the imported packages that may matter to calls.

        The packages through which driver and runner talk are among them in any case.
        """
        with self._lock:
            self._look()
            return self._versions

    def needed(self) -> Found:
        """Return the imported packages that may matter, and all that they need and that is here."""
        with self._lock:
            self._look()
            return {**self._roots, **_closure(self._roots, _everything())}

    def _look(self) -> None:
        modules = sys.modules.copy()
        state = (len(modules), frozenset(name.partition(".")[0] for name in modules), *sys.path)
        if state == self._state:
            return
        here = _everything()
        imported = {name: here[name] for name in _imported(modules) if name in here}
        imported |= {name: here[name] for name in CORE if name in here}
        tools = {name: found for name, found in imported.items() if _is_tool(name)}
        only_tools = {**tools, **_closure(tools, here)}
        roots = {name: found for name, found in imported.items() if name not in only_tools}
        roots |= {name: found for name, found in imported.items() if name in CORE}
        needed = _closure(roots, here)
        kept = {n: f for n, f in imported.items() if n in roots or n in needed}
        self._roots = roots
        self._versions = {n: version for n, (version, _) in kept.items() if not _is_tool(n)}
        self._versions[OWN] = __version__
        self._state = state


def loaded() -> dict[str, str]:
    """Return the versions of all packages that this process has imported, by canonical name."""
    here = _everything()
    names = {name for name in _imported(sys.modules.copy()) if name in here}
    return {**{name: here[name][0] for name in names}, OWN: __version__}


@cache
def core_versions() -> dict[str, str]:
    """Return the versions of the packages through which driver, scheduler and runner talk."""
    here = _everything()
    return {**{name: here[name][0] for name in CORE if name in here}, OWN: __version__}


def _is_tool(name: str) -> bool:
    return name in _TOOLS or name.startswith(_OF_TOOLS)


def _everything() -> Found:
    """Return all packages that this process could import."""
    found: dict[str, tuple[str, str]] = {}
    for folder in metadata_folders():
        for name, known in distributions(folder).items():
            found.setdefault(name, known)
    return found


def _imported(modules: Mapping[str, object]) -> set[str]:
    """Return the canonical names of the distributions that these modules are from."""
    folders, found = frozenset(metadata_folders()), set()
    unknown: dict[str, set[str]] = {}  # by folder: files of modules
    for name, file in _files(modules):
        folder = _import_folder(name, file)
        if folder not in folders:
            continue
        if "." not in name and canonical(name) in distributions(folder):
            found.add(canonical(name))
        else:
            unknown.setdefault(folder, set()).add(file[len(folder) + 1 :])
    for folder, files in unknown.items():
        found |= _owners(folder, files)
    return found


def _files(modules: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the top-level modules that are not Python's own, and a file of each.

    A namespace package has no file: its direct submodules are yielded in its place.
    """
    for name, module in modules.items():
        top, _, rest = name.partition(".")
        if top in sys.stdlib_module_names or "." in rest:
            continue
        if not (rest and _file(modules.get(top))) and (file := _file(module)):
            yield name, file


def _file(module: object) -> str:
    file = getattr(module, "__file__", None)
    return os.path.abspath(file) if isinstance(file, str) else ""


def _import_folder(name: str, file: str) -> str:
    """Return the folder on the import path from which a module was imported."""
    folder = os.path.dirname(file)
    if os.path.basename(file).startswith("__init__."):
        folder = os.path.dirname(folder)
    for _ in range(name.count(".")):
        folder = os.path.dirname(folder)
    return folder


#: By folder and file of a module: the distribution that lists it; empty if none does.
_owner: dict[tuple[str, str], str] = {}


def _owners(folder: str, files: Iterable[str]) -> set[str]:
    """Return the distributions in a folder that list these files of modules."""
    left = {file for file in files if (folder, file) not in _owner}
    _owner.update(dict.fromkeys(((folder, file) for file in left), ""))
    for name, (_, path) in distributions(folder).items() if left else ():
        contents = next(filter(None, (_read(path, list_) for list_ in _LISTS)), "")
        for file in [file for file in left if f"\n{file}" in f"\n{contents}"]:
            _owner[folder, file] = name
            left.discard(file)
    return {owner for file in files if (owner := _owner[folder, file])}


#: Lists of files in the metadata of a distribution.
_LISTS = ("RECORD", "SOURCES.txt", "installed-files.txt")


def _read(path: str, name: str = "") -> str:
    try:
        return Path(path, name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _closure(roots: Iterable[str], here: Found) -> dict[str, tuple[str, str]]:
    """Return the installed packages that these need, directly or indirectly."""
    found: dict[str, tuple[str, str]] = {}
    left = [name for name in roots if name in here]
    while left:
        for name in _requires(here[left.pop()][1]):
            if name in here and name not in found:
                found[name] = here[name]
                left.append(name)
    return found


_REQUIRES = re.compile(r"^Requires-Dist: *([A-Za-z0-9._-]+)([^;\n]*)(?:;(.*))?$", re.MULTILINE)


@lru_cache(maxsize=4096)
def _requires(metadata: str) -> tuple[str, ...]:
    """Return the names of the packages that a distribution needs in this environment.

    The parser of :mod:`importlib.metadata` takes milliseconds for each.
    """
    head, _, _ = (_read(metadata, "METADATA") or _read(metadata, "PKG-INFO")).partition("\n\n")
    return tuple(canonical(name) for name, _, marker in _REQUIRES.findall(head) if _holds(marker))


@lru_cache(maxsize=4096)
def _holds(marker: str) -> bool:
    try:
        return not marker or Marker(marker).evaluate({"extra": ""})
    except ValueError:
        return False

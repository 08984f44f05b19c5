"""The driver's local modules as they are now (driver)."""

from __future__ import annotations

import logging
import os
import sys
import threading
import weakref
from collections.abc import Collection, Sequence
from time import monotonic
from types import ModuleType

from dask_flame.code.driver.notifier import Notifier
from dask_flame.code.driver.roots import FoundRoot, automatic, chosen
from dask_flame.code.driver.scan import Reader, Scanner, Tree, changed, imported_below
from dask_flame.core.packs import build
from dask_flame.core.settings import configured

logger = logging.getLogger("dask_flame")

#: What ``code=`` accepts: all local modules, none, or these.
Choice = bool | Sequence[str | os.PathLike[str] | ModuleType]

#: Read the times of all files at least this often (seconds) before a call, even if the kernel
#: reports no change: it does not know of changes that other machines make on a shared disk.
_LOOK = 1.0
#: Scans of folders that change while they are scanned.
_ATTEMPTS = 3
#: Level of compression: fast, and a third of the size of source code.
_LEVEL = 3

_all: weakref.WeakSet[LocalCode] = weakref.WeakSet()


class LocalCode:
    """The local modules of this process.

    Parameters
    ----------
    choice : bool or sequence of path-like or module, default True
        True: the modules in the folders of ``sys.path`` that are not installed, and in those of
        other imported modules. Otherwise the folders, packages and modules to use.
    data : bool, default False
        Whether to include the other files in packages.
    """

    def __init__(self, choice: Choice = True, *, data: bool = False) -> None:
        self._chosen = None if choice is True else chosen(choice or [])
        self._data = data
        self._scanner = Scanner(data=data, most_bytes=configured("code.file-limit"))
        self._reader = Reader(configured("code.limit"))
        self._lock = threading.RLock()
        self._notifier = Notifier(self._matters)
        self._tree: Tree | None = None
        self._path: list[str] = []
        self._cwd = ""
        self._modules = 0
        self._roots: list[FoundRoot] = []
        self._imported: set[str] = set()
        self._looked = 0.0
        self._version: str | None = None
        self._manifest = b""
        #: The top-level names of the modules.
        self.tops: frozenset[str] = frozenset()
        _all.add(self)

    def version(self) -> str | None:
        """Return the id of the present version; None if there are no local modules.

        Notices every change that was made before the call. It takes a few microseconds if nothing
        has changed, and a few milliseconds for 1,000 files on a system without notifications.
        """
        with self._lock:
            if not self._is_unchanged():
                self._scan()
            return self._version

    def pack(self, known: Collection[bytes]) -> tuple[str | None, bytes, set[bytes]]:
        """Return the present version, and a pack with the contents that the receiver lacks.

        Parameters
        ----------
        known : collection of bytes
            Digests of the contents that it has.

        Returns
        -------
        str or None
            The version.
        bytes
            The pack; empty if there is no version.
        set of bytes
            Digests of the contents of the version.
        """
        with self._lock:
            version = self.version()
            if version is None:
                return None, b"", set()
            contents = {**self._reader.contents, bytes.fromhex(version): self._manifest}
            lacking = {key: value for key, value in contents.items() if key not in known}
            return version, build(lacking.items(), level=_LEVEL), set(contents)

    def close(self) -> None:
        """Stop watching folders."""
        with self._lock:
            self._notifier.close()
            self._tree = None
        _all.discard(self)

    # Changes

    def _matters(self, name: str, is_folder: bool) -> bool:
        if is_folder:
            return name.isidentifier() and name != "__pycache__"
        return name.endswith(".py") or name == ".gitignore" or (self._data and name[:1] != ".")

    def _is_unchanged(self) -> bool:
        tree = self._tree
        if tree is None or sys.path != self._path or not self._same_modules():
            return False
        if "" in self._path and _cwd() != self._cwd:
            return False
        now = monotonic()
        if self._notifier.on:
            if self._notifier.changed():
                return False
            if now - self._looked < _LOOK:
                return True
        self._looked = now
        return not changed(tree)

    def _same_modules(self) -> bool:
        """Return whether later imports leave the folders to read as they are."""
        number = len(sys.modules)
        if number == self._modules:
            return True
        self._modules = number
        if self._chosen is None and automatic() != self._roots:
            return False
        # What is imported is sent, even if it is ignored.
        return self._imported == imported_below(self._roots)

    def _scan(self) -> None:
        self._path, self._cwd, self._modules = list(sys.path), _cwd(), len(sys.modules)
        self._roots = automatic() if self._chosen is None else self._chosen
        self._imported = imported_below(self._roots)
        for _ in range(_ATTEMPTS):
            tree = self._scanner.scan(self._roots)
            self._notifier.watch({*tree.folders, *tree.linked})
            if not changed(tree):  # between the scan and the watch
                break
        manifest = self._reader.manifest(tree)
        self._tree, self._looked = tree, monotonic()
        self._manifest = manifest.packed()
        self.tops = frozenset(name.partition(".")[0] for name in manifest.modules())
        self._version = manifest.version if self.tops else None


def versions() -> list[str]:
    """Return the present versions of all local code that this process sends."""
    return sorted(found for code in list(_all) if (found := code.version()) is not None)


def tops() -> set[str]:
    """Return the top-level names of all local modules that this process sends."""
    return {name for code in list(_all) for name in code.tops}


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""

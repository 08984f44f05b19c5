"""Read the local modules in the driver's folders, and notice changes (driver)."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from dask_flame.code.driver.ignored import Ignored
from dask_flame.code.driver.roots import FoundRoot, attribute
from dask_flame.code.manifest import Manifest, Root
from dask_flame.core.packs import digest
from dask_flame.core.text import memory
from dask_flame.errors import PoolError

logger = logging.getLogger("dask_flame")

#: Identity of a file's content: times of the last change and of the last change of the inode in
#: ns, size, inode. Some tools restore the first one.
Stamp = tuple[int, int, int, int]

#: A file that has just changed is read when its last change is this old (seconds): an editor may
#: not have finished, and a later change within the resolution of the clock would be unnoticed.
_SETTLED = 0.02
#: Maximum number of entries of folders without ``__init__.py`` that are visited.
_MOST_ENTRIES = 5_000
#: How deep to look for modules below a folder without ``__init__.py``.
_DEPTH = 3


@dataclass
class Tree:
    """What a scan has found.

    Attributes
    ----------
    files : dict of str to Stamp
        Absolute paths of the files that are sent.
    folders : dict of str to int
        The times of the last change of the visited folders.
    rules : dict of str to Stamp or None
        ``.gitignore`` files that were looked for.
    visited : int
        Number of entries so far.
    real : set of str
        The visited folders, without links.
    linked : set of str
        The folders of files that links lead to.
    roots : set of str
        The folders to scan as a whole; none of them is scanned as a part of another.
    """

    files: dict[str, dict[str, Stamp]] = field(default_factory=dict)
    folders: dict[str, int] = field(default_factory=dict)
    rules: dict[str, Stamp | None] = field(default_factory=dict)
    visited: int = 0
    real: set[str] = field(default_factory=set)
    linked: set[str] = field(default_factory=set)
    roots: set[str] = field(default_factory=set)


class Scanner:
    """Find the files of local modules below some folders.

    Parameters
    ----------
    data : bool
        Whether to include the other files in packages.
    most_bytes : int
        Maximum size of a file that is not a module; larger ones are left out.
    """

    def __init__(self, *, data: bool, most_bytes: int) -> None:
        self._data = data
        self._most = most_bytes

    def scan(self, roots: Sequence[FoundRoot]) -> Tree:
        """Return the files in these folders, without reading them."""
        tree = Tree(roots={root.path for root in roots if root.only is None})
        for root in roots:
            own = tree.files.setdefault(root.path, {})
            tree.real.clear()  # a root may be below another one
            rules = Ignored.above(root.path).within(root.path)
            for spec_folder, _ in rules.specs:
                file = os.path.join(spec_folder, ".gitignore")
                tree.rules[file] = stamp(file)
            imported = imported_below([root])
            for entry in self._entries(tree, root.path):
                name = entry.name
                if entry.is_file():
                    module = name.removesuffix(".py")
                    if name.endswith(".py") and module.isidentifier() and root.takes(module):
                        self._file(tree, own, entry, rules, imported)
                elif self._enters(entry, root, rules):
                    if os.path.exists(os.path.join(entry.path, "__init__.py")):
                        self._package(tree, own, entry.path, rules, imported)
                    else:
                        self._namespace(tree, own, entry.path, rules, imported, _DEPTH)
        return tree

    def _enters(self, entry: os.DirEntry[str], root: FoundRoot, rules: Ignored) -> bool:
        name = entry.name
        if not (name.isidentifier() and entry.is_dir() and root.takes(name)):
            return False
        if name in sys.modules:
            return True
        return not rules.folder(entry.path)

    def _package(
        self, tree: Tree, own: dict[str, Stamp], folder: str, rules: Ignored, imported: set[str]
    ) -> None:
        """Add all files of a package, and those of the folders in it."""
        rules = rules.within(folder)
        for entry in self._entries(tree, folder):
            if entry.is_dir():
                if not rules.folder(entry.path):
                    self._package(tree, own, entry.path, rules, imported)
            elif self._data or entry.name.endswith(".py"):
                self._file(tree, own, entry, rules, imported)

    def _namespace(
        self,
        tree: Tree,
        own: dict[str, Stamp],
        folder: str,
        rules: Ignored,
        imported: set[str],
        depth: int,
    ) -> None:
        """Add the modules and packages in a folder without ``__init__.py``."""
        if tree.visited > _MOST_ENTRIES and not any(p.startswith(folder) for p in imported):
            return
        rules = rules.within(folder)
        for entry in self._entries(tree, folder):
            if entry.is_file():
                if entry.name.endswith(".py"):
                    self._file(tree, own, entry, rules, imported)
            elif entry.name.isidentifier() and entry.is_dir() and not rules.folder(entry.path):
                if os.path.exists(os.path.join(entry.path, "__init__.py")):
                    self._package(tree, own, entry.path, rules, imported)
                elif depth:
                    self._namespace(tree, own, entry.path, rules, imported, depth - 1)

    def _entries(self, tree: Tree, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            # A link may lead back to a folder above.
            if os.path.realpath(folder) in tree.real:
                return
            tree.real.add(os.path.realpath(folder))
            tree.folders[folder] = os.stat(folder).st_mtime_ns
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            return
        tree.visited += len(found)
        for entry in found:
            # A link that leads to itself is neither.
            with contextlib.suppress(OSError):
                if entry.path not in tree.roots and (entry.is_dir() or entry.is_file()):
                    yield entry

    def _file(
        self,
        tree: Tree,
        own: dict[str, Stamp],
        entry: os.DirEntry[str],
        rules: Ignored,
        imported: set[str],
    ) -> None:
        # What the driver has imported is needed, even if a rule ignores it: a generated
        # `_version.py`, for instance.
        if entry.path not in imported and rules.file(entry.path):
            return
        found = stamp(entry.path)
        if found is not None and (entry.name.endswith(".py") or found[2] <= self._most):
            own[entry.path] = found
            if entry.is_symlink():
                tree.linked.add(os.path.dirname(os.path.realpath(entry.path)))


def changed(tree: Tree) -> bool:
    """Return whether any file or folder of an earlier scan has changed since."""
    try:
        for folder, time_ns in tree.folders.items():
            if os.stat(folder).st_mtime_ns != time_ns:
                return True
        for files in tree.files.values():
            for path, before in files.items():
                if _stamp_of(os.stat(path)) != before:
                    return True
    except OSError:
        return True
    return any(stamp(file) != before for file, before in tree.rules.items())


def stamp(path: str) -> Stamp | None:
    """Return the stamp of a regular file; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return _stamp_of(found)


def _stamp_of(found: os.stat_result) -> Stamp:
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


class Reader:
    """Read the files of scans, each content once.

    Parameters
    ----------
    limit : int
        Maximum size of all files together, in bytes.

    Attributes
    ----------
    contents : dict of bytes to bytes
        The contents of the last manifest, by digest.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[str, tuple[Stamp, bytes]] = {}
        self._warned = False
        self.contents: dict[bytes, bytes] = {}

    def manifest(self, tree: Tree) -> Manifest:
        """Read what has changed, and return the manifest of the files in a scan.

        Raises
        ------
        PoolError
            The modules exceed the limit. Other files are left out, with a warning.
        """
        self._limit_size(tree)
        contents: dict[bytes, bytes] = {}
        known: dict[str, tuple[Stamp, bytes]] = {}
        roots = []
        for folder, files in tree.files.items():
            digests: dict[str, bytes] = {}
            for path, found in files.items():
                read = self._read(path, found)
                if read is None:
                    continue  # deleted meanwhile
                now, key, content = read
                files[path] = now
                known[path] = now, key
                contents[key] = content
                digests[os.path.relpath(path, folder).replace(os.sep, "/")] = key
            if digests:
                roots.append(Root(folder, digests))
        self._known, self.contents = known, contents
        return Manifest(tuple(roots))

    def _limit_size(self, tree: Tree) -> None:
        """Leave out the largest files that are no modules until the rest fits."""
        sizes = {p: s[2] for files in tree.files.values() for p, s in files.items()}
        total = sum(sizes.values())
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)
        left_out = []
        for path in largest:
            if total <= self._limit:
                break
            if not path.endswith(".py"):
                total -= sizes[path]
                left_out.append(path)
        if total > self._limit:
            shown = ", ".join(f"{path} ({memory(sizes[path])})" for path in largest[:3])
            raise PoolError(
                f"the local modules have {memory(total)}, more than flame.code.limit="
                f"{memory(self._limit)}: {shown}, …; choose some with code=[…], or send none with "
                "code=False"
            )
        for files in tree.files.values():
            for path in set(left_out) & files.keys():
                del files[path]
        if left_out and not self._warned:
            self._warned = True
            logger.warning(
                "%d files in local packages are not sent to runners, as all together would exceed "
                "flame.code.limit=%s: %s, …",
                len(left_out),
                memory(self._limit),
                left_out[0],
            )

    def _read(self, path: str, found: Stamp) -> tuple[Stamp, bytes, bytes] | None:
        before = self._known.get(path)
        if before is not None and before[0] == found and before[1] in self.contents:
            return found, before[1], self.contents[before[1]]
        while True:
            _let_settle(found)
            try:
                with open(path, "rb") as file:
                    content = file.read()
            except OSError:
                return None
            now = stamp(path)
            if now is None:
                return None
            if now == found and len(content) == found[2]:
                return found, digest(content), content
            found = now


def _let_settle(found: Stamp, clock: Callable[[], float] = time.time) -> None:
    """Wait until the last change of a file is old enough to be complete and distinguishable."""
    age = clock() - max(found[:2]) / 1e9
    if 0 <= age < _SETTLED:
        time.sleep(_SETTLED - age)


def imported_below(roots: Iterable[FoundRoot]) -> set[str]:
    """Return the files in these folders from which the driver has imported modules."""
    prefixes = tuple(root.path.rstrip(os.sep) + os.sep for root in roots)
    files = (attribute(module, "__file__") for module in sys.modules.copy().values())
    return {file for file in files if isinstance(file, str) and file.startswith(prefixes)}

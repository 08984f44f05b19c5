"""A version of the local modules: which files there are, and the digests of their contents.

This is used in all places. The driver makes it; the scheduler does not look into it; runners
import from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgpack

Kind = Literal["module", "package", "namespace"]


@dataclass(frozen=True)
class Root:
    """A folder from which the driver imports local modules.

    Attributes
    ----------
    path : str
        Absolute path on the driver's machine.
    files : mapping of str to bytes
        Digests of the files, by their paths relative to the root, with ``/`` as separator.
    """

    path: str
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Module:
    """A module of a version.

    Attributes
    ----------
    kind : {"module", "package", "namespace"}
    places : tuple of (int, str)
        Index of the root, and the relative path of the source file, or, for a namespace package,
        of its folder. Only namespace packages have more than one.
    """

    kind: Kind
    places: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Manifest:
    """A version of the local modules.

    Attributes
    ----------
    roots : tuple of Root
        In the order of the driver's ``sys.path``.
    """

    roots: tuple[Root, ...]

    @property
    def version(self) -> str:
        """The id of the version: it differs if any path or content differs."""
        return hashlib.blake2b(self.packed(), digest_size=16).hexdigest()

    def packed(self) -> bytes:
        """Return the manifest as bytes."""
        plain = [[root.path, sorted(root.files.items())] for root in self.roots]
        packed: bytes = msgpack.packb(plain, unicode_errors="surrogateescape")
        return packed

    @classmethod
    def unpacked(cls, packed: bytes) -> Manifest:
        """Return the manifest that :meth:`packed` has made these bytes of."""
        plain: list[Any] = msgpack.unpackb(packed, unicode_errors="surrogateescape")
        return cls(tuple(Root(path, dict(files)) for path, files in plain))

    def modules(self) -> dict[str, Module]:
        """Return the modules by their full names, as Python would find them in these folders.

        The rules are those of :class:`importlib.machinery.PathFinder`: of the folders to search,
        the first that has a package or a module of the name wins, a package before a module; all
        folders without ``__init__.py`` together are a namespace package if none has either.
        """
        trees = [_tree(root.files) for root in self.roots]
        found: dict[str, Module] = {}
        todo = [("", [(number, "", tree) for number, tree in enumerate(trees)])]
        while todo:
            package, portions = todo.pop()
            children = {name.removesuffix(".py") for _, _, tree in portions for name in tree}
            for child in filter(str.isidentifier, children):
                if child == "__init__":
                    continue
                module, below = _find(child, portions)
                if module is not None:
                    name = f"{package}.{child}" if package else child
                    found[name] = module
                    todo.append((name, below))
        return found

    def digests(self) -> Iterator[bytes]:
        """Yield the digests of all files."""
        for root in self.roots:
            yield from root.files.values()


def _tree(files: Iterable[str]) -> dict[str, Any]:
    """Return nested mappings: folders by their names, and None for each Python file."""
    top: dict[str, Any] = {}
    for path in files:
        if path.endswith(".py"):
            *folders, name = path.split("/")
            tree = top
            for folder in folders:
                tree = tree.setdefault(folder, {})
            tree[name] = None
    return top


#: A folder to search: the number of its root, its relative path with a final ``/``, its contents.
_Portion = tuple[int, str, dict[str, Any]]


def _find(name: str, portions: Sequence[_Portion]) -> tuple[Module | None, list[_Portion]]:
    """Return the module of a name in these folders, and the folders to search for those in it."""
    namespace: list[_Portion] = []
    for number, folder, tree in portions:
        below = tree.get(name)
        portion = (number, f"{folder}{name}/", below or {})
        if below is not None and "__init__.py" in below:
            return Module("package", ((number, f"{folder}{name}/__init__.py"),)), [portion]
        if f"{name}.py" in tree:
            return Module("module", ((number, f"{folder}{name}.py"),)), []
        if below is not None:
            namespace.append(portion)
    if not namespace:
        return None, []
    places = tuple((number, folder.rstrip("/")) for number, folder, _ in namespace)
    return Module("namespace", places), namespace

"""A version of the local modules: which files there are, and the digests of their contents.

This is used in all places. The driver makes it; the scheduler does not look into it; runners
import from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
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

        As for Python, the first root that has a module or a regular package of a name wins, a
        package wins over a module, and folders without ``__init__.py`` are namespace packages only
        if no root has one of the others.
        """
        found: dict[str, Module] = {}
        namespaces: dict[str, dict[tuple[int, str], None]] = {}
        for number, root in enumerate(self.roots):
            own: dict[str, Module] = {}
            for path in root.files:
                if (module := _named(path)) is None:
                    continue
                name, kind = module
                if kind == "package" or name not in own:
                    own[name] = Module(kind, ((number, path),))
                for package, folder in _parents(path, kind):
                    namespaces.setdefault(package, {})[number, folder] = None
            _add(found, own)
        for name, places in namespaces.items():
            if name not in found and _visible(name, found):
                found[name] = Module("namespace", tuple(places))
        return found

    def digests(self) -> Iterator[bytes]:
        """Yield the digests of all files."""
        for root in self.roots:
            yield from root.files.values()


def _add(found: dict[str, Module], own: Mapping[str, Module]) -> None:
    """Add the modules of a root, unless an earlier root has their package."""
    regular = {name for name, module in found.items() if module.kind == "package"}
    for name, module in own.items():
        parents = _names_above(name)
        if name not in found and not any(parent in regular for parent in parents):
            found[name] = module


def _visible(name: str, found: Mapping[str, Module]) -> bool:
    """Return whether no module, other than a package, hides a namespace package."""
    return all(found[parent].kind != "module" for parent in _names_above(name) if parent in found)


def _names_above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _named(path: str) -> tuple[str, Kind] | None:
    """Return the name and the kind of the module in a file; None if it cannot be imported."""
    if not path.endswith(".py"):
        return None
    parts = path.removesuffix(".py").split("/")
    if not all(map(str.isidentifier, parts)):
        return None
    if parts[-1] == "__init__":
        return (".".join(parts[:-1]), "package") if len(parts) > 1 else None
    return ".".join(parts), "module"


def _parents(path: str, kind: Kind) -> Iterator[tuple[str, str]]:
    """Yield the names and the folders of the packages above a module."""
    folders = path.split("/")[: -2 if kind == "package" else -1]
    for length in range(1, len(folders) + 1):
        yield ".".join(folders[:length]), "/".join(folders[:length])

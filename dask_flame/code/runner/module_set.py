"""The modules of one version, imported from their packed sources (runner)."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.readers import FileReader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Protocol

from dask_flame.code.manifest import Manifest, Module
from dask_flame.code.runner.locks import ModuleLocks
from dask_flame.code.runner.proxies import ModuleProxy
from dask_flame.code.runner.version_files import VersionFiles, data_files
from dask_flame.core.packs import digest


class Publisher(Protocol):
    """Shows modules in ``sys.modules``; see :class:`dask_flame.code.runner.versions.Versions`."""

    def publish(self, modules: ModuleSet, name: str, module: ModuleType) -> ModuleType: ...

    def withdraw(self, modules: ModuleSet, name: str) -> None: ...

    def is_published(self, name: str) -> bool: ...

    def import_shared(self, modules: ModuleSet, name: str) -> ModuleType: ...


class ModuleSet:
    """The local modules of a version, each imported at most once.

    Parameters
    ----------
    version : str
        The id of the version.
    manifest : Manifest
    content, folder, here
        See :class:`dask_flame.code.runner.version_files.VersionFiles`.
    publisher : Publisher

    Attributes
    ----------
    versions : set of str
        The versions that the set stands for, with the same content of all files in use.
    modules : dict of str to module
        The modules imported so far.
    users : int
        Number of running calls that use it.
    """

    def __init__(
        self,
        version: str,
        manifest: Manifest,
        content: Callable[[bytes], bytes],
        publisher: Publisher,
        folder: Path,
        *,
        here: bool,
    ) -> None:
        self.versions = {version}
        self.modules: dict[str, ModuleType] = {}
        self.users = 0
        self._publisher = publisher
        self._locks = ModuleLocks()
        #: Names that were looked up, and are no modules of this version.
        self.missed: set[str] = set()
        self._take(VersionFiles(manifest, content, folder, here=here))

    def _take(self, files: VersionFiles) -> None:
        self.files = files
        self.index = files.manifest.modules()
        self.tops = {name.partition(".")[0] for name in self.index}

    @property
    def manifest(self) -> Manifest:
        """The files of the version."""
        return self.files.manifest

    # Reuse for another version

    def agrees(self, manifest: Manifest) -> bool:
        """Return whether this set may stand for another version, as it used no file that differs.

        A module may have read any file beside it, so all files that are not modules count as used.
        """
        if not self.modules:
            return True
        if len(manifest.roots) != len(self.manifest.roots):
            return False
        for old, new in zip(self.manifest.roots, manifest.roots, strict=True):
            if old.path != new.path or data_files(old.files) != data_files(new.files):
                return False
        index = manifest.modules()
        if self.missed & index.keys():
            return False
        # A package may look for the modules in its folder.
        if self._in_packages(self.index) != self._in_packages(index):
            return False
        return all(
            index.get(name) == self.index.get(name) and self._same(manifest, self.index.get(name))
            for name in self.modules
        )

    def _in_packages(self, index: Mapping[str, Module]) -> set[str]:
        """Return the modules in packages that were imported."""
        return {name for name in index if name.rpartition(".")[0] in self.modules}

    def _same(self, manifest: Manifest, module: Module | None) -> bool:
        if module is None or module.kind == "namespace":
            return True
        (root, path), *_ = module.places
        return manifest.roots[root].files.get(path) == self.manifest.roots[root].files.get(path)

    def become(self, version: str, manifest: Manifest) -> None:
        """Stand for another version, with which this set :meth:`agrees`, from now on."""
        self.versions = {version}
        self._take(self.files.replaced(manifest))

    # Import

    def load(self, name: str) -> ModuleType:
        """Return a module; import it, and the packages above it, if needed.

        Raises
        ------
        ModuleNotFoundError
        Exception
            Whatever the module raises.
        """
        module = self._loaded(name)
        if module is not None:
            return module
        parent, _, child = name.rpartition(".")
        package = self.load(parent) if parent else None
        with self._locks.hold(name) as alone:
            module = self.modules.get(name)
            if module is None or (alone and name not in sys.modules):
                module = self._import(name, package)
                if package is not None:
                    setattr(package, child, module)
        return module

    def _loaded(self, name: str) -> ModuleType | None:
        """Return an imported module, unless it was removed from ``sys.modules`` or is not done."""
        module = self.modules.get(name)
        there = sys.modules.get(name)
        if module is None or there is None:
            return None
        if there is not module and not isinstance(there, ModuleProxy):
            return there  # put there by the program, as mock.patch.dict does
        spec = getattr(module, "__spec__", None)
        return None if getattr(spec, "_initializing", False) else module

    def _import(self, name: str, package: ModuleType | None) -> ModuleType:
        there = sys.modules.get(name, self)
        if there is None:
            raise ModuleNotFoundError(f"import of {name} halted; None in sys.modules", name=name)
        if isinstance(there, ModuleType) and not self._publisher.is_published(name):
            self.modules[name] = there  # the program has put it there
            return there
        found = self.index.get(name)
        if found is None:
            return self._import_installed(name, package)
        spec = self._spec(name, found)
        module = importlib.util.module_from_spec(spec)
        # As importlib does, so that other threads wait for the end of the import.
        setattr(spec, "_initializing", True)  # noqa: B010
        self.modules[name] = module
        shown = self._publisher.publish(self, name, module)
        try:
            if spec.loader is not None:
                spec.loader.exec_module(module)
        except BaseException:
            self.modules.pop(name, None)
            self._publisher.withdraw(self, name)
            raise
        finally:
            setattr(spec, "_initializing", False)  # noqa: B010
        if isinstance(spec.loader, VersionLoader):
            spec.loader.done = True
        there = sys.modules.get(name, shown)
        if there is not module and not isinstance(there, ModuleProxy):
            # The module has replaced itself.
            module = self.modules[name] = there
            self._publisher.publish(self, name, module)
        return module

    def _import_installed(self, name: str, package: ModuleType | None) -> ModuleType:
        """Import a module that is no file of this version: an installed or a compiled one.

        Such modules exist once in the process, for all versions, unless another version has a
        local module of the same name.
        """
        self.missed.add(name)
        try:
            if self._publisher.is_published(name):
                module = self._import_alone(name, package)
            else:
                module = self._publisher.import_shared(self, name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise ModuleNotFoundError(self._not_found(name, package), name=name) from None
        self.modules[name] = module
        return module

    def _import_alone(self, name: str, package: ModuleType | None) -> ModuleType:
        """Import an installed module whose name is that of a local one in another version."""
        path = None if package is None else getattr(package, "__path__", [])
        spec = _find_elsewhere(name, path)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(self._not_found(name, package), name=name)
        module = self.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            self.modules.pop(name, None)
            raise
        return module

    def _not_found(self, name: str, package: ModuleType | None) -> str:
        said = f"No module named {name!r}"
        if package is None:
            return said
        if not hasattr(package, "__path__"):
            return f"{said}; {package.__name__!r} is not a package"
        if package.__name__ in self.index and not self.files.here:
            return f"{said}; if it is a compiled module, it has to be in the image of the runners"
        return said

    def _spec(self, name: str, found: Module) -> ModuleSpec:
        places = [os.path.join(self.files.folder_of(root), path) for root, path in found.places]
        if found.kind == "namespace":
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [*places, *_other_portions(name, places)]
            return spec
        (root, path), *_ = found.places
        loader = VersionLoader(self, name, places[0], os.path.join(self.files.root(root), path))
        spec = ModuleSpec(name, loader, origin=places[0], is_package=found.kind == "package")
        spec.has_location = True
        if found.kind == "package":
            spec.submodule_search_locations = [os.path.dirname(places[0])]
        return spec

    def again(self, name: str) -> ModuleSpec | None:
        """Return the spec with which :func:`importlib.reload` executes a module again."""
        found = self.index.get(name)
        return None if found is None else self._spec(name, found)

    # Files

    def has_same_file(self, name: str, module: ModuleType) -> bool:
        """Return whether a module was imported from a file with the content of this version."""
        found, file = self.index[name], getattr(module, "__file__", None)
        if found.kind == "namespace":
            return file is None
        try:
            content = Path(str(file)).read_bytes()
        except OSError:
            return False
        return digest(content) == self.files.digest(*found.places[0])

    def source(self, name: str) -> bytes | None:
        """Return the source of a module; None for a namespace package."""
        found = self.index[name]
        return None if found.kind == "namespace" else self.files.content(*found.places[0])

    def code(self, name: str, shown: str) -> CodeType:
        """Return the compiled source of a module; tracebacks show the file `shown`."""
        return self.files.code(*self.index[name].places[0], shown)


class VersionLoader(InspectLoader):
    """Loads one module of a version.

    Attributes
    ----------
    modules : ModuleSet
    path : str
        The module's ``__file__``.
    done : bool
        Whether the module has been executed.
    """

    done = False

    def __init__(self, modules: ModuleSet, name: str, path: str, shown: str) -> None:
        self.modules = modules
        self.name = name
        self.path = path
        self._shown = shown

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        # importlib asks for a module that is imported already: see `importing.LocalFinder`.
        return sys.modules.get(spec.name) if self.done else None

    def exec_module(self, module: ModuleType) -> None:
        if not self.done:
            exec(self.get_code(self.name), module.__dict__)

    def get_code(self, fullname: str) -> CodeType:
        return self.modules.code(self.name, self._shown)

    def get_source(self, fullname: str) -> str | None:
        source = self.modules.source(self.name)
        return None if source is None else importlib.util.decode_source(source)

    def get_filename(self, fullname: str) -> str:
        return self.path

    def is_package(self, fullname: str) -> bool:
        return self.modules.index[self.name].kind == "package"

    def get_data(self, path: str) -> bytes:
        """Return the content of a file beside the module, for :func:`pkgutil.get_data`."""
        return Path(path).read_bytes()

    def get_resource_reader(self, fullname: str) -> FileReader:
        """Return the reader of package data, for :mod:`importlib.resources`."""
        return FileReader(self)  # type: ignore[arg-type]


def _find_elsewhere(name: str, path: Any) -> ModuleSpec | None:
    """Ask the finders of this process for a module, except the one for local modules."""
    for finder in list(sys.meta_path):
        if getattr(finder, "finds_local_modules", False):
            continue
        spec = finder.find_spec(name, path, None)
        if spec is not None:
            return spec
    return None


def _other_portions(name: str, places: list[str]) -> Iterator[str]:
    """Yield the folders of a namespace package that are installed on the runner."""
    parent, _, _ = name.rpartition(".")
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    spec = PathFinder.find_spec(name, path)
    if spec is not None and spec.loader is None:
        yield from (place for place in spec.submodule_search_locations or () if place not in places)

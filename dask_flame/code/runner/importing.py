"""Let import statements find local modules in the version of the running code (runner).

Python has two ways to import, and both are used here. An import statement calls
``builtins.__import__``, which Python documents as the place to change it; it is given the globals
of the code, and so knows which version a module belongs to. All else, such as
:func:`importlib.import_module`, asks the finders of ``sys.meta_path``.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import cloudpickle.cloudpickle

from dask_flame.code.runner.module_set import ModuleSet, VersionLoader
from dask_flame.code.runner.versions import Versions, version_here
from dask_flame.code.tokens import depend_on


class LocalFinder(MetaPathFinder):
    """Finds local modules in the current version."""

    finds_local_modules = True

    def __init__(self, versions: Versions) -> None:
        self._versions = versions

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in self._versions.tops:
            return None
        modules = self._versions.current()
        if modules is None or fullname not in modules.index:
            return None
        if target is not None:
            return modules.again(fullname)
        spec: ModuleSpec | None = modules.load(fullname).__spec__
        return spec

    def invalidate_caches(self) -> None:
        """Do nothing: a version never changes."""


def install(versions: Versions) -> None:
    """Import local modules from these versions from now on; once per process.

    Parameters
    ----------
    versions : Versions
    """
    sys.meta_path.insert(0, LocalFinder(versions))
    stock = builtins.__import__

    @functools.wraps(stock)
    def __import__(  # noqa: N807
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        tops = versions.tops
        if tops:
            absolute = _absolute(name, globals, level) if level else name
            top = absolute.partition(".")[0]
            if top in tops:
                modules = _modules_of(globals) or versions.current()
                # A name that only another version has may not be found in `sys.modules`.
                if modules is not None and (top in modules.tops or versions.is_published(top)):
                    return _imported(modules, absolute, fromlist)
            elif (modules := _modules_of(globals)) is not None:
                # A later version may have a module of this name.
                modules.missed.add(absolute)
        return stock(name, globals, locals, fromlist or (), level)

    builtins.__import__ = __import__
    _replace_subimport(versions)
    _replace_reload()
    depend_on(lambda: [version] if (version := version_here()) is not None else [])


def _replace_reload() -> None:
    """Let :func:`importlib.reload` accept a module that has a proxy in ``sys.modules``."""
    stock = importlib.reload

    @functools.wraps(stock)
    def reload(module: ModuleType) -> ModuleType:
        loader = getattr(module, "__loader__", None)
        if not isinstance(loader, VersionLoader):
            return stock(module)
        exec(loader.get_code(loader.name), module.__dict__)
        return module

    importlib.reload = reload


def _absolute(name: str, globals: Mapping[str, Any] | None, level: int) -> str:
    """Return the absolute name of a relative import; empty if it is not known."""
    if globals is None:
        return ""
    package = globals.get("__package__")
    if package is None:
        package = globals.get("__name__", "")
        if "__path__" not in globals:
            package = package.rpartition(".")[0]
    try:
        return importlib.util.resolve_name("." * level + name, package)
    except ImportError:
        return ""


def _modules_of(globals: Mapping[str, Any] | None) -> ModuleSet | None:
    """Return the version that a module belongs to, by its globals."""
    loader = None if globals is None else globals.get("__loader__")
    return loader.modules if isinstance(loader, VersionLoader) else None


def _imported(modules: ModuleSet, name: str, fromlist: Sequence[str] | None) -> ModuleType:
    """Return what an import statement binds or takes its names from."""
    module = modules.load(name)
    if not fromlist:
        return modules.load(name.partition(".")[0])
    if hasattr(module, "__path__"):
        wanted = [*fromlist]
        if "*" in wanted:
            wanted = [each for each in wanted if each != "*"] + list(getattr(module, "__all__", ()))
        for child in wanted:
            if not hasattr(module, child):
                _load_child(modules, f"{name}.{child}")
    return module


def _load_child(modules: ModuleSet, name: str) -> None:
    """Import a submodule, unless there is none."""
    try:
        modules.load(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise


def _replace_subimport(versions: Versions) -> None:
    """Let cloudpickle bind modules to the globals of functions as an import statement does.

    Otherwise a function of a notebook would have proxies, which are slower than modules.
    """
    stock = cloudpickle.cloudpickle.subimport

    @functools.wraps(stock)  # pickles made here must refer to it by cloudpickle's name
    def subimport(name: str) -> ModuleType:
        module: ModuleType = stock(name)
        if name.partition(".")[0] in versions.tops:
            modules = versions.current()
            if modules is not None and name in modules.modules:
                return modules.modules[name]
        return module

    cloudpickle.cloudpickle.subimport = subimport

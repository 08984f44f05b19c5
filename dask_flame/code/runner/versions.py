"""The versions of the local modules on a runner, and which of them a call uses (runner).

A process has one ``sys.modules``, but its calls may have been submitted with different versions of
a module. Each version has a set of modules of its own: an import statement in a module of a version
imports from the same version, and one in other code from the version of the call that runs it. As
long as there is one version, its modules are in ``sys.modules`` as usual. With several, each name
has a :class:`~dask_flame.code.runner.proxies.ModuleProxy` there, which stands for the module of the
version of the call that asks.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import logging
import pickle
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
from dask.typing import Key

from dask_flame.code.manifest import Manifest
from dask_flame.code.runner.module_set import ModuleSet
from dask_flame.code.runner.proxies import ModuleProxy
from dask_flame.core import current_call
from dask_flame.core.packs import Pack, Packs

logger = logging.getLogger("dask_flame")

#: The set of modules that code in this context uses, whichever call it belongs to.
_using: contextvars.ContextVar[ModuleSet | None] = contextvars.ContextVar(
    "dask_flame_modules", default=None
)


class Unopened:
    """A result that is not unpickled yet; see :mod:`dask_flame.code.runner.results`."""

    def open(self) -> Any:
        """Unpickle the result with the modules of the present context."""
        raise NotImplementedError


class Versions:
    """The versions of the local modules on this runner.

    Parameters
    ----------
    folder : Path
        See :class:`ModuleSet`.
    results : callable
        Return collections with the keys of the results that the runner holds.
    here : bool
        See :class:`ModuleSet`.

    Attributes
    ----------
    tops : set of str
        The names of all top-level modules and packages of the versions so far.
    latest : str or None
        The version for code that belongs to no call.
    """

    def __init__(
        self, folder: Path, results: Callable[[], Iterable[Collection[Key]]], *, here: bool
    ) -> None:
        self._results = results
        self.tops: set[str] = set()
        self.latest: str | None = None
        self._folder = folder
        self._here = here
        self._packs = Packs()
        self._lock = threading.RLock()
        self._sets: list[ModuleSet] = []
        self._of_call: dict[Key, ModuleSet] = {}
        self._made: dict[Key, ModuleSet] = {}  # results, by the call that made them
        self._plain: set[Key] = set()  # results that have nothing of a local module
        self._most_made = 1000
        self._published: set[str] = set()

    # From the scheduler

    def receive(
        self,
        version: str,
        packs: dict[str, bytes | str],
        tops: Iterable[str],
        keep: Collection[str],
        *,
        latest: bool,
    ) -> None:
        """Take a version from the scheduler.

        Parameters
        ----------
        version : str
        packs : dict of str to bytes or str
            Packs that this runner does not have yet: their contents, or the files with them.
        tops : iterable of str
            The top-level names of its modules.
        keep : collection of str
            The packs that later versions may need.
        latest : bool
            Whether code that belongs to no call uses it from now on.
        """
        for name, packed in packs.items():
            try:
                pack = Pack(packed) if isinstance(packed, bytes) else Pack.in_file(packed)
            except OSError as error:
                # The folder is gone, and with it soon this runner. Calls of this version fail.
                logger.warning("local modules cannot be read: %s", error)
                return
            self._packs.add(name, pack)
        self.tops.update(tops)
        if latest:
            self.latest = version
            if self._sets:
                # From now on `sys.modules` shows proxies, or the modules of this version.
                with self._lock:
                    self._set_for(version)
                    self._tidy()
        self._packs.keep({*keep, *packs}, {key for s in self._sets for key in s.manifest.digests()})

    # Calls

    def begin(self, key: Key, version: str | None) -> None:
        """Let a call use a version; None: only what is installed on the runner."""
        if version is None:
            return
        with self._lock:
            modules = self._of_call[key] = self._set_for(version)
            modules.users += 1

    def end(self, key: Key) -> None:
        """Note the end of a call."""
        with self._lock:
            modules = self._of_call.pop(key, None)
            if modules is None:
                return
            modules.users -= 1
            self._made[key] = modules
            self._plain.discard(key)
            old = self.latest not in modules.versions
            if (old and not modules.users) or len(self._made) > self._most_made:
                self._tidy()

    def _tidy(self) -> None:
        """Drop the sets that nothing needs."""
        results = list(self._results())
        self._made = {
            key: modules
            for key, modules in self._made.items()
            if any(key in held for held in results)
        }
        self._most_made = 2 * len(self._made) + 1000
        self._plain &= self._made.keys()
        needed = {id(modules) for modules in self._made.values()}
        kept = [
            modules
            for modules in self._sets
            if modules.users or id(modules) in needed or self.latest in modules.versions
        ]
        if len(kept) < len(self._sets):
            self._sets = kept
            self._show()

    def _set_for(self, version: str) -> ModuleSet:
        for modules in self._sets:
            if version in modules.versions:
                return modules
        manifest = Manifest.unpacked(self._packs.read(bytes.fromhex(version)))
        for modules in self._sets:
            if not modules.users and modules.agrees(manifest):
                modules.become(version, manifest)
                return modules
        modules = ModuleSet(
            version, manifest, self._packs.read, self, self._folder, here=self._here
        )
        self._adopt(modules)
        if not self._sets:
            # Data that came before the first version has instances of modules adopted now.
            for held in self._results():
                self._made |= {key: modules for key in list(held) if key not in self._made}
        self._sets.append(modules)
        self._show()
        return modules

    def _adopt(self, modules: ModuleSet) -> None:
        """Use the local modules that were imported before (``preload``), if they are the same.

        The process that runners are forked from may have imported them. Otherwise forget them, so
        that they are imported again.
        """
        there = {
            name: module
            for name in modules.index
            if name not in self._published and (module := sys.modules.get(name)) is not None
        }
        same = all(modules.has_same_file(name, module) for name, module in there.items())
        for name, module in there.items():
            if same and not self._sets:
                modules.modules[name] = module
                self._published.add(name)
            else:
                del sys.modules[name]

    # The version of running code

    def current(self) -> ModuleSet | None:
        """Return the modules for the running code: those of its call, or else the latest."""
        modules = _using.get()
        if modules is not None:
            return modules
        key = current_call.key_here()
        if key is not None:
            # A thread may outlive the call that has started it.
            modules = self._of_call.get(key) or self._made.get(key)
            if modules is not None:
                return modules
        if self.latest is None:
            return None
        with self._lock:
            return self._set_for(self.latest)

    @contextlib.contextmanager
    def of_result(self, key: Key) -> Iterator[None]:
        """Use the modules of the call that made a result, to pickle it."""
        with using(self._of_call.get(key) or self._made.get(key)):
            yield

    def received(self, keys: Iterable[Key]) -> None:
        """Note results and other data that were unpickled with the latest version."""
        if self.latest is not None:
            with self._lock:
                modules = self._set_for(self.latest)
                self._made.update((key, modules) for key in keys if key not in self._made)

    def converted(self, key: Key, values: Mapping[Key, Any]) -> Mapping[Key, Any]:
        """Return the inputs of a call, with instances of the classes of its own version.

        Inputs that another version has made are pickled and unpickled, if they have anything of a
        local module. Those that cannot be pickled stay as they are.
        """
        modules = self._of_call.get(key)
        found = dict(values)
        for name, value in values.items():
            if isinstance(value, Unopened):
                with using(modules):
                    found[name] = value.open()
            elif modules is not None and name not in self._plain:
                made = self._made.get(name, modules)
                if made is not modules:
                    found[name] = self._convert(name, value, made, modules)
        return found

    def _convert(self, key: Key, value: Any, made: ModuleSet, modules: ModuleSet) -> Any:
        buffers: list[pickle.PickleBuffer] = []
        try:
            with using(made):
                pickled = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
            if not any(top.encode() in pickled for top in self.tops):
                self._plain.add(key)
                return value
            with using(modules):
                return pickle.loads(pickled, buffers=buffers)
        except Exception:
            return value  # a lock, for instance

    def differs(self, key: Key) -> bool:
        """Return whether a result was made by another version than the latest."""
        modules = self._made.get(key)
        return modules is not None and self.latest not in modules.versions

    # sys.modules

    def publish(self, modules: ModuleSet, name: str, module: ModuleType) -> ModuleType:
        """Show a module in ``sys.modules``; return what is shown there."""
        with self._lock:
            self._published.add(name)
            alone = self._sets == [modules]
            shown = module if alone else self._proxy(name)
            sys.modules[name] = shown
            return shown

    def withdraw(self, modules: ModuleSet, name: str) -> None:
        """Remove a module whose import has failed."""
        with self._lock:
            if not any(name in each.modules for each in self._sets):
                sys.modules.pop(name, None)

    def import_shared(self, modules: ModuleSet, name: str) -> ModuleType:
        """Import a module that is no local one."""
        with using(modules):
            return importlib.import_module(name)

    def is_published(self, name: str) -> bool:
        """Return whether a name is, or was, that of a local module."""
        return name in self._published

    def _proxy(self, name: str) -> ModuleProxy:
        there = sys.modules.get(name)
        return there if isinstance(there, ModuleProxy) else ModuleProxy(name, self.current)

    def _show(self) -> None:
        """Show the modules of the only set in ``sys.modules``, or proxies for those of several."""
        alone = self._sets[0].modules if len(self._sets) == 1 else None
        for name in self._published:
            if alone is None:
                if any(name in each.modules for each in self._sets):
                    sys.modules[name] = self._proxy(name)
            elif name in alone:
                sys.modules[name] = alone[name]
            else:
                sys.modules.pop(name, None)


_installed: list[Versions] = []


@contextlib.contextmanager
def using(modules: ModuleSet | None) -> Iterator[None]:
    """Let code in the body use these modules."""
    token = _using.set(modules)
    try:
        yield
    finally:
        _using.reset(token)


def version_here() -> str | None:
    """Return the version for calls that the running code submits."""
    versions = installed()
    modules = None if versions is None else versions.current()
    return None if modules is None else next(iter(modules.versions))


def local_names() -> set[str] | None:
    """Return the top-level names of the local modules; None if there are none."""
    versions = installed()
    return versions.tops if versions is not None and versions.tops else None


def install(versions: Versions) -> None:
    """Make these the versions of this process."""
    _installed[:] = [versions]


def installed() -> Versions | None:
    """Return the versions of this process; None if it is no runner."""
    return _installed[0] if _installed else None

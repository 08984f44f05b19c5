"""The installed backends, by name (driver)."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from dask_flame.backends.base import Backend
from dask_flame.backends.specs import BackendContext
from dask_flame.core.backend_options import installed
from dask_flame.core.option_checks import wrong
from dask_flame.errors import BackendError, PoolError

_WANTED = "the name of a backend, or a subclass of dask_flame.backends.Backend"
_EXTRAS = {name: f"dask-flame[{name}]" for name in ("kubernetes", "fly", "ssh", "slurm")}
BackendFactory = Callable[[BackendContext], Backend]


def find_backend(name: str | BackendFactory) -> BackendFactory:
    """Return the backend of this name, from the entry points ``dask_flame.backends``.

    Parameters
    ----------
    name : str or callable
        A backend's name, or a :class:`Backend` subclass (or a function with the same argument),
        which is returned unchanged.

    Raises
    ------
    BackendError
        If there is no such backend, or it cannot be imported.
    PoolError
        If it is neither a name nor such a callable.
    """
    if callable(name):
        _check_factory(name)
        return name
    if not isinstance(name, str) or not name.strip():
        raise wrong("backend", name, _WANTED)
    found = installed(again=name not in installed())
    if name not in found:
        known = ", ".join(repr(n) for n in sorted(found)) or "none"
        raise BackendError(
            f"backend={name!r} is not known; installed: {known}; "
            'write backend="local" for processes on this machine'
        )
    try:
        factory: BackendFactory = found[name].load()
    except ImportError as error:
        extra = _EXTRAS.get(name, "dask-flame")
        raise BackendError(
            f"backend={name!r} cannot be imported ({error}); type: pip install '{extra}'"
        ) from error
    return factory


def made(factory: BackendFactory, context: BackendContext) -> Backend:
    """Create the backend.

    Raises
    ------
    PoolError
        If the factory does not return a backend.
    """
    backend = factory(context)
    if not isinstance(backend, Backend):
        raise wrong("backend", factory, _WANTED)
    return backend


def _check_factory(factory: BackendFactory) -> None:
    if isinstance(factory, type):
        _check_class(factory)
    try:
        inspect.signature(factory).bind("context")
    except TypeError:
        raise wrong("backend", factory, _WANTED) from None
    except ValueError:
        pass  # some functions written in C have no signature


def _check_class(made: type) -> None:
    if not issubclass(made, Backend) or made is Backend:
        raise wrong("backend", made, _WANTED)
    if lacking := ", ".join(sorted(made.__abstractmethods__)):
        raise PoolError(f"backend={made.__name__} lacks methods of a backend: {lacking}")

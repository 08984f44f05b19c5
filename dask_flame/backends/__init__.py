"""What boots runners: the contract, and the backends that are installed (driver)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from dask_flame.backends.base import Backend, Ended, RunnerSpec, SchedulerSpec
from dask_flame.errors import BackendError

__all__ = ["Backend", "Ended", "RunnerSpec", "SchedulerSpec", "find_backend"]

_EXTRAS = {"kubernetes": "dask-flame[kubernetes]", "fly": "dask-flame[fly]"}
BackendFactory = Callable[[str, Callable[[Ended], None]], Backend]


def find_backend(name: str | BackendFactory) -> BackendFactory:
    """The backend of this name, from the entry points ``dask_flame.backends``.

    Parameters
    ----------
    name : str or callable
        A backend's name, or a :class:`Backend` subclass (or a function with the same arguments),
        which is returned as it is.

    Raises
    ------
    BackendError
        If there is no such backend, or it cannot be imported.
    """
    if callable(name):
        return name
    found = {point.name: point for point in entry_points(group="dask_flame.backends")}
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

"""Make the keys of calls depend on the version of local modules (driver, runner).

Dask gives a call a key that depends on its function and arguments, and does not run a call whose
key it knows. It takes a function of a module for the same as long as its name is. Here the key
also depends on the version of the local modules, so that a call runs again after an edit.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from dask.tokenize import normalize_object, normalize_token

from dask_flame.core.distributed_internals import met_as_object

#: Functions that return the present versions in this process.
_versions: list[Callable[[], list[str]]] = []


def depend_on(versions: Callable[[], list[str]]) -> None:
    """Let tokens of functions, classes and other objects depend on versions from now on.

    Parameters
    ----------
    versions : callable
        Return the ids of the present versions.
    """
    if versions in _versions:
        return
    _versions.append(versions)
    if len(_versions) > 1:
        return
    # Dask remembers, for each class that it has met, the function of its base class.
    for cls in {object, type, FunctionType, *met_as_object(normalize_token, normalize_object)}:
        normalize_token.register(cls, _normalize)


def _normalize(value: Any) -> Any:
    plain = normalize_object(value)
    if hasattr(type(value), "__dask_tokenize__"):
        return plain
    present = [version for versions in _versions for version in versions()]
    return (plain, present) if present else plain

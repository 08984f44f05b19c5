"""Make the keys of calls depend on the version of local modules (driver).

Dask gives a call a key that depends on its function and arguments, and does not run a call whose
key it knows. It takes a function of a module for the same as long as its name is. Here the key
also depends on the version of the local modules, so that a call runs again after an edit.
"""

from __future__ import annotations

import functools
from types import FunctionType
from typing import Any

from dask.tokenize import normalize_object, normalize_token

from dask_flame.code.driver.local_code import tops, versions
from dask_flame.core.distributed_internals import met_as_object


@functools.cache
def depend_on_code() -> None:
    """Let tokens depend on local modules from now on; once per process."""
    # Dask remembers, for each class that it has met, the function of its base class.
    for cls in {object, type, FunctionType, *met_as_object(normalize_token, normalize_object)}:
        normalize_token.register(cls, _normalize)


def _normalize(value: Any) -> Any:
    plain = normalize_object(value)
    module = getattr(value if isinstance(value, type) else type(value), "__module__", None)
    module = getattr(value, "__module__", None) or module
    if not isinstance(module, str) or hasattr(type(value), "__dask_tokenize__"):
        return plain
    if module == "__main__" or module.partition(".")[0] in tops():
        return plain, versions()
    return plain

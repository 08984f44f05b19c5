"""Make joblib work with pools that have no runner yet (driver, and inside calls on a runner).

joblib's backend for Dask counts the workers present: on an empty pool it waits for the first
runner, counts one slot, and then runs everything locally. The backend here counts the slots that
the pool can have. It is registered under the same name, so that
``joblib.parallel_config("dask")`` works unchanged, in scikit-learn too.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def register() -> None:
    """Register this backend with joblib as ``"dask"``, now or when joblib is imported."""
    if "joblib" in sys.modules:
        _register()
    elif not any(isinstance(finder, _Imports) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Imports())


def _register() -> None:
    import_module("joblib.parallel").register_parallel_backend("dask", backend)


class _Imports(MetaPathFinder):
    """Register the backend when joblib is imported; joblib is not imported only for this."""

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "joblib":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def backend(**options: Any) -> Any:
    """Create the backend, with the options of joblib's own: ``client``, ``scatter`` and others."""
    # Imported late: its base class is in a module that imports distributed.
    from dask_flame.core.joblib_backend import FlameBackend

    return FlameBackend(**options)

"""The default backend: runners as processes of this machine (driver)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_flame._lazy import attach

if TYPE_CHECKING:
    from dask_flame.backends.local.backend import LocalBackend as LocalBackend
    from dask_flame.backends.local.options import LocalOptions as LocalOptions
    from dask_flame.backends.local.options import Options as Options

__all__ = ["LocalBackend", "LocalOptions", "Options"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "LocalBackend": "dask_flame.backends.local.backend",
        "LocalOptions": "dask_flame.backends.local.options",
        "Options": "dask_flame.backends.local.options",
    },
)

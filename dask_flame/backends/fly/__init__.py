"""The Fly backend: runners as Fly Machines (driver)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_flame._lazy import attach

if TYPE_CHECKING:
    from dask_flame.backends.fly.backend import FlyBackend as FlyBackend
    from dask_flame.backends.fly.options import FlyOptions as FlyOptions
    from dask_flame.backends.fly.options import Options as Options

__all__ = ["FlyBackend", "FlyOptions", "Options"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "FlyBackend": "dask_flame.backends.fly.backend",
        "FlyOptions": "dask_flame.backends.fly.options",
        "Options": "dask_flame.backends.fly.options",
    },
)

"""What boots runners: the contract, and the backends that are installed (driver)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_flame._lazy import attach

if TYPE_CHECKING:
    from dask_flame.backends.base import Backend as Backend
    from dask_flame.backends.base import Ended as Ended
    from dask_flame.backends.base import RunnerSpec as RunnerSpec
    from dask_flame.backends.base import SchedulerSpec as SchedulerSpec
    from dask_flame.backends.registry import find_backend as find_backend
    from dask_flame.backends.registry import made as made

__all__ = ["Backend", "Ended", "RunnerSpec", "SchedulerSpec", "find_backend", "made"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Backend": "dask_flame.backends.base",
        "Ended": "dask_flame.backends.base",
        "RunnerSpec": "dask_flame.backends.base",
        "SchedulerSpec": "dask_flame.backends.base",
        "find_backend": "dask_flame.backends.registry",
        "made": "dask_flame.backends.registry",
    },
)

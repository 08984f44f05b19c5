"""The Slurm backend: runners as jobs of a batch system (driver)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_flame._lazy import attach

if TYPE_CHECKING:
    from dask_flame.backends.slurm.backend import SlurmBackend as SlurmBackend
    from dask_flame.backends.slurm.options import Options as Options
    from dask_flame.backends.slurm.options import SlurmOptions as SlurmOptions

__all__ = ["Options", "SlurmBackend", "SlurmOptions"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Options": "dask_flame.backends.slurm.options",
        "SlurmBackend": "dask_flame.backends.slurm.backend",
        "SlurmOptions": "dask_flame.backends.slurm.options",
    },
)

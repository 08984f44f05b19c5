"""The SSH backend: runners on machines that answer to ssh (driver)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_flame._lazy import attach

if TYPE_CHECKING:
    from dask_flame.backends.ssh.backend import SshBackend as SshBackend
    from dask_flame.backends.ssh.options import Options as Options
    from dask_flame.backends.ssh.options import SshOptions as SshOptions

__all__ = ["Options", "SshBackend", "SshOptions"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Options": "dask_flame.backends.ssh.options",
        "SshBackend": "dask_flame.backends.ssh.backend",
        "SshOptions": "dask_flame.backends.ssh.options",
    },
)

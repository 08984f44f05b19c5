"""The lease: track the clients of a scheduler, keep their work, and let them reconnect.

As a preload, ``dask scheduler --preload dask_flame.lease`` gives any scheduler a lease.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_flame._lazy import attach

if TYPE_CHECKING:
    from dask_flame.lease.plugin import Lease as Lease
    from dask_flame.lease.plugin import dask_setup as dask_setup

__all__ = ["Lease", "dask_setup"]

__getattr__, __dir__ = attach(
    __name__, dict.fromkeys(("Lease", "dask_setup"), "dask_flame.lease.plugin")
)

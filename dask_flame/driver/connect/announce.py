"""Let other processes of this user observe a cluster (driver)."""

from __future__ import annotations

from distributed import Security

from dask_flame.backends.base import Backend
from dask_flame.core.connection import ConnectionInfo
from dask_flame.driver.certificates import inlined


async def announce(backend: Backend, address: str, security: Security) -> None:
    """Have the backend make known how to connect to a scheduler in this process.

    Parameters
    ----------
    backend : Backend
    address : str
        The scheduler's.
    security : distributed.Security
    """
    given = inlined(security) if security.require_encryption else {}
    await backend.announce(ConnectionInfo(address=address, security=given))

"""Find a cluster by its name, and open a connection to it (driver)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distributed import Security
from distributed.comm import connect
from distributed.core import rpc

from dask_flame.backends.inspector import ClusterListing, Entrance, Inspector
from dask_flame.backends.registry import find_backend
from dask_flame.core import config
from dask_flame.core.messages import WHO
from dask_flame.errors import BackendError


@dataclass(frozen=True, kw_only=True)
class Door:
    """An open way to a cluster.

    Attributes
    ----------
    backend : str or callable
    cluster : ClusterListing
    entrance : Entrance
    security : distributed.Security
    """

    backend: Any
    cluster: ClusterListing
    entrance: Entrance
    security: Security

    @property
    def connection_args(self) -> Any:
        """Arguments for a connection to the scheduler."""
        return self.security.get_connection_args("client")

    async def check(self, timeout: float) -> None:
        """Raise a BackendError if the scheduler does not answer in time.

        A Client would wait without a limit for a process that is suspended.
        """
        try:
            async with asyncio.timeout(timeout):
                comm = await connect(self.entrance.address, timeout=timeout, **self.connection_args)
                comm.abort()
        except OSError as error:
            raise BackendError(
                f"the scheduler of {self.cluster.id} does not answer within timeout={timeout:g} s: "
                f"{str(error) or 'it may be suspended'}"
            ) from error

    async def driver(self) -> Mapping[str, Any] | None:
        """Return who drives the cluster; None if its scheduler is in its driver.

        Returns
        -------
        mapping
            ``who``: host and process, empty if there is none; ``left``: the seconds after which the
            cluster then ends, else None; ``grace``: its ``disconnect_grace``.
        """
        if not self.entrance.connection.key:
            return None
        async with rpc(self.entrance.address, connection_args=self.connection_args) as scheduler:
            answer: Mapping[str, Any] = await getattr(scheduler, WHO)()
            return answer


async def open_door(
    stack: contextlib.AsyncExitStack, name: str, backend: Any, where: Mapping[str, str]
) -> Door:
    """Find a cluster, and open a way to its scheduler that `stack` closes.

    Parameters
    ----------
    stack : contextlib.AsyncExitStack
    name : str
        Its name or its id.
    backend : str or callable, optional
    where : mapping of str to str
        The options ``namespace``, ``context`` and ``app`` that were given.

    Raises
    ------
    BackendError
    """
    chosen = config.get("backend") if backend is None else backend
    factory = find_backend(chosen)
    if not hasattr(factory, "inspector"):
        raise BackendError(f"backend={chosen!r} cannot be asked for its clusters")
    inspector = await stack.enter_async_context(factory.inspector(**where))
    found = _named(name, await inspector.clusters(), chosen)
    return await door_of(stack, inspector, found, chosen)


async def door_of(
    stack: contextlib.AsyncExitStack, inspector: Inspector, cluster: ClusterListing, backend: Any
) -> Door:
    """Open a way to the scheduler of a cluster, which `stack` closes.

    Raises
    ------
    BackendError
    """
    entrance = await inspector.enter(cluster)
    stack.push_async_callback(entrance.close)
    security = Security(**entrance.connection.security)
    return Door(backend=backend, cluster=cluster, entrance=entrance, security=security)


def _named(name: str, clusters: Sequence[ClusterListing], backend: Any) -> ClusterListing:
    found = [c for c in clusters if c.id == name] or [c for c in clusters if c.name == name]
    found = [c for c in found if c.state != "orphaned"] or found
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(f'connect("{cluster.id}")' for cluster in found)
        raise BackendError(f"several clusters are called {name}; write one of: {ids}")
    there = ", ".join(cluster.id for cluster in clusters) or "none"
    raise BackendError(
        f"there is no cluster {name} with backend={backend!r}; there are: {there}. A cluster ends "
        "disconnect_grace after its driver, with all its results. For one elsewhere, write "
        f'connect("{name}", backend="kubernetes")'
    )

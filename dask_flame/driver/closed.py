"""Raise a clear error when a closed cluster or one of its Clients is used (driver).

Distributed raises ``RuntimeError: IOLoop is closed``.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

from distributed import Client

from dask_flame.core.distributed_internals import replace
from dask_flame.errors import ClosedError


class Closable(Protocol):
    """A cluster that may have ended.

    Attributes
    ----------
    name : str
    over : str
        Why it ended; empty if the user closed it.
    """

    over: str

    @property
    def name(self) -> str: ...


def closed(name: str, why: str = "") -> ClosedError:
    """Return the error for the use of a cluster after its end.

    Parameters
    ----------
    name : str
        Name of the cluster.
    why : str, default ""
        Why it ended; empty if the user closed it.
    """
    ended = f"has ended: {why}" if why else "is closed"
    return ClosedError(
        f"the cluster {name} {ended}; gather results before you close a cluster. "
        "cluster.reports and cluster.events can still be read. Make a new one: "
        "client = Client(FlameCluster(max=8))"
    )


def answer_for_closed(kind: type[Closable]) -> None:
    """Make all Clients of this process raise ClosedError after a cluster of class `kind` closed."""
    if hasattr(Client.sync, "dask_flame"):
        return
    sync = Client.sync

    @functools.wraps(sync)
    def checked(self: Client, *args: Any, **kwargs: Any) -> Any:
        cluster = self.cluster
        if isinstance(cluster, kind) and self.loop.asyncio_loop.is_closed():
            raise closed(cluster.name, cluster.over)
        return sync(self, *args, **kwargs)

    checked.dask_flame = True  # type: ignore[attr-defined]
    replace(Client, "sync", checked)

"""What is asked of a closed cluster, or of its Clients, is answered in plain words (driver).

distributed's own is ``RuntimeError: IOLoop is closed``.
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
        Why it has ended; empty where somebody has closed it.
    """

    over: str

    @property
    def name(self) -> str: ...


def closed(name: str, why: str = "") -> ClosedError:
    """Make the error for what comes after a cluster's end.

    Parameters
    ----------
    name : str
        The cluster's.
    why : str
        Why it has ended; empty where somebody has closed it.
    """
    ended = f"has ended: {why}" if why else "is closed"
    return ClosedError(
        f"the cluster {name} {ended}; what is wanted of it later is gathered before, and "
        "cluster.reports and cluster.events can still be read. Make a new one: "
        "client = Client(FlameCluster(max=8))"
    )


def answer_for_closed(kind: type[Closable]) -> None:
    """Have the Clients of this process say so once their cluster, of this class, has closed."""
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

"""What is asked of a closed cluster, or of its Clients, is answered in plain words (driver).

distributed's own is ``RuntimeError: IOLoop is closed``.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from distributed import Client

from dask_flame.core.distributed_internals import replace
from dask_flame.errors import ClosedError

if TYPE_CHECKING:
    from dask_flame.driver.pools_api import PoolsApi


def closed(cluster: PoolsApi, why: str = "") -> ClosedError:
    """Make the error for what comes after a cluster's end, for whatever reason it has ended."""
    ended = f"has ended: {why}" if why else "is closed"
    return ClosedError(
        f"the cluster {cluster.name} {ended}; what is wanted of it later is gathered before, and "
        "cluster.reports and cluster.events can still be read. Make a new one: "
        "client = Client(FlameCluster(max=8))"
    )


def answer_for_closed() -> None:
    """Let the Clients of this process say so once their FlameCluster has closed."""
    if hasattr(Client.sync, "dask_flame"):
        return
    sync = Client.sync

    @functools.wraps(sync)
    def checked(self: Client, *args: Any, **kwargs: Any) -> Any:
        # Imported here, as it imports this.
        from dask_flame.driver.cluster import FlameCluster

        if isinstance(self.cluster, FlameCluster) and self.loop.asyncio_loop.is_closed():
            raise closed(self.cluster, self.cluster.over)
        return sync(self, *args, **kwargs)

    checked.dask_flame = True  # type: ignore[attr-defined]
    replace(Client, "sync", checked)

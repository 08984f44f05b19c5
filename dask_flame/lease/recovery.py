"""``dask_flame.recover``: the futures of a driver that is gone (driver)."""

from __future__ import annotations

from typing import Any

from distributed import Client, Future, get_client

from dask_flame.core import distributed_internals as internals
from dask_flame.core.messages import LEASE, RECOVER
from dask_flame.core.option_checks import shown
from dask_flame.errors import FlameError


def recover(client: Client | None = None) -> Any:
    """Return the futures that the driver before this one had.

    Parameters
    ----------
    client : distributed.Client, optional
        That of :func:`connect`; by default the current client.

    Returns
    -------
    dict of Key to Future
        In the order in which the calls were submitted.
        Calls that run go on, results that are there are not computed again, and errors are as they
        were. A second call returns those of them that this client still has. For an observer, the
        futures of the present drivers. Empty if no driver has been replaced. With an asynchronous
        client: an awaitable of it.

    Raises
    ------
    FlameError
        There is no client, or its scheduler has no lease.

    Notes
    -----
    The futures of the driver before are kept until they are recovered, or the cluster ends. If you
    do not need them, call ``recover()`` and drop what it returns.

    Examples
    --------
    >>> dask_flame.recover(client)
    {}
    """
    if client is None:
        try:
            client = get_client()
        except ValueError:
            raise FlameError(
                'there is no Dask client; write dask_flame.connect("NAME", adopt=True) before'
            ) from None
    if not isinstance(client, Client):
        raise TypeError(
            f"client={shown(client)} is not a distributed.Client; write "
            'client = dask_flame.connect("NAME", adopt=True)'
        )
    return client.sync(_recover, client)


async def _recover(client: Client) -> dict[Any, Future]:
    # Read the event log first: a stock scheduler logs a warning about an unknown request.
    events = await client.scheduler.events(topic=LEASE)
    if not events or not events[-1][1]["in-force"]:
        raise FlameError(
            "the scheduler of this client has no lease, so it keeps nothing of a driver that is "
            "gone; write client.register_plugin(dask_flame.Lease())"
        )
    keys = await getattr(client.scheduler, RECOVER)(client=client.id)
    futures = {key: Future(key, client) for key in keys}
    if (link := client.extensions.get(LEASE)) is not None and link.on:
        # The scheduler answers for each future, also for one that was released meanwhile.
        await link.tell()
    elif keys:
        internals.send_to_scheduler(client, {"op": "client-desires-keys", "keys": keys})
    return futures

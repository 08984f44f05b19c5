"""Transfer data between runners and a Client in the scheduler's process directly (driver).

In stock Dask, gathered and scattered data pass through the scheduler. If the scheduler runs in the
Client's process, on the same event loop, the data would go through a connection from a thread to
itself: each byte is copied two more times, memory use doubles, and the loop is blocked. The option
``direct_to_workers`` avoids this, but then ``scatter`` does not wait for a runner to boot.
"""

from __future__ import annotations

import asyncio
import pickle
import random
from collections.abc import Awaitable, Callable
from typing import Any

from distributed import Client, Scheduler, Status
from distributed.core import send_recv

from dask_flame.core.messages import INLINE

Request = Callable[..., Awaitable[Any]]


def scheduler_beside(client: Client) -> Scheduler | None:
    """Return the scheduler if it runs on this Client's event loop, else None."""
    scheduler = getattr(client.cluster, "scheduler", None)
    if not isinstance(scheduler, Scheduler) or scheduler.address != client.scheduler.address:
        return None
    return scheduler if scheduler.loop.asyncio_loop is client.loop.asyncio_loop else None


def straight_gather(client: Client, request: Request) -> Request:
    """Return a replacement of ``gather`` that reads results directly from runners.

    Parameters
    ----------
    client : distributed.Client
    request : callable
        The scheduler's ``gather`` RPC. It is called for the results that could not be read
        directly because their runner is lost or busy; it tries other runners and reports the
        missing results.

    Returns
    -------
    callable
        ``request`` itself if the scheduler does not run on the Client's event loop.
    """
    scheduler = scheduler_beside(client)
    if scheduler is None:
        return request

    async def gather(*, keys: list[Any], **kwargs: Any) -> dict[str, Any]:
        data = _inline(client, scheduler, keys)
        if len(data) < len(keys):
            elsewhere = [key for key in keys if key not in data]
            data.update(await _from_runners(client, scheduler, elsewhere))
        missing = [key for key in keys if key not in data]
        if not missing:
            scheduler.log_event("all", {"action": "gather", "count": len(keys)})
            return {"status": "OK", "data": data}
        response: dict[str, Any] = await request(keys=missing, **kwargs)
        if response["status"] == "OK":
            response["data"].update(data)
        return response

    return gather


def straight_scatter(client: Client, request: Request) -> Request:
    """Return a replacement of ``scatter`` that sends data directly to runners.

    Parameters
    ----------
    client : distributed.Client
    request : callable
        The scheduler's ``scatter`` RPC.

    Returns
    -------
    callable
        ``request`` itself if the scheduler does not run on the Client's event loop.
    """
    scheduler = scheduler_beside(client)
    if scheduler is None or client.scheduler.serializers is not None:
        # The serializers of a Client apply to its own connections only.
        return request
    handler: Request = scheduler.handlers["scatter"]
    return handler


def _inline(client: Client, scheduler: Scheduler, keys: list[Any]) -> dict[Any, Any]:
    """Return the small results of which the scheduler has copies."""
    copies = scheduler.extensions.get(INLINE)
    if copies is None or client.rpc.deserializers is not None:
        return {}
    try:
        return {key: pickle.loads(data) for key, data in copies.pickled(keys).items()}
    except Exception:
        return {}  # NumPy may be missing here: the runner's answer raises the same error


async def _from_runners(client: Client, scheduler: Scheduler, keys: list[Any]) -> dict[Any, Any]:
    """Return the results that could be read from runners."""
    if scheduler.status is not Status.running:
        return {}
    places: dict[str, list[Any]] = {}
    for key, holders in scheduler.get_who_has(keys).items():
        if holders:
            places.setdefault(random.choice(holders), []).append(key)
    answers = await asyncio.gather(
        *(_ask(client, address, of) for address, of in places.items()),
        return_exceptions=True,
    )
    data: dict[Any, Any] = {}
    for answer in answers:
        if isinstance(answer, OSError):
            continue  # the runner has ended or is ending
        if isinstance(answer, BaseException):
            raise answer  # its data cannot be unpickled here
        data.update(answer.get("data", {}))
    return data


async def _ask(client: Client, address: str, keys: list[Any]) -> dict[str, Any]:
    """Ask a runner for results, and return its answer.

    distributed's ``get_data_from_worker`` does not confirm an answer that cannot be unpickled, so
    the runner would take the next request on this connection for the confirmation.
    """
    pool = client.rpc
    comm = await pool.connect(address)
    try:
        try:
            answer: dict[str, Any] = await send_recv(
                comm,
                op="get_data",
                keys=keys,
                who=None,
                serializers=pool.serializers,
                deserializers=pool.deserializers,
            )
        except Exception:
            if not comm.closed():
                await comm.write("OK")
            raise
        if answer["status"] == "OK":
            await comm.write("OK")
        return answer
    finally:
        pool.reuse(address, comm)

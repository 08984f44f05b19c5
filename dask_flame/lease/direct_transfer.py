"""A Client beside its scheduler has its data from runners, and sends it there, itself (driver).

Stock Dask moves what a Client gathers and scatters by way of the scheduler. Where that is in the
Client's own process, on the same event loop, it means a connection of a thread to itself: each byte
is copied twice more, into memory that is twice as much, and nothing else is done meanwhile. With
``direct_to_workers`` it goes straight, but then nobody who scatters waits for a runner to boot.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from distributed import Client, Scheduler, Status
from distributed.core import send_recv

Request = Callable[..., Awaitable[Any]]


def scheduler_beside(client: Client) -> Scheduler | None:
    """The scheduler of this Client, where it runs on the Client's own event loop."""
    scheduler = getattr(client.cluster, "scheduler", None)
    if not isinstance(scheduler, Scheduler) or scheduler.address != client.scheduler.address:
        return None
    return scheduler if scheduler.loop.asyncio_loop is client.loop.asyncio_loop else None


def straight_gather(client: Client, request: Request) -> Request:
    """What asks for results without asking the scheduler's side of a connection for them.

    Parameters
    ----------
    client : distributed.Client
    request : callable
        The scheduler's ``gather``, over a connection: asked for what does not come this way, since
        its runner is gone or busy. It then looks further, and says what is lost.

    Returns
    -------
    callable
        ``request`` itself, where the scheduler is not beside the Client.
    """
    scheduler = scheduler_beside(client)
    if scheduler is None:
        return request

    async def gather(*, keys: list[Any], **kwargs: Any) -> dict[str, Any]:
        data = await _from_runners(client, scheduler, keys)
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
    """What has the scheduler send data to runners without sending it to the scheduler.

    Parameters
    ----------
    client : distributed.Client
    request : callable
        The scheduler's ``scatter``, over a connection.

    Returns
    -------
    callable
        ``request`` itself, where the scheduler is not beside the Client.
    """
    scheduler = scheduler_beside(client)
    if scheduler is None or client.scheduler.serializers is not None:
        # Serializers that a Client is given hold for its own connections.
        return request
    handler: Request = scheduler.handlers["scatter"]
    return handler


async def _from_runners(client: Client, scheduler: Scheduler, keys: list[Any]) -> dict[Any, Any]:
    """What can be had of these results."""
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
            continue  # gone, or about to go
        if isinstance(answer, BaseException):
            raise answer  # what it sent cannot be read here
        data.update(answer.get("data", {}))
    return data


async def _ask(client: Client, address: str, keys: list[Any]) -> dict[str, Any]:
    """What a runner says when it is asked for results.

    Not distributed's ``get_data_from_worker``, which leaves the runner waiting for an answer when
    what it sent cannot be unpickled here: the next question on the connection was taken for it.
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

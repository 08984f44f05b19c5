"""Cancel the call that a request waits for when its client hangs up (driver)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol, TypeVar

from dask_flame.errors import FlameError

T = TypeVar("T")


class Receiving(Protocol):
    """What :func:`while_connected` needs of a request."""

    @property
    def receive(self) -> Callable[[], Awaitable[MutableMapping[str, Any]]]:
        """The ASGI application's function ``receive``."""


async def while_connected(request: Receiving, work: Awaitable[T]) -> T:
    """Await something for a request, and cancel it if the request's client hangs up.

    Web servers do not cancel the code of a request whose client is gone: without this, the call
    runs on for nobody.

    Parameters
    ----------
    request : starlette.requests.Request
        A request of FastAPI or Starlette, or any object with the ASGI function ``receive``. Its
        body must have been read.
    work : awaitable
        Such as ``dask_flame.call(...)`` with an asynchronous client.

    Returns
    -------
    object
        The result of `work`.

    Raises
    ------
    ConnectionAbortedError
        The client hung up. `work` has been cancelled, and has ended.
    FlameError
        `work` cannot be awaited.

    Notes
    -----
    If this is cancelled itself, as when the server shuts down, `work` is cancelled as well.

    Examples
    --------
    >>> @app.post("/thumbnails")                                        # doctest: +SKIP
    ... async def thumbnails(request: Request) -> list[bytes]:
    ...     film = await request.body()
    ...     return await while_connected(request, dask_flame.call(make_thumbnails, film))
    """
    if not inspect.isawaitable(work):
        raise FlameError(
            f"a {type(work).__name__} cannot be awaited: the Client is synchronous, and the call "
            "has blocked the server; write Client(cluster, asynchronous=True), and for the cluster "
            "async with FlameCluster(max=8, asynchronous=True)"
        )
    working = asyncio.ensure_future(work)
    hanging_up = asyncio.ensure_future(_hang_up(request.receive))
    try:
        await asyncio.wait({working, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        unfinished = [task for task in (working, hanging_up) if not task.done()]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
    if working in unfinished:
        hanging_up.result()  # the error of `receive`, if it failed
        raise ConnectionAbortedError("the client of this request hung up")
    return working.result()


async def _hang_up(receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

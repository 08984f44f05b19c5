"""Report clusters of this user that still live although their drivers are gone (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any

from dask_flame.backends.base import Backend
from dask_flame.backends.registry import find_backend
from dask_flame.core import config
from dask_flame.core.connection import this_user
from dask_flame.driver.connect.entrance import door_of

logger = logging.getLogger("dask_flame")

#: Seconds for the whole search, and for one cluster.
_WITHIN, _EACH = 30.0, 10.0
#: Maximum number of clusters to ask.
_MOST = 5


@contextlib.asynccontextmanager
async def reporting_left(backend: Backend) -> AsyncIterator[None]:
    """Look for clusters of this backend that can be adopted, beside what happens inside."""
    looking = asyncio.ensure_future(report_left(backend.name, backend.context.places))
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def report_left(backend: Any, where: Mapping[str, str]) -> None:
    """Log a line for each cluster that can be adopted; do nothing if that cannot be found out."""
    try:
        async with asyncio.timeout(_WITHIN):
            await _report(backend, where)
    except Exception as error:
        logger.debug("clusters without a driver were not looked for: %r", error)


async def _report(backend: Any, where: Mapping[str, str]) -> None:
    factory = find_backend(backend)
    if not getattr(factory, "adopts", False):
        return
    async with factory.inspector(**where) as inspector:  # type: ignore[attr-defined]
        me = this_user()
        mine = [c for c in await inspector.clusters() if c.made_by == me and c.state == "live"]
        for cluster in mine[-_MOST:]:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_EACH), contextlib.AsyncExitStack() as stack:
                    driver = await (await door_of(stack, inspector, cluster, backend)).driver()
                    if driver is not None and driver["left"] is not None:
                        logger.warning(
                            "cluster %s still lives, without a driver (it ends in %.0f s); to go "
                            'on with it: client = dask_flame.connect("%s", adopt=True%s)',
                            cluster.name,
                            driver["left"],
                            cluster.id,
                            _words(backend, where),
                        )


def _words(backend: Any, where: Mapping[str, str]) -> str:
    """Return the arguments of ``connect`` that are not the configured ones."""
    given = {
        name: value for name, value in where.items() if config.get(f"{backend}.{name}") != value
    }
    if backend != config.get("backend"):
        given = {"backend": backend, **given}
    return "".join(f', {name}="{value}"' for name, value in given.items())


def report_left_in_background() -> None:
    """Look for clusters of the configured backend, in a thread that keeps no process alive."""
    backend = config.get("backend")
    if isinstance(backend, str) and backend != "local":
        look = report_left(backend, {})
        threading.Thread(target=asyncio.run, args=(look,), name="flame-left", daemon=True).start()

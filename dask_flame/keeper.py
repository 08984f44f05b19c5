"""Watches over a driver in a cluster: ``python -m dask_flame.keeper FILE`` (a pod of its own).

Kubernetes deletes what a Job owns when the Job has ended and is deleted. So all that a driver makes
is owned by a Job whose one pod does nothing but hold a connection to the driver's scheduler, and
ends when that has been gone for the grace. A notebook's kernel may die, and its pod live on: what
the kernel had made goes all the same, runners that have ended included.

FILE has, as JSON, the ``scheduler``'s address, the ``security`` of a worker, and the ``grace`` in
seconds. It may come late; where it does not come, the driver has died before it could write it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from distributed.comm import connect
from distributed.security import Security

#: Seconds between attempts to reach a scheduler that is gone, or not there yet.
_PAUSE = 1.0
#: Seconds to wait for the orders. A node looks once in a minute or two for a Secret that was not
#: there when the pod started.
_PATIENCE = 240.0


async def keep(orders: dict[str, Any]) -> None:
    """Return when the scheduler has been out of reach for the grace."""
    security = Security(**orders["security"]) if orders["security"] else Security()
    arguments = security.get_connection_args("worker")
    seen = time.monotonic()
    while time.monotonic() < seen + orders["grace"]:
        with contextlib.suppress(OSError):
            comm = await connect(orders["scheduler"], timeout=_PAUSE, **arguments)
            try:
                # Nothing comes; distributed has the kernel look after connections that are silent.
                await comm.read()
            except OSError:
                pass
            finally:
                comm.abort()
                seen = time.monotonic()
        await asyncio.sleep(_PAUSE)


def main(argv: list[str]) -> None:
    """Keep until the driver is gone."""
    file = Path(argv[0])
    until = time.monotonic() + _PATIENCE
    while not file.exists():
        if time.monotonic() > until:
            return
        time.sleep(_PAUSE)
    asyncio.run(keep(json.loads(file.read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])

"""A driver with two runners that waits to be killed (driver).

``python -m dask_flame.testing.conformance_driver MODULE:NAME`` takes the backend from there.
"""

from __future__ import annotations

import asyncio
import os
import sys
from importlib import import_module
from operator import attrgetter
from typing import Any

from distributed import Client

from dask_flame.testing.conformance import MARK, staged, start_a_process
from dask_flame.testing.written_files import WrittenFiles


async def main(factory: Any, token: str) -> None:
    """Boot a runner whose call has started a process, and one that has only been requested."""
    more = {
        "env": {MARK: token},
        "config": {"flame-conformance": {"canary": token}},
        # A runner that cannot connect ends by itself, but not while the test waits.
        "boot_timeout": 900.0,
    }
    async with staged(factory) as stage:
        await stage.backend.boot([stage.spec("one", **more)])
        await stage.registered("one")
        async with Client(stage.scheduler.address, asynchronous=True) as client:
            apart = not stage.backend.remote
            await client.submit(start_a_process, token, apart=apart, pure=False)
            await stage.backend.boot([stage.spec("late", **more)])
            print("\nready", flush=True)
            await asyncio.sleep(900)


if __name__ == "__main__":
    os.environ.pop("DASK_INTERNAL_INHERIT_CONFIG", None)  # Dask has read it
    _module, _, _name = sys.argv[1].partition(":")
    with WrittenFiles(report=True):
        asyncio.run(main(attrgetter(_name)(import_module(_module)), os.environ[MARK]))

"""The process of a scheduler apart from its driver: who comes to it, and when."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from distributed import Scheduler, SchedulerPlugin, Security
from distributed.comm import connect
from distributed.protocol import pickle

from dask_flame import Pool
from dask_flame._version import __version__
from dask_flame.core.channel import Channel
from dask_flame.core.messages import DRIVER
from dask_flame.driver.certificates import inlined
from dask_flame.remote.server import SchedulerServer

pytestmark = pytest.mark.process

HEARD = ("state", "event", "reports", "prints", "resized", "over", "boot", "end", "list", "logs")


def orders(security: Security, scratch: Path) -> dict[str, Any]:
    options = {
        "pools": {"default": Pool(max=1)},
        "scheduler": "driver",
        "name": "mine",
        "disconnect_grace": 10.0,
        "dashboard_address": None,
    }
    return {
        "grace": 10.0,
        "silence": 60.0,
        "security": inlined(security),
        "config": {},
        "listening": {"host": "127.0.0.1", "port": 0},
        "cluster": base64.b64encode(pickle.dumps(options)).decode(),
        "scratch": str(scratch),
    }


class Holds(SchedulerPlugin):
    """Holds the scheduler's start up, once it listens."""

    name = "holds"

    def __init__(self) -> None:
        self.listens: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.may_go_on = asyncio.Event()

    async def start(self, scheduler: Scheduler) -> None:
        self.listens.set_result(scheduler.address)
        await self.may_go_on.wait()


@pytest.mark.asyncio
async def test_a_driver_that_comes_as_soon_as_the_port_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    security = Security.temporary()
    head, holds = SchedulerServer(orders(security, tmp_path)), Holds()
    plugins = head.cluster.print_plugins
    monkeypatch.setattr(head.cluster, "print_plugins", lambda: [*plugins(), holds])
    running = asyncio.create_task(head.run())
    comm = await connect(await holds.listens, **security.get_connection_args("client"))
    await comm.write({"op": DRIVER, "reply": False, "version": __version__})
    met = asyncio.Event()
    heard: dict[str, Any] = dict.fromkeys(HEARD, lambda **values: None)
    link = Channel({**heard, "hello": lambda **values: met.set()}, silence=60)
    serving = asyncio.create_task(link.serve(comm))
    await asyncio.sleep(0.1)  # all that it has said is there, and nobody reads it yet
    holds.may_go_on.set()
    try:
        await asyncio.wait_for(met.wait(), 20)
        # All is there that it may speak of by now.
        assert (
            await asyncio.wait_for(link.ask("resize", pool="default", changes={}, text=""), 20)
            is None
        )
        link.send("close")
        await asyncio.wait_for(running, 20)
    finally:
        running.cancel()
        await link.close()
        await asyncio.gather(running, serving, return_exceptions=True)

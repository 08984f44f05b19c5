"""Lines about a cluster appear under the notebook cell that runs, in a real kernel."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from tests.support.paths import ROOT

pytestmark = pytest.mark.process

MAKE = """
import os, signal, time
from distributed import Client
from dask_flame import FlameCluster

cluster = FlameCluster(max=1, dashboard_address=None, boot_attempts=1)
client = Client(cluster)
client.submit(int).result()
"""
MAKE_ASYNCHRONOUS = """
import os, signal, time
from distributed import Client
from dask_flame import FlameCluster

cluster = await FlameCluster(max=1, dashboard_address=None, asynchronous=True)
client = await Client(cluster, asynchronous=True)
await client.submit(int)
"""
#: Wait for the line about the lost runner, which is an event at the same time.
LOSE = """
def die():
    print("about to die", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)

future = client.submit(die)
while not any("SIGSEGV" in str(event) for event in cluster.events):
    AWAIT
"""
CLOSE = {
    True: "await client.close(); await cluster.close()",
    False: "client.close(); cluster.close()",
}


@pytest.fixture
def kernel() -> Iterator[Any]:
    manager = KernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = sys.executable
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    manager.start_kernel(env={**os.environ, "PYTHONPATH": path})
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


def run(kernel: Any, code: str) -> str:
    """Run a cell; return what appears under it until it ends."""
    found: list[str] = []

    def add(message: Any) -> None:
        if message["msg_type"] == "stream":
            found.append(message["content"]["text"])

    reply = kernel.execute_interactive(code, timeout=90, output_hook=add)
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(found)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_lost_runner_is_said_under_the_cell_that_runs(kernel: Any, asynchronous: bool) -> None:
    assert run(kernel, MAKE_ASYNCHRONOUS if asynchronous else MAKE) == ""
    assert run(kernel, "1 + 1") == ""
    wait = "import asyncio; await asyncio.sleep(0.1)" if asynchronous else "time.sleep(0.1)"
    text = run(kernel, LOSE.replace("AWAIT", wait) + wait + "\n")
    assert "lost: runner-1: killed by SIGSEGV" in text
    assert "about to die" in text
    run(kernel, CLOSE[asynchronous])

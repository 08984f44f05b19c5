"""Lines about a cluster appear under the notebook cell that runs, in a real kernel."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
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
#: Wait until both lines have appeared.
LOSE = """
def die():
    print("about to die", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)

future = client.submit(die)
while not os.path.exists(SEEN):
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


def run(kernel: Any, code: str, *wanted: str, seen: Path | None = None) -> str:
    """Run a cell; return what appears under it until it ends.

    A file is made once all that is wanted has appeared, so that the cell can wait for it.
    """
    found: list[str] = []

    def add(message: Any) -> None:
        if message["msg_type"] == "stream":
            found.append(message["content"]["text"])
            if seen is not None and all(text in "".join(found) for text in wanted):
                seen.touch()

    reply = kernel.execute_interactive(code, timeout=90, output_hook=add)
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(found)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_lost_runner_is_said_under_the_cell_that_runs(
    kernel: Any, asynchronous: bool, tmp_path: Path
) -> None:
    assert run(kernel, MAKE_ASYNCHRONOUS if asynchronous else MAKE) == ""
    assert run(kernel, "1 + 1") == ""
    wait = "import asyncio; await asyncio.sleep(0.1)" if asynchronous else "time.sleep(0.1)"
    lines, seen = ("lost: runner-1: killed by SIGSEGV", "about to die"), tmp_path / "seen"
    code = LOSE.replace("AWAIT", wait).replace("SEEN", repr(str(seen)))
    text = run(kernel, code, *lines, seen=seen)
    assert all(line in text for line in lines)
    run(kernel, CLOSE[asynchronous])

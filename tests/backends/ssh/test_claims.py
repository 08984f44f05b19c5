"""Shares of a host are taken until the runners that have them have ended."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from dask_flame.backends.ssh.agent import PREFIX
from dask_flame.backends.ssh.claims import ENDING, Capacity, Claims, Need
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="shares are counted on Linux only"),
]
_BEGIN = {
    "op": "begin",
    "mark": "claims-0000",
    "lease": 600,
    "capacity": {"slots": 0, "cpus": 1, "memory": 0, "gpus": []},
    "address": "",
    "kind": None,
}


@pytest.fixture
def agent() -> Iterator[subprocess.Popen[bytes]]:
    """An agent whose supervisor has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from dask_flame.backends.ssh.agent import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(json.dumps(_BEGIN).encode() + b"\n")
        process.stdin.flush()
        lines = iter(process.stdout.readline, b"")
        assert any(line.startswith(PREFIX.encode()) and b'"hello"' in line for line in lines)
        yield process
        process.stdin.close()


def test_nothing_is_given_away_before_the_runners_of_a_killed_agent_have_ended(
    agent: subprocess.Popen[bytes],
) -> None:
    # Others on this machine may have taken whole cores.
    small = Need(cpus=0.001)
    with contextlib.closing(Claims("another", Capacity(cpus=1e6))) as claims:
        wait_for(lambda: claims.take("before", small)[1] == "", what="room beside a living agent")
        (supervisor,) = psutil.Process(agent.pid).children()
        supervisor.suspend()
        try:
            agent.kill()
            agent.wait()
            assert claims.take("too-early", small) == ((), ENDING)
            assert claims.others() == claims.capacity.all
        finally:
            supervisor.send_signal(signal.SIGCONT)
        wait_for(lambda: claims.take("later", small)[1] == "", what="room, as all have ended")

"""However a driver or a connection ends, nothing of the cluster is left on the host."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dask.config
import psutil
import pytest
from distributed import Client

from dask_flame import FlameCluster
from dask_flame.backends.specs import RunnerSpec
from dask_flame.backends.ssh import SshBackend
from dask_flame.testing.conformance import Said
from tests.support.sshd import SshClient, Sshd, needs_sshd
from tests.support.waiting import until, wait_for

pytestmark = [pytest.mark.process, needs_sshd]
DRIVER = Path(__file__).with_name("driver.py")


@pytest.fixture(params=["forward", "direct"])
def driver(
    ssh: Sshd, ssh_client: SshClient, request: pytest.FixtureRequest
) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, str(DRIVER), str(ssh_client.config), "host1", request.param]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        # Both calls are running, and have printed where.
        begun = (line for line in iter(process.stdout.readline, b"") if b"] begun " in line)
        assert len(list(itertools.islice(begun, 2))) == 2
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_driver_that_is_killed_leaves_nothing(ssh: Sshd, driver: subprocess.Popen[bytes]) -> None:
    assert len(ssh.left()) >= 7  # agent, supervisor, template, runners, what they started, folder
    driver.kill()
    wait_for(lambda: not ssh.left(), what=f"nothing is left: {ssh.left()}")


def _agents(ssh: Sshd) -> list[psutil.Process]:
    """Return the agents on a host."""
    found = []
    for process in psutil.process_iter():
        try:
            if f"TMPDIR={ssh.temporary}".encode() in _read(f"/proc/{process.pid}/environ"):
                words = process.cmdline()
                if len(words) == 3 and words[1] == "-c" and "b64decode" in words[2]:
                    found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


@pytest.mark.parametrize("what", ["sessions", "agent", "supervisor"])
def test_what_is_killed_on_the_host_takes_all_with_it_and_calls_run_again(
    ssh: Sshd, what: str
) -> None:
    with (
        FlameCluster(backend="ssh", reach="forward", max=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        future = client.submit(_starts, pure=False)
        before, started = future.result()
        (agent,) = _agents(ssh)
        supervisor = next(p for p in agent.children() if "supervisor" in " ".join(p.cmdline()))
        if what == "sessions":
            ssh.kill_sessions()
        else:
            (agent if what == "agent" else supervisor).kill()
        wait_for(lambda: "host1 was lost: " in _events(cluster), what="the host is lost")
        # The next agent is another one, with another folder.
        after, _ = client.submit(_starts, pure=False).result()
        assert after != before
        wait_for(lambda: not Path(before).exists(), what="its folder is removed")
        wait_for(lambda: not psutil.pid_exists(started), what="what a call has started is ended")
        assert supervisor not in psutil.process_iter()
    wait_for(lambda: not ssh.left(), what=f"nothing is left: {ssh.left()}")


def _events(cluster: FlameCluster) -> str:
    return " ".join(str(event) for event in cluster.events)


def _starts() -> tuple[str, int]:
    """Return the folder of this runner, and a process that does not end with it by itself."""
    import os
    import subprocess

    left = subprocess.Popen(["sleep", "600"], start_new_session=True)
    return os.environ["TMPDIR"], left.pid


@pytest.mark.asyncio
async def test_a_frozen_connection_ends_on_both_sides(ssh: Sshd) -> None:
    said = Said()
    with dask.config.set({"flame.ssh.silence": "4s", "flame.ssh.reach": "forward"}):
        backend = SshBackend(said.context)
        spec = RunnerSpec(
            name="one", scheduler="tcp://127.0.0.1:1", concurrency=1, boot_timeout=600
        )
        backend.expect([spec])
        await backend.start()
        try:
            await backend.boot([spec])
            await until(lambda: said.steps, what="the runner is up")
            sessions = ssh.sessions()
            for process in sessions:
                process.suspend()  # the network is cut: nothing arrives at either side
            try:
                await until(lambda: said.ended, what="the runner counts as lost")
                await until(
                    lambda: not [line for line in ssh.left() if "sshd" not in line],
                    what=f"the host has ended all by itself: {ssh.left()}",
                )
            finally:
                for process in sessions:
                    process.send_signal(signal.SIGCONT)
            (ended,) = said.ended
            assert ended.why == (
                "host1 was lost: the connection has ended, or was silent for too long"
            )
        finally:
            await backend.close()

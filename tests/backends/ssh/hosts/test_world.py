"""The hosts of these tests are as the tests suppose."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys

import psutil
import pytest

from tests.support.paths import ROOT
from tests.support.ssh_hosts import SshHosts
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def ssh(hosts: SshHosts, name: str, command: str) -> subprocess.CompletedProcess[str]:
    config = str(hosts.home / ".ssh" / "config")
    words = ["ssh", "-F", config, "-o", "BatchMode=yes", name, command]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_each_host_is_reached_by_its_name(hosts: SshHosts) -> None:
    for name, host in hosts.items():
        done = ssh(hosts, name, 'cd; echo "$HOME"; touch made')
        assert host.home in done.stdout.split(), done.stderr
        assert [f"{name}: file {host.home}/made"] == wait_for(
            lambda: [line for line in hosts.left() if "process" not in line]
        )
        host.at(f"{host.home}/made").unlink()


def test_a_host_reaches_the_driver_but_not_its_loopback_interface(networked: SshHosts) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]

        def reaches(name: str, address: str) -> bool:
            look = f"import socket; socket.create_connection(('{address}', {port}), 5)"
            return ssh(networked, name, f'python3 -c "{look}"').returncode == 0

        assert reaches("gpu1", networked.driver)
        assert not reaches("gpu1", "127.0.0.1")
        assert not reaches("gpu3", networked.driver)


def test_nothing_is_left_of_hosts_whose_test_is_killed() -> None:
    code = (
        "import time\nfrom tests.support.ssh_hosts import ssh_hosts\n"
        "with ssh_hosts() as hosts: print(hosts.home.parent, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path))},
    )
    try:
        assert process.stdout is not None
        folder = process.stdout.readline().strip()
        assert len(of(folder)) >= 3
    finally:
        process.kill()
        process.communicate()
    wait_for(lambda: not of(folder), what="the end of the servers")
    shutil.rmtree(folder)


def of(folder: str) -> list[int]:
    """Return the processes with this folder in their command line."""
    return [p.pid for p in psutil.process_iter() if folder in " ".join(words(p))]


def words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return list(process.cmdline())
    return []

"""What is wrong with a host is said in the words of ssh or of the host, with the line to type."""

from __future__ import annotations

import asyncio
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import psutil
import pytest
import pytest_asyncio  # noqa: F401

import dask_flame
from dask_flame.backends.specs import RunnerSpec
from dask_flame.backends.ssh import SshBackend
from dask_flame.errors import BackendError
from dask_flame.testing.conformance import Said
from tests.support.paths import free_port
from tests.support.sshd import SshClient, Sshd, keygen, needs_sshd
from tests.support.waiting import until

pytestmark = [pytest.mark.process, needs_sshd, pytest.mark.asyncio]


def _backend(hosts: Any, **options: Any) -> SshBackend:
    """Return a backend that is to be started with these hosts."""
    backend = SshBackend(Said().context)
    options = {"hosts": hosts, **options}
    from dask_flame.backends.ssh import SshOptions

    checked = SshOptions(**options).given
    spec = RunnerSpec(name="", scheduler="", concurrency=1, boot_timeout=60, options=checked)
    backend.expect([spec])
    return backend


async def _why(hosts: Any, **options: Any) -> str:
    """Return why a cluster of these hosts cannot start."""
    backend = _backend(hosts, **options)
    try:
        with pytest.raises(BackendError) as caught:
            await backend.start()
    finally:
        await backend.close()
    assert "no host can be used: " in str(caught.value)
    return str(caught.value)


@pytest.fixture
def client(ssh: Sshd, ssh_client: SshClient, tmp_path: Path) -> Iterator[SshClient]:
    """Files of another client, which the host knows by the same key."""
    other = SshClient(tmp_path / "client")
    ssh_client.key.chmod(0o600)
    other.key = ssh_client.key
    with dask.config.set({"flame.ssh.config": str(other.config)}):
        yield other


async def test_a_host_that_is_down(ssh: Sshd, client: SshClient) -> None:
    port = free_port()
    said = await _why([f"127.0.0.1:{port}"])
    assert f"it cannot be reached (Connection refused); type: ssh -p {port} 127.0.0.1 true" in said


async def test_a_host_with_an_unknown_name(ssh: Sshd) -> None:
    said = await _why(["no-such-host.invalid"])
    assert "no-such-host.invalid: its name is not known" in said
    assert "type: ssh no-such-host.invalid true" in said


async def test_a_key_that_is_refused(ssh: Sshd, client: SshClient, tmp_path: Path) -> None:
    client.key = tmp_path / "other"
    keygen(client.key)
    client.knows(ssh)
    client.alias("host", ssh)
    said = await _why(["host"])
    assert "it refuses the keys of this user (Permission denied" in said
    assert "type: ssh-copy-id host" in said


async def test_a_host_key_that_nobody_has_seen(ssh: Sshd, client: SshClient) -> None:
    client.alias("host", ssh)
    said = await _why(["host"])
    assert "its host key is not in known_hosts" in said
    assert "type: ssh host true" in said


async def test_a_host_key_that_has_changed(ssh: Sshd, client: SshClient, tmp_path: Path) -> None:
    client.knows(ssh, public=keygen(tmp_path / "old"))
    client.alias("host", ssh)
    said = await _why(["host"])
    assert "its host key is another one than in known_hosts" in said
    assert f"ssh-keygen -R '[127.0.0.1]:{ssh.port}' && ssh host true" in said


def _program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


async def test_a_python_that_is_not_there(ssh: Sshd) -> None:
    said = await _why(["host1"], python="/no/such/python3")
    assert "host1: there is no /no/such/python3" in said
    assert 'write python="/path/to/python"' in said


async def test_another_python(ssh: Sshd, tmp_path: Path) -> None:
    answer = 'dask-flame {"ev": "here", "python": "3.9.2", "version": "", "missing": "no module"}'
    python = _program(tmp_path / "python3.9", f"echo Welcome; echo '{answer}'")
    said = await _why(["host1"], python=python)
    assert f"it has Python 3.9.2 ({python}), and the driver has Python " in said
    minor = ".".join(map(str, sys.version_info[:2]))
    assert f'write python="/path/to/python{minor}"' in said


async def test_a_python_without_dask_flame(ssh: Sshd, tmp_path: Path) -> None:
    python = _program(tmp_path / "bare", f'exec {sys.executable} -I -S "$@"')
    said = await _why(["host1"], python=python)
    assert "lacks dask-flame" in said
    assert re.search(rf"type: ssh host1 {python} -m pip install dask-flame==\d", said)


async def test_a_python_without_what_dask_flame_needs(ssh: Sshd, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "dask_flame").symlink_to(Path(dask_flame.__file__).parent)
    run = f'PYTHONPATH={tmp_path}/alone exec {sys.executable} -S "$@"'
    said = await _why(["host1"], python=_program(tmp_path / "bare", run))
    assert "cannot import dask-flame (No module named 'dask')" in said
    assert f"type: ssh host1 {tmp_path}/bare -m pip install --upgrade dask-flame==" in said


async def test_no_room_for_temporary_files(ssh: Sshd, tmp_path: Path) -> None:
    python = _program(tmp_path / "full", f'ulimit -f 0; exec {sys.executable} "$@"')
    said = await _why(["host1"], python=python)
    assert "host1: runners cannot start there: nothing can be written to a temporary fold" in said
    assert "make room there, or set TMPDIR" in said


async def test_a_sshd_that_forwards_nothing(client: SshClient, tmp_path: Path) -> None:
    sshd = Sshd(tmp_path / "strict", client.public_of(), settings="DisableForwarding yes")
    client.knows(sshd)
    client.alias("strict", sshd)
    sshd.start()
    try:
        said = await _why(["strict"], reach="forward")
    finally:
        sshd.close()
    assert "strict: its sshd does not forward Unix sockets" in said
    assert 'write reach="direct"' in said


async def test_a_cluster_that_is_closed_while_it_connects(ssh: Sshd, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    # It never answers, and ends with its input, as an agent does.
    slow = _program(tmp_path / "slow", f"echo $$ > {begun}.new; mv {begun}.new {begun}; exec cat")
    backend = _backend(["host1"], python=slow)
    start = asyncio.ensure_future(backend.start())
    await until(begun.exists, what="the program on the host has begun")
    await backend.close()
    assert not psutil.pid_exists(int(begun.read_text()))
    with pytest.raises(BackendError, match="the cluster is closed"):
        await asyncio.wait_for(start, 60)


async def test_no_hosts_at_all() -> None:
    backend = SshBackend(Said().context)
    with pytest.raises(BackendError, match=r'needs hosts: write hosts=\["gpu1"'):
        backend.expect([RunnerSpec(name="", scheduler="", concurrency=1, boot_timeout=60)])

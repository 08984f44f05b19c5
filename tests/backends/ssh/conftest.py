"""Fixtures for the tests of the SSH backend: a host on the loopback address."""

from __future__ import annotations

from collections.abc import Iterator

import dask.config
import pytest

from tests.support.sshd import SshClient, Sshd, running


@pytest.fixture(scope="package")
def ssh_client(tmp_path_factory: pytest.TempPathFactory) -> SshClient:
    """The files of a client of ssh."""
    return SshClient(tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="package")
def ssh_host(ssh_client: SshClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A host that answers to ssh, with the alias ``host1``."""
    sshd = Sshd(tmp_path_factory.mktemp("host1"), ssh_client.public)
    ssh_client.knows(sshd)
    ssh_client.alias("host1", sshd)
    with running(sshd):
        yield sshd


@pytest.fixture(scope="package")
def second(ssh_client: SshClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """Another host, ``host2``: on the same machine, so that both count the same runners."""
    sshd = Sshd(tmp_path_factory.mktemp("host2"), ssh_client.public)
    ssh_client.knows(sshd)
    ssh_client.alias("host2", sshd)
    with running(sshd):
        yield sshd


@pytest.fixture
def ssh(ssh_client: SshClient, ssh_host: Sshd) -> Iterator[Sshd]:
    """The host is that of ``flame.ssh.hosts``, with room for eight runners."""
    settings = {
        "flame.ssh.config": str(ssh_client.config),
        "flame.ssh.hosts": [{"host": "host1", "slots": 8, "cpus": 16}],
        "flame.ssh.connect-timeout": "120s",
    }
    with dask.config.set(settings):
        yield ssh_host

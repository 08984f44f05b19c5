"""Three hosts for the tests of this folder, which find all of them as they were at the start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.ssh_hosts import SshHosts, missing, ssh_hosts
from tests.support.waiting import wait_for


@pytest.fixture(scope="session")
def _three() -> Iterator[SshHosts]:
    pytest.importorskip("asyncssh")
    if why := missing():
        pytest.skip(why)
    with ssh_hosts() as hosts:
        yield hosts


@pytest.fixture
def hosts(_three: SshHosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshHosts]:
    """Three hosts, and this process as their driver. At the end nothing may be left on them."""
    _three.restore()
    for name, value in _three.environment().items():
        monkeypatch.setenv(name, value)
    yield _three
    try:
        wait_for(lambda: not _three.left(), what="nothing is left on the hosts")
    except AssertionError:
        left = _three.left()
        for host in _three.values():
            host.kill()
        raise AssertionError("left on the hosts:\n" + "\n".join(left)) from None


@pytest.fixture
def networked(hosts: SshHosts) -> SshHosts:
    """Three hosts with networks of their own."""
    if hosts.why:
        pytest.skip(f"the hosts are ports of the loopback interface here: {hosts.why}")
    return hosts

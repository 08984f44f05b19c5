"""Three hosts for the tests of this folder, which find all of them as they were at the start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.ssh_hosts import SshHosts, missing, ssh_hosts
from tests.support.waiting import wait_for

_HOSTS = pytest.StashKey[SshHosts]()


@pytest.fixture(scope="session")
def _three(request: pytest.FixtureRequest) -> Iterator[SshHosts]:
    pytest.importorskip("asyncssh")
    if why := missing():
        pytest.skip(why)
    with ssh_hosts() as hosts:
        request.config.stash[_HOSTS] = hosts
        yield hosts
        del request.config.stash[_HOSTS]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start hosts again that the test before has taken away.

    It is no fixture: what is started after the look at processes is taken for the test's own.
    """
    if (hosts := item.config.stash.get(_HOSTS, None)) is not None:
        hosts.restore()


@pytest.fixture
def hosts(_three: SshHosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshHosts]:
    """Three hosts, and this process as their driver. At the end nothing may be left on them."""
    for name, value in _three.environment().items():
        monkeypatch.setenv(name, value)
    yield _three
    try:
        wait_for(lambda: not _three.left())
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

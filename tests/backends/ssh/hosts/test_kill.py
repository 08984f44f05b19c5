"""Nothing is left on any host of a driver that is killed."""

from __future__ import annotations

import pytest

from tests.support.drivers import driver
from tests.support.ssh_hosts import SshHosts
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.mark.parametrize("phase", ["boot", "run", "idle", "end"])
def test_nothing_is_left_of_a_driver_that_is_killed(hosts: SshHosts, phase: str) -> None:
    with driver("tests.backends.ssh.hosts.driver", phase) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == phase
        if phase != "end":  # it may have ended there already
            assert all(any(host in thing for thing in hosts.left()) for host in hosts)
    wait_for(lambda: not hosts.left(), what="nothing is left on the hosts")

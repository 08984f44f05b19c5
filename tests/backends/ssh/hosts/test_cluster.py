"""A cluster whose runners are on three hosts."""

from __future__ import annotations

import re
import time
import urllib.request

import dask
import pytest
from distributed import wait

from dask_flame import Pool, PoolError
from tests.backends.ssh.hosts.calls import Make, alone, held, named, release, runs, shares
from tests.support.ssh_host_common import Host
from tests.support.ssh_host_namespaces import NamespaceHost
from tests.support.ssh_hosts import NAMES, SshHosts
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]


def add(*parts: bytes) -> int:
    return sum(map(len, parts))


def test_calls_run_on_three_hosts_one_of_which_is_behind_another(
    hosts: SshHosts, flame: Make
) -> None:
    _, client = flame(backend="ssh", hosts=shares(*NAMES), max=3, concurrency=1)
    calls = [client.submit(held, "all", n, pure=False) for n in range(3)]
    assert all(runs(client, "all", n) for n in range(3))
    release(client, "all")
    assert {named(hosts, home) for _, home in client.gather(calls)} == set(NAMES)
    # Data of one host is needed on the others: none of them may reach the third but by the driver.
    parts = client.map(lambda n: bytes(2_000_000 + n), range(3), workers=None)
    sums = [client.submit(add, *parts, n * b"x", pure=False) for n in range(3)]
    assert client.gather(sums) == [6_000_003, 6_000_004, 6_000_005]


def test_runners_connect_directly_where_they_can(networked: SshHosts, flame: Make) -> None:
    pair = NAMES[:2]
    cluster, client = flame(
        backend="ssh",
        hosts=shares(*pair),
        max=2,
        reach="direct",
        dashboard_address="127.0.0.1:0",
    )
    with urllib.request.urlopen(cluster.flame_link, timeout=60) as page:
        assert page.status == 200  # it is not at the address of the scheduler
    calls = [client.submit(held, "two", n, pure=False) for n in range(2)]
    assert all(runs(client, "two", n) for n in range(2))
    places = {address.rpartition(":")[0] for address in cluster.scheduler.workers}
    assert places == {f"tls://{networked[name].address}" for name in pair}
    for name in pair:  # not at all addresses
        ports = networked[name].inside("cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()
        listening = [line.split()[1] for line in ports if " 0A " in line]
        assert [at for at in listening if int(at.partition(":")[0], 16) == 0] == ["00000000:0016"]
    release(client, "two")
    assert {named(networked, home) for _, home in client.gather(calls)} == set(pair)


def _python(host: Host, first: str = "") -> str:
    """Make an interpreter of a host, which notes its number and runs a command first."""
    path = f"{host.home}/python"
    host.at(path).write_text(f'#!/bin/sh\necho $$ > {path}.pid\n{first}\nexec python3 "$@"\n')
    host.at(path).chmod(0o755)
    return path


def test_a_host_that_comes_back_must_still_be_in_reach(networked: SshHosts, flame: Make) -> None:
    host = networked["gpu1"]
    path = _python(host)
    hosts = [{"host": "gpu1", "slots": 1, "python": path}, {"host": "gpu2", "slots": 1}]
    cluster, client = flame(backend="ssh", hosts=hosts, max=2, reach="auto")
    calls = [client.submit(held, "back", n, pure=False) for n in range(2)]
    assert all(runs(client, "back", n) for n in range(2))
    assert str(next(iter(cluster.scheduler.workers))).startswith("tls://10.")
    # As it is behind a firewall or a router, which forwards the port of its sshd alone.
    _python(host, "export SSH_CONNECTION='10.0.0.1 1 127.0.0.9 22'")
    host.inside("kill", "-KILL", host.at(f"{path}.pid").read_text().strip())
    why = "connects its hosts directly, and the driver cannot connect to gpu1 at 127.0.0.9; "
    wait_for(lambda: [e for e in cluster.events if why in str(e)], what=why)
    release(client, "back")
    assert [named(networked, home) for _, home in client.gather(calls)] == ["gpu2", "gpu2"]
    _python(host)
    wait_for(lambda: [e for e in cluster.events if f"over: gpu1: this cluster {why}" in str(e)])
    assert all(event.reason for event in cluster.events)
    for file in (path, f"{path}.pid"):
        host.at(file).unlink()


@pytest.mark.parametrize("how", ["power", "server", "network"])
def test_calls_of_a_host_that_is_taken_away_run_on_another(
    hosts: SshHosts, flame: Make, how: str, request: pytest.FixtureRequest
) -> None:
    if how == "network":
        request.getfixturevalue("networked")
    gone = hosts["gpu1"]
    with dask.config.set({"flame.ssh.silence": "4s"}):
        cluster, client = flame(backend="ssh", hosts=shares("gpu1", "gpu2"), max=2, reach="forward")
        calls = [client.submit(held, how, n, pure=False) for n in range(2)]
        assert all(runs(client, how, n) for n in range(2))
        {"power": gone.kill, "server": gone.stop_server}.get(how, lambda: _cut(gone))()
        wait_for(lambda: [e for e in cluster.events if "gpu1 was lost" in str(e)])
        # By themselves: nobody can tell them. What is sshd's own ends when its network is back.
        ours = re.compile(r"file |process (?!\S+ sshd: )")
        wait_for(lambda: not any(map(ours.match, gone.left())), what=f"the end of {gone.left()}")
        release(client, how)
        assert [named(hosts, home) for _, home in client.gather(calls)] == ["gpu2", "gpu2"]
        gone.kill()


def _cut(host: object) -> None:
    assert isinstance(host, NamespaceHost)
    host.cut()


def test_two_clusters_never_have_the_same_gpu(hosts: SshHosts, flame: Make) -> None:
    host = hosts["gpu1"]
    folder = host.at(host.home) / "gpus"
    folder.mkdir()
    folder.chmod(0o777)
    inside = f"{host.home}/gpus"
    given = [{"host": "gpu1", "gpus": 2, "slots": 4}]
    clients = [
        flame(backend="ssh", hosts=given, max=2, gpus=1, idle_timeout="1s", name=name)[1]
        for name in ("first", "second")
    ]
    calls = [c.submit(alone, inside, 0.3, pure=False) for _ in range(4) for c in clients]
    wait(calls)
    assert {call.result() for call in calls} == {"0", "1"}
    folder.rmdir()


def test_a_runner_waits_for_room_on_full_hosts_for_longer_than_a_boot_may_take(
    hosts: SshHosts, flame: Make
) -> None:
    given = shares("gpu1", "gpu2")
    _, other = flame(backend="ssh", hosts=given, max=2, name="other", idle_timeout="1s")
    calls = [other.submit(held, "other", n, pure=False) for n in range(2)]
    assert all(runs(other, "other", n) for n in range(2))
    cluster, client = flame(backend="ssh", hosts=given, max=1, boot_timeout="5m")
    future = client.submit(abs, -1, pure=False)
    full = "it waits: all hosts are full: gpu1: 1 of 1 slots are taken; gpu2: 1 of 1 slots are"
    wait_for(lambda: full in repr(cluster.events), what="a reason")
    # Only while it waits, because to start may take longer here.
    cluster.resize(boot_timeout="1s")
    later = time.monotonic() + 4
    wait_for(lambda: time.monotonic() > later, what="its time would be over")
    assert cluster.runners["runner-1"].phase.value == "booting"
    assert cluster.boots[0].trouble.startswith("it waits: all hosts are full")
    cluster.resize(boot_timeout="5m")
    release(other, "other")
    wait(calls)
    assert future.result() == 1
    (boot,) = cluster.boots
    assert list(boot.phases)[:3] == ["accepted", "queued", "started"]
    assert boot.phases["started"] > 4
    assert [event.kind for event in cluster.events].count("boot") == 1


def test_without_max_there_are_as_many_runners_as_the_hosts_hold(
    hosts: SshHosts, flame: Make
) -> None:
    given = [{"host": "gpu1", "slots": 3}, {"host": "gpu2", "cpus": 4}, *shares("gpu3")]
    pools = {
        "cpu": Pool(hosts=given),
        "wide": Pool(hosts=given, concurrency=2),
        "few": Pool(hosts=given, max=2),
    }
    cluster, client = flame(backend="ssh", pools=pools, reach="forward")
    # 3 slots, 4 cores and a slot; four cores have room for two runners of two calls each.
    assert [pool.max for pool in cluster.pools.values()] == [8, 6, 2]
    said = "gpu1 holds 3, gpu2 holds 4, gpu3 holds 1"
    assert f"max=8 by default: {said}" in repr(cluster.events)
    assert "cpu: none of 0..8, concurrency=1" in repr(cluster)
    with pytest.raises(PoolError, match=f"max=8 \\({said}\\); write cluster.resize"):
        client.cluster.wait_for_workers(9, pool="cpu")
    hosts["gpu1"].kill()
    wait_for(lambda: cluster.pools["cpu"].max == 5, what="gpu1 does not count")
    assert "gpu2 holds 4, gpu3 holds 1, gpu1 is away" in repr(cluster.events)
    hosts.restore()
    wait_for(lambda: cluster.pools["cpu"].max == 8, 240, what="gpu1 counts again")
    cluster.resize("cpu", hosts=["gpu3"])
    wait_for(lambda: cluster.pools["cpu"].max != 8, what="other hosts count")
    cluster.resize("cpu", max=3)
    hosts["gpu1"].kill()
    wait_for(lambda: cluster.pools["wide"].max == 3, what="gpu1 does not count")
    assert [pool.max for pool in cluster.pools.values()] == [3, 3, 2]

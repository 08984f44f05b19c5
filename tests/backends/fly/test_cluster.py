"""A whole cluster on the fake Fly, whose addresses are IPv6 throughout."""

from __future__ import annotations

import os
import signal

import dask
import httpx
import psutil
import pytest
from dask.distributed import Client

import dask_flame
from dask_flame import FlameCluster
from dask_flame.backends.fly import machine_requests
from dask_flame.errors import BackendError, BootError, PoolError, RunnerLost
from tests.backends.fly.calls import where
from tests.fakes.fly import FakeFly
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def test_a_driver_in_the_network_has_the_scheduler(fly: FakeFly) -> None:
    with FlameCluster(backend="fly", max=2, dashboard_address=None) as cluster:
        assert cluster.scheduler.address.startswith("tls://[::1]:")
        with Client(cluster) as client:
            futures = client.map(lambda x: (x, where()), range(2), pure=False)
            found = client.gather(futures)
        assert [x for x, _ in found] == [0, 1]
        ids = {machine["id"] for machine in fly.machines()}
        assert {place for _, (place, _) in found} <= ids
        assert all(address.startswith("tls://[::1]:") for _, (_, address) in found)
    wait_for(lambda: not fly.left())


def test_a_call_that_kills_its_machine_is_told_why(fly: FakeFly) -> None:
    with (
        FlameCluster(backend="fly", max=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        future = client.submit(os.kill, 0, signal.SIGKILL, retries=0)
        with pytest.raises(RunnerLost, match="SIGKILL"):
            future.result()


def test_a_region_without_room_is_left_for_the_next(fly: FakeFly) -> None:
    fly.capacity("fra", 0)
    with (
        FlameCluster(
            backend="fly", max=2, region=["fra", "ams"], dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        assert client.submit(abs, -1).result() == 1
        assert {machine["region"] for machine in fly.machines()} == {"ams"}
        assert any("insufficient resources" in str(event) for event in cluster.events)


def test_a_pool_with_a_volume_does_not_grow(fly: FakeFly) -> None:
    mounts = {"/data": "vol_abc123"}
    with FlameCluster(backend="fly", max=1, mounts=mounts, dashboard_address=None) as cluster:
        with pytest.raises(PoolError, match=r"mounts=.* and max=2; write max=1"):
            cluster.resize(max=2)
        assert cluster.pools["default"].max == 1
        with (
            Client(cluster) as client,
            pytest.raises(BootError, match=r"volume.*relevant settings: app, image") as caught,
        ):
            client.submit(abs, -1).result()
    assert "preload" not in str(caught.value)  # those that do not help are not named


def test_gpus_and_wrong_options_are_refused_at_once(fly: FakeFly) -> None:
    with pytest.raises(BackendError, match="withdrew them on 2026-08-01"):
        FlameCluster(backend="fly", gpus=1)
    with pytest.raises(PoolError, match=r"region='Frankfurt am Main' .* write region="):
        FlameCluster(backend="fly", region="Frankfurt am Main")
    with pytest.raises(PoolError, match=r"cpu_kind='quantum' .* write cpu_kind="):
        FlameCluster(backend="fly", cpu_kind="quantum")
    with pytest.raises(PoolError, match=r"memory='1 TiB'.*largest is"):
        FlameCluster(backend="fly", memory="1 TiB")
    assert not fly.requests.of("create")


def test_a_manifest_has_no_secret(fly: FakeFly) -> None:
    with FlameCluster(
        backend="fly",
        max=1,
        secrets={"KEY": "s3cret-0123"},
        region=["fra", "ams"],
        dashboard_address=None,
    ) as cluster:
        text = str(cluster.manifest())
    assert "s3cret-0123" not in text
    assert "BEGIN" not in text
    assert text.endswith("region: fra")
    assert "auto_destroy: true" in text


def test_a_driver_elsewhere_must_say_how_it_reaches_the_scheduler(outside: FakeFly) -> None:
    with pytest.raises(BackendError, match="there are three ways to it: write reach="):
        FlameCluster(backend="fly", max=1)
    with pytest.raises(BackendError, match='scheduler="driver" needs a driver in a machine'):
        FlameCluster(backend="fly", max=1, scheduler="driver")
    assert not outside.requests.of("create")


@pytest.mark.parametrize("reach", ["proxy", "wireguard", "public"])
def test_a_driver_elsewhere_has_its_scheduler_in_a_machine(
    outside: FakeFly, reach: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The fake has no proxy for public ports: the port is the machine's own, at an IPv4 address.
    monkeypatch.setattr(
        machine_requests, "public_port", lambda cluster: dask.config.get("flame.scheduler.port")
    )
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with FlameCluster(backend="fly", max=2, reach=reach) as cluster, Client(cluster) as client:
        found = client.gather(client.map(lambda x: (x, where()), range(2), pure=False))
        assert all(address.startswith("tls://[::1]:") for _, (_, address) in found)
        assert len(outside.machines()) == 3
        with dask_flame.connect(cluster.name, backend="fly") as observer:
            assert dask_flame.recover(observer) == {}
            assert observer.scheduler_info()["id"] == client.scheduler_info()["id"]
        # The pages come through the connection to the scheduler, whatever it is.
        assert cluster.dashboard_link.startswith("http://127.0.0.1:")
        for page in ("status", "flame", "pools"):
            link = cluster.dashboard_link.replace("/status", f"/{page}")
            assert httpx.get(link, timeout=60, follow_redirects=True).status_code == 200
    wait_for(lambda: not outside.left())
    children = psutil.Process().children
    wait_for(lambda: {child.pid for child in children(recursive=True)} <= before)


def test_flyctl_that_is_missing_is_said_before_anything_runs(outside: FakeFly) -> None:
    with (
        dask.config.set({"flame.fly.flyctl": "no-such-flyctl"}),
        pytest.raises(BackendError, match="there is no program 'no-such-flyctl'; type: curl"),
    ):
        FlameCluster(backend="fly", max=1, reach="proxy")
    assert not outside.requests.of("create")

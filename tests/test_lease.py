from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from conftest import wait_for
from distributed import Client, Event, LocalCluster, Variable

from dask_flame import FlameCluster, Lease
from dask_flame.lease import is_driver


def test_closing_the_last_client_ends_the_runners_and_a_new_one_boots_them_again() -> None:
    with FlameCluster(min=1, max=3, disconnect_grace="300ms", dashboard_address=None) as cluster:
        wait_for(lambda: len(cluster.observed) == 1, what="min runners boot without a client")
        first, second = Client(cluster), Client(cluster)
        assert first.submit(int, 1).result(timeout=20) == 1
        first.close()
        assert second.submit(int, 2).result(timeout=20) == 2
        assert cluster.runners
        second.close()
        wait_for(lambda: not cluster.runners, what="the runners end, the min ones too")
        assert [e.reason for e in cluster.events if e.kind == "lease"] == [
            "no client for disconnect_grace=0.3 s"
        ]
        with Client(cluster) as third:
            assert third.submit(int, 3).result(timeout=20) == 3


def test_busy_runners_end_too_when_nobody_is_there(tmp_path: Any) -> None:
    with FlameCluster(max=1, disconnect_grace="200ms", dashboard_address=None) as cluster:
        with Client(cluster) as client:
            future = client.submit(_sleep, str(tmp_path / "started"))
            wait_for((tmp_path / "started").exists)
            assert not future.done()
        wait_for(lambda: not cluster.runners)


def _sleep(path: str) -> None:
    import pathlib
    import time

    pathlib.Path(path).touch()
    time.sleep(600)


def test_a_client_that_comes_within_the_grace_finds_the_fleet_as_it_was() -> None:
    with FlameCluster(max=1, disconnect_grace="10s", dashboard_address=None) as cluster:
        for _ in range(3):
            with Client(cluster) as client:
                client.submit(int, 1).result(timeout=20)
        assert sum(e.kind == "boot" for e in cluster.events) == 1


def test_clients_that_calls_open_hold_nothing(flame: Any) -> None:
    cluster, client = flame(max=1)

    def nested() -> str:
        from distributed import get_client

        return str(get_client().id)

    inner = client.submit(nested).result(timeout=20)
    assert not is_driver(inner)
    assert not is_driver("fire-and-forget")
    assert is_driver(client.id)
    lease = cluster.scheduler.plugins[Lease.name]
    assert lease._clients == {client.id}


def test_alone_on_a_stock_cluster() -> None:
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
        with Client(cluster) as client:
            client.register_plugin(Lease("200ms"))
            assert client.submit(int, 3).result() == 3
        wait_for(lambda: cluster.scheduler.status.name == "closed")


def test_what_outlives_its_client_on_the_scheduler_is_no_driver() -> None:
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
        with Client(cluster) as client:
            Variable("v", client=client).set(1)
            client.publish_dataset(d=client.submit(int, 1))
            client.register_plugin(Lease("200ms"))
        wait_for(lambda: cluster.scheduler.status.name == "closed")


def test_alone_on_a_scheduler_and_a_worker_of_the_command_line(tmp_path: Any) -> None:
    script = tmp_path / "lease.py"
    script.write_text(
        "import dask_flame\n"
        "async def dask_setup(scheduler):\n"
        "    plugin = dask_flame.Lease('300ms')\n"
        "    scheduler.add_plugin(plugin)\n"
        "    await plugin.start(scheduler)\n"
    )
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    options = ["--scheduler-file", str(file), "--no-dashboard"]
    parts = [
        subprocess.Popen(
            [*dask, "scheduler", "--port", "0", "--preload", str(script), *options], **quiet
        ),
        subprocess.Popen([*dask, "worker", "--no-nanny", *options], **quiet),
    ]
    try:
        wait_for(file.exists)
        with Client(scheduler_file=str(file)) as client:
            assert client.submit(int, 5).result(timeout=20) == 5
        for part in parts:
            part.wait(timeout=20)
    finally:
        for part in parts:
            part.kill()
            part.wait()


def test_a_cluster_that_never_has_a_client_may_be_given_a_limit() -> None:
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster:

        async def add() -> None:
            lease = Lease("1s", first="200ms")
            cluster.scheduler.add_plugin(lease)
            await lease.start(cluster.scheduler)

        cluster.sync(add)
        wait_for(lambda: cluster.scheduler.status.name == "closed")


def test_a_wrong_grace_is_refused() -> None:
    with pytest.raises(ValueError, match=r'grace=-3 is not a duration.*write grace="10s"'):
        Lease(-3)


def test_calls_go_on_through_a_short_absence() -> None:
    with (
        FlameCluster(max=1, disconnect_grace="20s", dashboard_address=None) as cluster,
        Client(cluster) as keeper,
        Client(cluster) as other,
    ):
        gate = Event("gate", client=keeper)
        future = keeper.submit(gate.wait)
        wait_for(lambda: any(m.busy for m in cluster.runners.values()))
        other.close()
        gate.set()
        assert future.result(timeout=20)

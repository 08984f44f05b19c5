from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import pytest
from distributed import Client, Event, LocalCluster, Scheduler, Variable

from dask_flame import FlameCluster, Lease
from dask_flame.lease.plugin import dask_setup, is_driver
from tests.support.waiting import wait_for


@pytest.mark.process
def test_closing_the_last_client_ends_the_runners_and_a_new_one_boots_them_again() -> None:
    with FlameCluster(min=1, max=3, disconnect_grace="300ms", dashboard_address=None) as cluster:
        wait_for(lambda: len(cluster.observed) == 1, what="min runners boot without a client")
        first, second = Client(cluster), Client(cluster)
        assert first.submit(int, 1).result(timeout=60) == 1
        first.close()
        assert second.submit(int, 2).result(timeout=60) == 2
        assert cluster.runners
        second.close()
        wait_for(lambda: not cluster.runners, what="the runners end, the min ones too")
        assert [e.reason for e in cluster.events if e.kind == "lease"] == [
            "no client for disconnect_grace=0.3 s"
        ]
        with Client(cluster) as third:
            assert third.submit(int, 3).result(timeout=60) == 3


@pytest.mark.process
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


@pytest.mark.process
def test_a_client_that_comes_within_the_grace_finds_the_fleet_as_it_was() -> None:
    with FlameCluster(max=1, disconnect_grace="10s", dashboard_address=None) as cluster:
        for _ in range(3):
            with Client(cluster) as client:
                client.submit(int, 1).result(timeout=60)
        assert sum(e.kind == "boot" for e in cluster.events) == 1


@pytest.mark.process
def test_clients_that_calls_open_hold_nothing(flame: Any) -> None:
    cluster, client = flame(max=1)

    def nested() -> str:
        from distributed import get_client

        return str(get_client().id)

    inner = client.submit(nested).result(timeout=60)
    assert not is_driver(inner)
    assert not is_driver("fire-and-forget")
    assert not is_driver("Client-observer-8d2c9f7e")
    assert is_driver(client.id)
    lease = cluster.scheduler.plugins[Lease.name]
    assert lease._clients == {client.id}


@pytest.mark.process
def test_alone_on_a_stock_cluster() -> None:
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
        with Client(cluster) as client:
            client.register_plugin(Lease("200ms"))
            assert client.submit(int, 3).result() == 3
        wait_for(lambda: cluster.scheduler.status.name == "closed")


@pytest.mark.process
def test_what_outlives_its_client_on_the_scheduler_is_no_driver() -> None:
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
        with Client(cluster) as client:
            Variable("v", client=client).set(1)
            client.publish_dataset(d=client.submit(int, 1))
            client.register_plugin(Lease("200ms"))
        wait_for(lambda: cluster.scheduler.status.name == "closed")


@contextmanager
def commanded(folder: Any, *options: str, **settings: str) -> Iterator[Any]:
    """`dask scheduler` and `dask worker`, and a way to connect; both are to end by themselves."""
    file = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    quiet["env"] = {**os.environ, **{f"DASK_FLAME__{k.upper()}": v for k, v in settings.items()}}
    common = ["--scheduler-file", str(file), "--no-dashboard"]
    parts = [
        subprocess.Popen([*dask, "scheduler", "--port", "0", *options, *common], **quiet),
        subprocess.Popen([*dask, "worker", "--no-nanny", *common], **quiet),
    ]
    try:
        wait_for(file.exists)
        yield lambda **kwargs: Client(scheduler_file=str(file), **kwargs)
        for part in parts:
            part.wait(timeout=60)
    finally:
        for part in parts:
            part.kill()
            part.wait()


@pytest.mark.process
def test_alone_on_a_scheduler_and_a_worker_of_the_command_line(tmp_path: Any) -> None:
    script = tmp_path / "lease.py"
    script.write_text(
        "import dask_flame\n"
        "async def dask_setup(scheduler):\n"
        "    plugin = dask_flame.Lease('300ms')\n"
        "    scheduler.add_plugin(plugin)\n"
        "    await plugin.start(scheduler)\n"
    )
    with commanded(tmp_path, "--preload", str(script)) as connect, connect() as client:
        assert client.submit(int, 5).result(timeout=60) == 5


@pytest.mark.process
def test_as_a_preload_with_what_the_configuration_says(tmp_path: Any) -> None:
    lease = ("--preload", "dask_flame.lease")
    with commanded(tmp_path, *lease, disconnect_grace="300ms") as connect, connect() as client:
        assert client.submit(int, 5).result(timeout=60) == 5


@pytest.mark.process
def test_registered_from_the_driver_on_a_scheduler_of_the_command_line(tmp_path: Any) -> None:
    with commanded(tmp_path) as connect, connect() as client:
        client.register_plugin(Lease("300ms"))
        assert client.submit(int, 5).result(timeout=60) == 5


@pytest.mark.unit
@pytest.mark.asyncio
async def test_the_preload_is_for_a_scheduler_alone() -> None:
    with pytest.raises(TypeError, match="for the scheduler, not for a str"):
        await dask_setup("a worker")


@pytest.mark.process
def test_a_cluster_that_never_has_a_client_may_be_given_a_limit() -> None:
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster:

        async def add() -> None:
            lease = Lease("1s", first="200ms")
            cluster.scheduler.add_plugin(lease)
            await lease.start(cluster.scheduler)

        cluster.sync(add)
        wait_for(lambda: cluster.scheduler.status.name == "closed")


@pytest.mark.unit
def test_a_wrong_grace_is_refused() -> None:
    with pytest.raises(ValueError, match=r'grace=-3 is not a duration.*write grace="10s"'):
        Lease(-3)


@pytest.mark.process
def test_calls_go_on_through_a_short_absence() -> None:
    with (
        FlameCluster(max=1, disconnect_grace="20s", dashboard_address=None) as cluster,
        Client(cluster) as staying,
        Client(cluster) as leaving,
    ):
        gate = Event("gate", client=staying)
        future = staying.submit(gate.wait)
        wait_for(lambda: any(m.busy for m in cluster.runners.values()))
        leaving.close()
        gate.set()
        assert future.result(timeout=60)


@pytest.mark.process
def test_an_observer_holds_nothing() -> None:
    with (
        FlameCluster(max=1, disconnect_grace="300ms", dashboard_address=None) as cluster,
        Client(cluster.scheduler_address, name="observer") as looking,
    ):
        with Client(cluster) as client:
            assert client.submit(int, 1).result(timeout=60) == 1
            assert cluster.runners
        wait_for(lambda: not cluster.runners)
        assert looking.status == "running"
        wait_for(lambda: looking.scheduler_info()["workers"] == {})


@pytest.mark.process
@pytest.mark.parametrize("way", ["goodbye", "drop"])
def test_the_fleet_lives_until_the_last_driver_goes(way: str) -> None:
    with (
        FlameCluster(max=1, disconnect_grace="500ms", dashboard_address=None) as cluster,
        Client(cluster) as first,
    ):
        assert first.submit(int, 1).result(timeout=60) == 1
        second = Client(cluster)
        held = second.submit(int, 2)
        assert held.result(timeout=60) == 2
        if way == "drop":
            # As if its process had been killed: no goodbye, and it does not come back.
            comm = cluster.scheduler.client_comms[second.id]
            cluster.loop.add_callback(second._handle_report_task.cancel)
            cluster.loop.add_callback(comm.abort)
        else:
            second.close()
        wait_for(lambda: second.id not in cluster.scheduler.clients)
        wait_for(lambda: held.key not in cluster.scheduler.tasks)
        assert not cluster.scheduler.plugins[Lease.name].lapsed
        assert first.submit(int, 3).result(timeout=60) == 3
        second.close()


@pytest.mark.process
def test_a_goodbye_keeps_nothing() -> None:
    with FlameCluster(max=1, disconnect_grace="60s", dashboard_address=None) as cluster:
        with Client(cluster) as client:
            key = client.submit(int, 1, key="kept-for-nobody").key
        wait_for(lambda: key not in cluster.scheduler.tasks)
        wait_for(lambda: client.id not in cluster.scheduler.clients)
        wait_for(lambda: cluster.scheduler.plugins[Lease.name]._sessions.records == {})


@pytest.mark.process
def test_max_lifetime_ends_a_stock_cluster_whatever_clients_there_are() -> None:
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, timeout="1s") as client,
    ):
        assert client.submit(int, 3).result() == 3
        client.register_plugin(Lease("60s", max_lifetime="3s"))
        plugin = cluster.scheduler.plugins[Lease.name]
        waiting = client.submit(int, 3, resources={"what nobody has": 1})
        wait_for(lambda: plugin.expired)
        assert plugin.lapsed
        with pytest.raises(CancelledError, match="max_lifetime=3 s has passed"):
            waiting.result(timeout=60)
        wait_for(lambda: cluster.scheduler.status.name == "closed")


@pytest.mark.process
@pytest.mark.asyncio
async def test_the_reasons_of_a_lapse() -> None:
    reasons: list[str] = []
    returns: list[int] = []
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as scheduler:
        lease = Lease(
            "50ms",
            first="100ms",
            max_lifetime="6s",
            on_lapse=reasons.append,
            on_return=lambda: returns.append(1),
        )
        await scheduler.register_scheduler_plugin(lease, idempotent=False)
        await _until(lambda: reasons == ["no client came within first=0.1 s"])
        async with Client(scheduler.address, asynchronous=True):
            assert lease.held
            assert not lease.lapsed
            assert returns == [1]
        await _until(lambda: len(reasons) == 2)
        assert reasons[1] == "no client for disconnect_grace=0.05 s"
        assert not lease.expired
        await _until(lambda: len(reasons) == 3)
        assert reasons[2] == "max_lifetime=6 s has passed"
        assert lease.expired
        async with Client(scheduler.address, asynchronous=True):
            assert lease.lapsed
            assert returns == [1]


async def _until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@pytest.mark.process
@pytest.mark.asyncio
async def test_nothing_of_it_stays_on_a_scheduler_that_closes() -> None:
    scheduler = Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0")
    async with scheduler:
        lease = Lease("60s", max_lifetime="1h")
        await scheduler.register_scheduler_plugin(lease, idempotent=False)
        async with Client(scheduler.address, asynchronous=True, timeout="1s") as client:
            assert client.id in lease._sessions.records
            sessions = lease._sessions
            await scheduler.close()
            assert "remove_client" not in vars(scheduler)
            assert not sessions._look_out.is_running()
            assert sessions.records == {}
            assert lease._timer is None
            assert lease._end is None


@pytest.mark.unit
@pytest.mark.parametrize(
    ("option", "example"), [("silence", "60s"), ("max_lifetime", "8h"), ("first", "5m")]
)
def test_wrong_durations_are_refused(option: str, example: str) -> None:
    with pytest.raises(ValueError, match=rf'{option}=\'soon\' is not .*write {option}="{example}"'):
        Lease(**{option: "soon"})

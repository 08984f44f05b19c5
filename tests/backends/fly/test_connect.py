"""Another process observes a cluster whose scheduler is in a machine of Fly, or takes it over."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from dask.distributed import Client

import dask_flame
from dask_flame.backends.fly import connection_files
from dask_flame.backends.fly.inspector import FlyInspector
from dask_flame.backends.inspector import ClusterListing
from dask_flame.errors import BackendError
from tests.driver.connect.adopting import adopting
from tests.driver.connect.processes import ADOPTER, Processes, kill, ran, says, token
from tests.fakes.fly import FakeFly
from tests.support.drivers import watchdog_of
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


@pytest.fixture
def start(tmp_path: Path, outside: FakeFly, monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    with dask.config.set({"flame.backend": "fly", "flame.fly.reach": "proxy"}):
        inherited = dask.config.serialize({"flame": dask.config.get("flame")})
        monkeypatch.setenv("DASK_INTERNAL_INHERIT_CONFIG", inherited)
        monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        processes = Processes(tmp_path)
        yield processes
        processes.close()


@pytest.fixture
def adopt(start: Processes) -> Iterator[Callable[[], Client]]:
    """Adopts the cluster, once its scheduler has noticed that its driver is gone."""
    with adopting() as adopt:
        yield adopt


def listed() -> tuple[ClusterListing, list[str]]:
    """Return the cluster as `dask flame ps` shows it, and what `dask flame sweep` would remove."""

    async def ask() -> tuple[ClusterListing, list[str]]:
        async with FlyInspector() as inspector:
            (cluster,) = await inspector.clusters()
            return cluster, [orphan.what for orphan in await inspector._orphans()]

    return asyncio.run(ask())


def saved() -> list[Path]:
    return list(connection_files.folder().glob("*"))


def test_all_results_are_there_after_two_kills(
    outside: FakeFly, start: Processes, adopt: Any, tmp_path: Path
) -> None:
    kernel = start.kernel(calls=5, most=3)
    (file,) = saved()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    with pytest.raises(BackendError, match=f"its driver is there: process {kernel.pid} on "):
        dask_flame.connect("shop", adopt=True)
    watchdog = watchdog_of(kernel)
    kill(kernel)
    # It ends by itself within the grace, unless somebody takes it over: it is no orphan.
    cluster, orphans = listed()
    assert (cluster.state, orphans) == ("live", [])
    assert cluster.made_by == dask_flame.core.connection.this_user()
    adopter = start(ADOPTER, until="adopted train-0 train-1 train-2 train-3 train-4")
    wait_for(lambda: not watchdog.is_running(), 120)  # it leaves the cluster to the new driver
    watchdog = watchdog_of(adopter)
    assert listed()[0].driver.endswith(f":{adopter.pid}")
    assert listed()[1] == []
    kill(adopter)
    client = adopt()
    adopted: Any = client.cluster
    wait_for(lambda: not watchdog.is_running(), 120)
    assert listed()[0].driver.endswith(f":{os.getpid()}")
    futures = dask_flame.recover()
    assert list(futures) == [f"train-{n}" for n in range(5)]
    assert adopted.pools["default"].max == 4
    assert len(adopted.runners) >= 3
    (tmp_path / "go-on").touch()
    assert [futures[f"train-{n}"].result() for n in (0, 1, 2, 4)] == [0, 10, 20, 40]
    with pytest.raises(ValueError, match="diverged"):
        futures["train-3"].result()
    assert ran(tmp_path) == ["0", "1", "2", "3", "4"]
    curves = dask_flame.reports_of(client)
    for n in range(5):
        wait_for(lambda n=n: len(curves.calls[f"train-{n}"].series["loss"]) == 10)  # type: ignore[misc]
    # It is a whole driver: others boot, with the secrets of the first one, and all of them end.
    adopted.scale(4)
    client.wait_for_workers(4, timeout=120)
    assert set(client.run(token).values()) == {"s3cr3t"}
    client.close()
    adopted.close()
    assert not outside.left()
    assert saved() == []


def test_a_driver_that_comes_back_after_it_was_replaced_ends_nothing(
    outside: FakeFly, start: Processes, adopt: Any, tmp_path: Path
) -> None:
    kernel = start.kernel(env={"DASK_FLAME__SILENCE": "2s"})
    watchdog = watchdog_of(kernel)
    kernel.send_signal(signal.SIGSTOP)
    client = adopt()
    cluster: Any = client.cluster
    futures = dask_flame.recover()
    cluster.scale(3)
    client.wait_for_workers(3, timeout=120)
    there = {machine["id"] for machine in outside.machines()}
    kernel.send_signal(signal.SIGCONT)
    line = says(kernel, "closed")
    assert re.search(rf"another process has become .*:? ?.*{os.getpid()}", line)
    assert kernel.wait(60) == 0  # its exit handlers leave everything too
    assert not watchdog.is_running()
    (tmp_path / "go-on").touch()
    assert futures["train-1"].result() == 10
    assert len(client.run(os.getpid)) == 3
    assert {machine["id"] for machine in outside.machines()} == there
    assert len(saved()) == 1
    assert ran(tmp_path) == ["0", "1"]


def test_after_the_grace_nothing_is_there(outside: FakeFly, start: Processes) -> None:
    kernel = start.kernel(grace="5s")
    watchdog = watchdog_of(kernel)
    kill(kernel)
    wait_for(lambda: not outside.left(), 120)
    wait_for(lambda: not watchdog.is_running(), 120)
    assert saved() == []
    with pytest.raises(BackendError, match=r"there is no cluster shop .* disconnect_grace after"):
        dask_flame.connect("shop", adopt=True)


def test_an_adopter_that_dies_in_the_middle_leaves_nothing(
    outside: FakeFly, start: Processes
) -> None:
    kernel = start.kernel(grace="5s")
    dies = start(ADOPTER, until="waits", env={"DIES": "joined"})
    kill(kernel)
    assert says(dies, "in the middle")
    watchdog = watchdog_of(dies)
    kill(dies)
    wait_for(lambda: not outside.left(), 120)
    wait_for(lambda: not watchdog.is_running(), 120)
    assert saved() == []

"""A cluster that somebody else has stopped: its driver lives, and is told."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from dask.distributed import Client

from dask_flame import BootError, FlameCluster
from dask_flame.backends.local import LocalBackend
from dask_flame.backends.local.supervisor.control_signals import NO_MORE, OUTPUT, PRINTED, STOP
from dask_flame.core.folder_locks import LOCK
from dask_flame.testing import marked_processes
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


class Signalled(LocalBackend):
    """One whose supervisor can be signalled."""

    def signal(self, number: int) -> None:
        assert self._supervisor is not None
        os.kill(self._supervisor.pid, number)


def speak(seconds: float) -> float:
    print("I am here", flush=True)
    time.sleep(seconds)
    return seconds


def large() -> bytes:
    return bytes(2_000_000)


@pytest.mark.parametrize("on_boot_failure", ["fail", "wait"])
def test_calls_say_that_the_cluster_was_stopped(flame: Any, on_boot_failure: str) -> None:
    cluster, client = flame(max=2, backend=Signalled, on_boot_failure=on_boot_failure)
    running = client.map(speak, [600, 601, 602])
    wait_for(lambda: sum(m.busy for m in cluster.runners.values()) == 2)
    cluster.backend.signal(STOP)
    for future in running:
        with pytest.raises(BootError, match=r"`dask flame stop`.*make a new FlameCluster"):
            future.result(timeout=60)
    wait_for(lambda: not cluster.runners)
    wait_for(lambda: not marked_processes(f"{cluster.name}-"))
    with pytest.raises(BootError, match="`dask flame stop`"):
        client.submit(speak, 0).result(timeout=60)
    # For another client, too, with whom a fleet that has lapsed begins again.
    client.close()
    with Client(cluster) as other, pytest.raises(BootError, match="`dask flame stop`"):
        other.submit(speak, 0.1).result(timeout=60)
    (event,) = [e for e in cluster.events if e.kind == "stopped"]
    assert event.reason == "the cluster was stopped with `dask flame stop`"
    assert not [e for e in cluster.events if e.kind == "boot"][2:]


def test_results_that_the_driver_has_outlive_it(flame: Any) -> None:
    import dask

    with dask.config.set({"flame.home.memory": "1 MB"}):
        cluster, client = flame(max=1, backend=Signalled, idle_timeout="0.1s")
    result = client.submit(large)
    wait_for(lambda: result.done() and not cluster.runners, what="it is at home")
    assert [p for p in Path(cluster.backend.folder).glob("*/*/results/*") if p.is_file()]
    cluster.backend.signal(STOP)
    folder = Path(cluster.backend.scratch)
    wait_for((folder / NO_MORE).exists)
    assert len(result.result(timeout=60)) == 2_000_000
    client.close()
    cluster.close()
    assert not folder.exists()


def test_a_supervisor_says_what_its_runners_have_printed(flame: Any) -> None:
    cluster, client = flame(max=1, backend=Signalled)
    future = client.submit(speak, 600)
    wait_for(lambda: sum(m.busy for m in cluster.runners.values()))
    printed = Path(cluster.backend.scratch, PRINTED)

    def said() -> bool:
        cluster.backend.signal(OUTPUT)
        return printed.exists() and "I am here" in json.loads(printed.read_text())["runner-1"]

    wait_for(said)
    assert printed.stat().st_mode & 0o777 == 0o600
    assert not future.done()


def test_the_folder_is_locked_while_supervisor_or_driver_live(flame: Any) -> None:
    import fcntl

    cluster, client = flame(max=1, backend=Signalled)
    assert client.submit(int, 1).result() == 1  # a runner is there, and does not hold it
    scratch = os.open(Path(cluster.backend.scratch, LOCK), os.O_RDWR)
    results = os.open(cluster.backend.folder, os.O_RDONLY)

    def free(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    try:
        assert not free(scratch)
        assert not free(results)
        cluster.backend.signal(9)
        wait_for(lambda: not cluster.runners)
        assert not free(results)  # they outlive the supervisor
        client.close()
        cluster.close()
        assert free(results)
        assert free(scratch)
    finally:
        os.close(results)
        os.close(scratch)


def test_a_backend_that_is_stopped_before_the_cluster_has_begun() -> None:
    class Early(LocalBackend):
        async def start(self) -> None:
            await super().start()
            self.stopped("it was stopped at once")

    cluster = FlameCluster(max=1, backend=Early, dashboard_address=None)
    with cluster, Client(cluster) as client, pytest.raises(BootError, match="stopped at once"):
        client.submit(int).result(timeout=60)

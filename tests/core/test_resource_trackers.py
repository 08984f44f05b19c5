"""What calls leave in shared memory goes with their runner; what is somebody else's stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any

import psutil
import pytest

from dask_flame.testing import marked_processes
from tests.support.paths import ROOT
from tests.support.waiting import wait_for, wait_for_text

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is looked into"),
]
_SHM = Path("/dev/shm")
_KEPT: list[Any] = []
# The tests' own, which stays.
resource_tracker.ensure_running()


def leave(*, stay: str = "") -> list[str]:
    """Make what libraries make in shared memory, and leave it there."""
    import multiprocessing
    import time

    import joblib
    import numpy

    segment = shared_memory.SharedMemory(create=True, size=1000)
    lock = multiprocessing.get_context("spawn").Lock()
    _KEPT.extend((segment, lock))
    big = numpy.zeros(2_000_000)
    sums = joblib.Parallel(2, backend="loky")(joblib.delayed(numpy.sum)(big) for _ in range(2))
    assert sums == [0, 0]
    names = [segment.name, f"sem.{lock._semlock.name.lstrip('/')}"]
    for pattern in ("joblib_memmapping_folder_{}_*", "sem.loky-{}-*"):
        names += [path.name for path in _SHM.glob(pattern.format(os.getpid()))]
    assert len(names) >= 4
    if stay:
        Path(stay).write_text("\n".join([str(os.getpid()), *names]))
        time.sleep(600)
    return names


def left_of(names: list[str]) -> list[str]:
    return [name for name in names if (_SHM / name).exists()]


@pytest.fixture
def foreign() -> Iterator[str]:
    """A segment of somebody else's, to which calls attach."""
    segment = shared_memory.SharedMemory(create=True, size=8)
    yield segment.name
    segment.close()
    segment.unlink()


def look_at(name: str) -> str:
    segment = shared_memory.SharedMemory(name)
    _KEPT.append(segment)
    # Its own, and taken away again: that leaves no complaint.
    other = shared_memory.SharedMemory(create=True, size=8)
    again = shared_memory.SharedMemory(other.name)
    again.close()
    other.close()
    other.unlink()
    return other.name


@pytest.mark.parametrize("fork", [True, False])
def test_it_goes_when_the_cluster_closes_and_what_is_somebody_elses_stays(
    fork: bool, flame: Any, foreign: str, capfd: Any
) -> None:
    import dask.config

    with dask.config.set({"flame.local.fork": fork}):
        cluster, client = flame(max=1)
        names = client.submit(leave).result()
        gone = client.submit(look_at, foreign).result()
        assert left_of(names) == names
        client.close()
        cluster.close()
    wait_for(lambda: not left_of([*names, gone]), what="all is removed")
    assert left_of([foreign]) == [foreign]
    assert "KeyError" not in capfd.readouterr().err


def test_it_goes_at_the_idle_timeout(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="0.2s")
    names = client.submit(leave).result()
    wait_for(lambda: not cluster.runners)
    wait_for(lambda: not left_of(names), what="all is removed")


def test_it_goes_with_a_killed_runner(flame: Any, foreign: str) -> None:
    cluster, client = flame(max=1)
    names = client.submit(leave).result()
    client.submit(look_at, foreign).result()
    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
    wait_for(lambda: any(e.kind == "lost" for e in cluster.events))
    wait_for(lambda: not left_of(names), what="all is removed")
    assert left_of([foreign]) == [foreign]


def share_tensor() -> str:
    import torch

    os.environ["TMPDIR"] = "/tmp"  # the tests' own is too long a name for torch's socket
    torch.multiprocessing.set_sharing_strategy("file_system")
    tensor = torch.ones(1000).share_memory_()
    _KEPT.append(tensor)
    (name,) = _SHM.glob(f"torch_{os.getpid()}_*")
    return name.name


def test_what_torch_shares_by_name_goes_with_a_killed_runner(flame: Any) -> None:
    pytest.importorskip("torch")
    _, client = flame(max=1)
    name = client.submit(share_tensor).result()
    assert left_of([name]) == [name]
    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
    wait_for(lambda: not left_of([name]), what="it is removed")


def test_it_goes_with_a_runner_whose_supervisor_is_killed(flame: Any) -> None:
    cluster, client = flame(max=1)
    names = client.submit(leave).result()
    pid = next(iter(client.run(os.getpid).values()))
    supervisor = psutil.Process(pid).parent()
    assert supervisor is not None
    supervisor.kill()
    wait_for(lambda: not left_of(names), what="all is removed")
    wait_for(lambda: not marked_processes(f"{cluster.name}-"), what="no process is left")


def test_what_pretends_to_be_a_tracker_is_killed_after_a_while(flame: Any) -> None:
    def pretend() -> int:
        code = "import time; time.sleep(600) # resource_tracker import main"
        return subprocess.Popen([sys.executable, "-c", code]).pid

    cluster, client = flame(max=1)
    pid = client.submit(pretend).result()
    client.close()
    cluster.close()
    wait_for(lambda: not psutil.pid_exists(pid), 30)


DRIVER = """
import sys, time
sys.path[:0] = {path!r}
from dask.distributed import Client
from dask_flame import FlameCluster
from tests.core.test_resource_trackers import leave

if __name__ == "__main__":
    cluster = FlameCluster(max=1, dashboard_address=None)
    future = Client(cluster).submit(leave, stay={file!r})
    time.sleep(600)
"""


@pytest.mark.parametrize("killed", ["driver", "driver and supervisor"])
def test_it_goes_with_the_driver(killed: str, tmp_path: Path) -> None:
    file = tmp_path / "names"
    code = DRIVER.format(path=[str(ROOT)], file=str(file))
    driver = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "T": str(tmp_path), "TMPDIR": str(tmp_path)},
    )
    try:
        pid, *names = wait_for_text(file).split("\n")
        assert left_of(names) == names
        supervisor = psutil.Process(int(pid)).parent()
        assert supervisor is not None
        if "supervisor" in killed:
            supervisor.kill()
    finally:
        driver.kill()
        driver.wait()
    wait_for(lambda: not left_of(names), what="all is removed")
    wait_for(lambda: not marked_processes(str(tmp_path), variable="T"), what="no process is left")

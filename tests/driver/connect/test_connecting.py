"""``dask_flame.connect`` on this machine, and what one driver leaves to the next."""

from __future__ import annotations

import gc
import os
import signal
import stat
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from dask.distributed import Client
from distributed.protocol.pickle import dumps
from distributed.utils import LoopRunner

import dask_flame
from dask_flame import FlameCluster, Pool, report
from dask_flame.backends.local.connection_file import read_connection
from dask_flame.core.connection import ConnectionInfo, new_key, seal, unseal
from dask_flame.driver.connect.handover import packed, unpacked
from dask_flame.errors import BackendError, FlameError, PoolError
from tests.support.waiting import wait_for

OBSERVER = """
import sys
from dask.distributed import Client
import dask_flame
from dask_flame.driver.attached_runners import _connected, attach_runner
from dask_flame.errors import AttachError, BackendError, FlameError

client = dask_flame.connect(sys.argv[1], backend="local")
futures = dask_flame.recover(client)
print("sees", {key: future.result() for key, future in futures.items()}, flush=True)
calls = dask_flame.reports_of(client).calls
print("curve", *calls["steps"].series["loss"].values, flush=True)
for change in (
    lambda: client.submit(abs, 1),
    lambda: client.cancel(futures),
    client.shutdown,
    lambda: dask_flame.stop(futures["steps"]),
    lambda: attach_runner(client, "runner-1"),
    # Ways round the refusals above: the scheduler refuses.
    lambda: Client.submit(client, abs, 1, key="own").result(),
    lambda: Client.scatter(client, [1]),
    lambda: Client.retry(client, futures["steps"]),
    lambda: client.sync(client.scheduler.flame_stop, keys=["waits"], how="raise", client=client.id),
    lambda: client.sync(_connected, client, "runner-1", {}),
):
    try:
        change()
    except (FlameError, AttachError) as error:
        print("refused", error, flush=True)
    else:
        print("not refused", change, flush=True)
Client.cancel(client, list(futures.values()), force=True)
try:
    dask_flame.connect(sys.argv[1], adopt=True, backend="local")
except BackendError as error:
    print("not adopted", error, flush=True)
print("ready", flush=True)
sys.stdin.read()
client.close()
"""


def steps() -> str:
    for step in range(3):
        report(step=step, loss=float(step))
    return "done"


def observe(name: str, tmp_path: Path) -> subprocess.Popen[str]:
    script = tmp_path / "observer.py"
    script.write_text(OBSERVER)
    return subprocess.Popen(
        [sys.executable, str(script), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said_until_ready(observer: subprocess.Popen[str]) -> list[str]:
    assert observer.stdout is not None
    said: list[str] = []
    for line in observer.stdout:
        if line.strip() == "ready":
            return said
        said.append(line.strip())
    raise AssertionError(f"it has ended: {said}")


@pytest.mark.process
def test_observers_see_all_and_change_nothing(tmp_path: Path) -> None:
    made = FlameCluster(max=1, dashboard_address=None, security=True, disconnect_grace="1s")
    with made as cluster:
        client = Client(cluster)
        future = client.submit(steps, key="steps")
        assert future.result() == "done"
        before = {event.kind for event in cluster.events}
        with observe(cluster.name, tmp_path) as first, observe(cluster.name, tmp_path) as second:
            said = said_until_ready(first)
            assert said[:2] == ["sees {'steps': 'done'}", "curve 0.0 1.0 2.0"]
            assert [line.split(" is not for an observer")[0] for line in said[2:-1]] == [
                "refused client.submit()",
                "refused client.cancel()",
                "refused client.shutdown()",
                "refused stop()",
                "refused a cell in runner-1",
                "refused submit()",
                "refused scatter()",
                "refused retry()",
                "refused stop()",
                "refused a cell in runner-1",
            ]
            assert f"its scheduler is in its driver, process {os.getpid()} (" in said[-1]
            assert 'scheduler="pod"' in said[-1]
            said_until_ready(second)
            # One goes by itself, and one is killed.
            assert first.stdin is not None
            first.stdin.close()
            assert first.wait(60) == 0
            second.kill()
            second.wait()
        assert future.result() == "done"
        assert {event.kind for event in cluster.events} == before
        with observe(cluster.name, tmp_path) as third:
            said_until_ready(third)
            client.close()
            # The lease lapses although it is connected.
            wait_for(lambda: not cluster.runners)
            wait_for(lambda: any(event.kind == "lease" for event in cluster.events))
            assert third.poll() is None
            third.kill()


DRIVER = """
import sys
from dask_flame import FlameCluster

FlameCluster(name=sys.argv[1], max=1, dashboard_address=None, disconnect_grace="1s")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.process
def test_an_observer_leaves_nothing_if_its_cluster_is_suspended_or_ends() -> None:
    name = f"ends-{os.getpid()}"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        before = set(threading.enumerate())
        observer = dask_flame.connect(name)
        driver.send_signal(signal.SIGSTOP)
        with pytest.raises(BackendError, match=r"does not answer within timeout=0\.5 s"):
            dask_flame.connect(name, timeout="0.5s")
        driver.send_signal(signal.SIGCONT)
        assert driver.stdin is not None
        driver.stdin.close()
    # It has closed itself, which does not end its event loop.
    wait_for(lambda: observer.status == "closed", 120)
    observer.close()
    wait_for(lambda: set(threading.enumerate()) <= before)


@pytest.mark.process
def test_a_closed_observer_is_collected_without_the_lock_of_all_loops() -> None:
    """The garbage collector may run in a thread that holds it."""
    with FlameCluster(max=1, dashboard_address=None, name="collected"):
        observer = dask_flame.connect("collected")
        observer.close()
        gone = weakref.ref(observer)

        def collect() -> None:
            nonlocal observer
            with LoopRunner._lock:
                del observer
                gc.collect()

        collects = threading.Thread(target=collect, daemon=True)
        collects.start()
        collects.join(30)
        assert not collects.is_alive(), "it waits for the lock"
        assert gone() is None


@pytest.mark.process
def test_the_file_is_for_this_user_alone_and_ends_with_the_driver() -> None:
    with FlameCluster(max=1, dashboard_address=None) as cluster:
        folder = cluster.backend.folder
        assert folder is not None
        file = Path(folder) / "connection.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        there = read_connection(folder)
        assert there is not None
        assert there.address == cluster.scheduler_address
    assert not file.exists()
    assert read_connection(folder) is None


@pytest.mark.process
def test_a_name_that_nobody_has() -> None:
    with pytest.raises(BackendError, match=r"there is no cluster no-such-one with backend='local'"):
        dask_flame.connect("no-such-one")
    with pytest.raises(PoolError, match="name"):
        dask_flame.connect("")
    with pytest.raises(BackendError, match="--app is an option of Fly"):
        dask_flame.connect("shop", app="mine")
    with pytest.raises(FlameError, match="there is no Dask client"):
        dask_flame.recover()


# What is left to the next driver


class Leaving:
    """A cluster, as far as it is left to another driver."""

    name = "shop"
    disconnect_grace = 10.0
    max_lifetime = None
    home_limit = 1 << 30
    dashboard_address = None
    _dashboard_token = "t0ken"
    _hash_seed = "7"

    def __init__(self, pool: Pool, code: Any = True) -> None:
        from dask_flame.core.packages_option import packages_option
        from dask_flame.driver.connect.handover import Given
        from dask_flame.driver.fleets import PoolFleets
        from dask_flame.files.driver.cluster_files import ClusterFiles

        self.fleets = PoolFleets({"gpu": pool})
        self._given = Given(code=code, packages=packages_option("packages", "check"))
        self._files = ClusterFiles(None, remote=True, disposable=True)


@pytest.mark.unit
def test_a_pool_is_left_with_the_values_of_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE_ONLY", "s3cr3t")
    pool = Pool(max=3, secrets={"HERE_ONLY": None, "OTHER": "x"}, setup=lambda: 1, spare=1)
    left = packed(Leaving(pool))
    monkeypatch.delenv("HERE_ONLY")
    handover = unpacked(left)
    got = handover.options["pools"]["gpu"]
    assert dict(got.secrets) == {"HERE_ONLY": "s3cr3t", "OTHER": "x"}
    assert (got.max, got.spare, got.setup()) == (3, 1, 1)
    assert handover.token == "t0ken"


@pytest.mark.unit
def test_callbacks_that_cannot_be_pickled_stay_behind() -> None:
    lock = threading.Lock()
    pool = Pool(max=3, on_grow=lambda pool, n: lock.acquire(), cpus=2)
    got = unpacked(packed(Leaving(pool, code=[threading.Lock()]))).options
    assert got["pools"]["gpu"].on_grow is None
    assert got["pools"]["gpu"].cpus == 2
    assert got["code"] is True


@pytest.mark.unit
def test_what_another_version_left_is_refused() -> None:
    import pickle

    values = pickle.loads(packed(Leaving(Pool(max=1))))
    with pytest.raises(
        BackendError, match=r"had dask-flame 0\.0\.1, .* pip install dask-flame==0\.0\.1"
    ):
        unpacked(dumps({**values, "version": "0.0.1"}))
    missing = b"cno_such_module\nPool\n."
    with pytest.raises(BackendError, match="the pool 'gpu' uses what this process does not have"):
        unpacked(dumps({**values, "pools": {"gpu": missing}}))


@pytest.mark.unit
def test_only_the_key_opens_what_is_sealed() -> None:
    key, content = new_key(), b"TOKEN=s3cr3t" * 100
    sealed = seal(key, content)
    assert b"s3cr3t" not in sealed
    assert unseal(key, sealed) == content
    with pytest.raises(ValueError, match="another key"):
        unseal(new_key(), sealed)


@pytest.mark.unit
def test_its_secrets_are_not_shown() -> None:
    info = ConnectionInfo(security={"tls_client_key": "k3y"}, key=new_key(), port=1)
    assert "k3y" not in repr(info)
    assert info.key not in repr(info)
    assert info.key not in info.proof
    assert set(info.secrets) == {"k3y", info.key}
    assert ConnectionInfo.loads(info.dumps()) == info

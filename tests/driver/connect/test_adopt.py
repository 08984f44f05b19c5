"""Another process becomes the driver of a cluster whose scheduler is in a pod."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import pytest
import yaml
from dask.distributed import Client

import dask_flame
from dask_flame.driver.connect.entrance import open_door
from dask_flame.errors import BackendError, FlameError
from tests.driver.connect.adopting import adopting
from tests.driver.connect.processes import (
    ADOPTER,
    OBSERVER,
    Processes,
    kill,
    ran,
    says,
    token,
)
from tests.fakes.kubernetes import FakeKubernetes
from tests.support.paths import ROOT, free_port
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

ROLES = ROOT / "deploy/kubernetes"
RIGHTS = [
    rule
    for name in ("role-remote.yaml", "components/connect/role-connect.yaml")
    for rule in next(yaml.safe_load_all((ROLES / name).read_text()))["rules"]
]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    # All pods of the fake share this machine's ports.
    monkeypatch.setenv("DASK_FLAME__SCHEDULER__PORT", str(free_port()))
    monkeypatch.setenv("DASK_FLAME__SCHEDULER__DASHBOARD_PORT", str(free_port()))
    monkeypatch.setenv("DASK_FLAME__BACKEND", "kubernetes")
    dask.config.refresh()
    with FakeKubernetes(namespaces={"team": {}}, env={"PYTHONPATH": str(ROOT)}).in_thread() as fake:
        fake.grant("driver", RIGHTS)
        monkeypatch.setenv("KUBECONFIG", fake.kubeconfig(tmp_path / "kubeconfig"))
        yield fake
        wait_for(fake.at_rest, within=60, what=f"nothing is left: {fake.left()}")
    monkeypatch.undo()
    dask.config.refresh()


NEW_KERNEL = """
import logging, threading
from IPython.core.interactiveshell import InteractiveShell

logging.basicConfig()
InteractiveShell.instance().run_line_magic("load_ext", "dask_flame")
for thread in threading.enumerate():
    if thread.name == "flame-left":
        thread.join()
"""


@pytest.fixture
def start(tmp_path: Path, fake: FakeKubernetes) -> Iterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    processes.close()


@pytest.fixture
def adopt(start: Processes) -> Iterator[Callable[[], Client]]:
    """Adopts the cluster, once its scheduler has noticed that its driver is gone."""
    with adopting() as adopt:
        yield adopt


def test_all_results_and_curves_are_there_after_two_kills(
    fake: FakeKubernetes, start: Processes, adopt: Any, tmp_path: Path
) -> None:
    kernel = start.kernel(calls=5, most=3)
    with pytest.raises(BackendError, match=f"its driver is there: process {kernel.pid} on "):
        dask_flame.connect("shop", adopt=True)
    kill(kernel)
    adopter = start(ADOPTER, until="adopted train-0 train-1 train-2 train-3 train-4")
    kill(adopter)
    client = adopt()
    cluster: Any = client.cluster
    futures = dask_flame.recover()
    assert list(futures) == [f"train-{n}" for n in range(5)]
    assert futures["train-0"].result() == 0
    assert cluster.pools["default"].max == 4
    assert len(cluster.runners) >= 3
    assert str(cluster.budget) == "40 runner-hours"
    (tmp_path / "go-on").touch()
    assert [futures[f"train-{n}"].result() for n in (1, 2, 4)] == [10, 20, 40]
    with pytest.raises(ValueError, match="diverged"):
        futures["train-3"].result()
    assert ran(tmp_path) == ["0", "1", "2", "3", "4"]
    curves = dask_flame.reports_of(client)
    for n in range(5):
        wait_for(lambda n=n: len(curves.calls[f"train-{n}"].series["loss"]) == 10)  # type: ignore[misc]
        losses = curves.calls[f"train-{n}"].series["loss"].values
        assert list(losses) == pytest.approx([1 / step + n for step in range(1, 11)])
    boots = [event for event in cluster.events if event.kind == "boot"]
    assert boots[0].runners[0] == "runner-1"  # as the first driver asked
    # It is a whole driver: others boot, with the secrets of the first one.
    cluster.scale(4)
    client.wait_for_workers(4, timeout=120)
    names = client.run(token)
    assert set(names.values()) == {"s3cr3t"}
    assert len(names) == 4
    assert list(dask_flame.recover()) == list(futures)
    del futures["train-0"]
    wait_for(lambda: "train-0" not in dask_flame.recover())


def test_each_adopter_is_killed_and_followed_by_another(
    fake: FakeKubernetes, start: Processes, adopt: Any, tmp_path: Path, adopters: int
) -> None:
    calls = [f"train-{n}" for n in range(3)]
    driver = start.kernel(calls=3, most=2)
    for number in range(adopters):
        kill(driver)
        env = {"OWN": str(number)}
        driver = start(ADOPTER, str(tmp_path), until=f"adopted {' '.join(calls)}\n", env=env)
        calls.append(f"own-{number}")
    kill(driver)
    client = adopt()
    futures = dask_flame.recover()
    assert list(futures) == calls
    (tmp_path / "go-on").touch()
    results = client.gather(futures)
    own = {f"own-{number}": number for number in range(adopters)}
    assert results == {"train-0": 0, "train-1": 10, "train-2": 20, **own}
    assert ran(tmp_path) == sorted(["0", "1", "2", *own])
    curves = dask_flame.reports_of(client)
    for n in range(3):
        wait_for(lambda n=n: len(curves.calls[f"train-{n}"].series["loss"]) == 10)  # type: ignore[misc]
    assert not [event for event in client.cluster.events if event.kind == "lost"]  # type: ignore[union-attr]


def test_one_of_two_adopters_wins_and_one_that_dies_blocks_nobody(
    fake: FakeKubernetes, start: Processes, adopt: Any, tmp_path: Path
) -> None:
    kill(start.kernel())
    dies = start(ADOPTER, until="in the middle", env={"DIES": "1"})
    with pytest.raises(BackendError, match=f"at this moment: process {dies.pid} on "):
        dask_flame.connect("shop", adopt=True)
    kill(dies)
    wait_for(lambda: driver_now()["who"] == "", 120)
    # A new kernel is told what to type.
    words = (sys.executable, "-c", NEW_KERNEL)
    said = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stderr
    assert re.search(
        r"cluster shop still lives, without a driver \(it ends in \d+ s\); to go on with it: "
        r'client = dask_flame.connect\("shop-\w+", adopt=True\)\n',
        said,
    )
    (tmp_path / "go-on").touch()
    barrier = threading.Barrier(2)

    def try_it() -> Client | BackendError:
        barrier.wait(60)
        try:
            return dask_flame.connect("shop", adopt=True)
        except BackendError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        trials = [pool.submit(try_it) for _ in range(2)]
        outcomes = [trial.result() for trial in trials]
    won = [outcome for outcome in outcomes if isinstance(outcome, Client)]
    lost = [str(outcome) for outcome in outcomes if isinstance(outcome, BackendError)]
    assert len(won) == 1, lost
    assert re.search(rf"(there|at this moment): process {os.getpid()} on ", lost[0])
    assert dask_flame.recover(won[0])["train-1"].result() == 10
    assert ran(tmp_path) == ["0", "1"]
    won[0].close()
    won[0].cluster.close()  # type: ignore[union-attr]


@pytest.fixture
def adopters(request: pytest.FixtureRequest) -> int:
    """Number of processes that take a cluster over, one after the other."""
    return int(request.config.getoption("adopters"))


def driver_now() -> Mapping[str, Any]:
    """Who drives the cluster, as its scheduler says."""

    async def ask() -> Mapping[str, Any] | None:
        async with contextlib.AsyncExitStack() as stack:
            return await (await open_door(stack, "shop", None, {})).driver()

    answer = asyncio.run(ask())
    assert answer is not None
    return answer


def test_a_driver_that_comes_back_after_it_was_replaced_ends_nothing(
    fake: FakeKubernetes, start: Processes, adopt: Any, tmp_path: Path
) -> None:
    # It is frozen, as on a laptop that is closed. Only its silence tells.
    grace = 20.0
    kernel = start.kernel(grace=f"{grace:g}s", env={"DASK_FLAME__SILENCE": "2s"})
    kernel.send_signal(signal.SIGSTOP)
    frozen = time.monotonic()
    client = adopt()
    cluster: Any = client.cluster
    futures = dask_flame.recover()
    cluster.scale(3)
    client.wait_for_workers(3, timeout=120)
    # For longer than a driver that is lost would be waited for.
    wait_for(lambda: time.monotonic() > frozen + 1.5 * grace)
    kernel.send_signal(signal.SIGCONT)
    replaced = rf"another process has become .*: process {os.getpid()} on .*connect\(\"shop\"\)"
    assert re.search(rf"^closed {replaced}", says(kernel, "closed"))
    assert re.search(rf"^future FutureCancelledError .*{replaced}", says(kernel, "future"))
    assert re.search(rf"^submit ClosedClientError .*{replaced}", says(kernel, "submit"))
    assert re.search(rf"^resize ClosedError .*{replaced}", says(kernel, "resize"))
    assert says(kernel, "recover").startswith("recover FlameError there is no Dask client")
    assert kernel.wait(60) == 0  # its exit handlers leave everything too
    (tmp_path / "go-on").touch()
    assert futures["train-1"].result() == 10
    assert len(client.run(os.getpid)) == 3
    assert not [event for event in cluster.events if event.kind == "lost"]
    assert ran(tmp_path) == ["0", "1"]


def test_after_the_grace_nothing_is_there(fake: FakeKubernetes, start: Processes) -> None:
    kernel = start.kernel(grace="5s")
    dies = start(ADOPTER, until="waits", env={"DIES": "1"})
    kill(kernel)
    assert says(dies, "in the middle")
    kill(dies)
    wait_for(fake.at_rest, 120, what=f"nothing is left: {fake.left()}")
    with pytest.raises(BackendError, match=r"there is no cluster shop .* disconnect_grace after"):
        dask_flame.connect("shop", adopt=True)


def test_observers_only_look(
    fake: FakeKubernetes, start: Processes, adopt: Any, tmp_path: Path
) -> None:
    kernel = start.kernel(grace="4s")
    kill(start(OBSERVER, until="observes 0"))
    observer = dask_flame.connect("shop")
    with pytest.raises(FlameError, match=r"client.submit\(\) is not for an observer"):
        observer.submit(abs, -1)
    futures = dask_flame.recover(observer)
    assert list(futures) == ["train-0", "train-1"]
    (tmp_path / "go-on").touch()
    assert futures["train-1"].result() == 10
    curves = dask_flame.reports_of(observer)
    wait_for(lambda: len(curves.calls["train-1"].series["loss"]) == 10)
    assert "another process" not in repr(observer)
    kept = start(OBSERVER, until="observes 0")
    observer.close()
    assert driver_now()["who"].startswith(f"process {kernel.pid} on ")
    assert kernel.poll() is None
    kill(kernel)
    # One is connected, and keeps nothing alive.
    wait_for(fake.at_rest, 120, what=f"nothing is left: {fake.left()}")
    assert kept.poll() is None

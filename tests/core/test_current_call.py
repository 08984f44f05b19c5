"""A report is known to be of its call from wherever the call makes it."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import pytest
from distributed import Client, LocalCluster

from dask_flame import FlameCluster, Reports, report
from dask_flame.reports.runner.bound import BoundReport
from dask_flame.reports.runner.report import _warn_forked, _warn_no_call
from tests.reports.driver.test_replica import there
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


@pytest.fixture(scope="module", autouse=True)
def _tracker() -> None:
    # Python's own helper of multiprocessing, which ends with this process and not with a test.
    resource_tracker.ensure_running()


@pytest.fixture(scope="module", params=["stock", "flame"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """Of a cluster with one runner, a process, that has room for four calls."""
    with running(request.param) as client:
        yield client


@contextlib.contextmanager
def running(kind: str) -> Iterator[Client]:
    cluster: Any
    if kind == "stock":
        # Daemons, as Dask's workers are, may not have processes of multiprocessing.
        with dask.config.set({"distributed.worker.daemon": False}):
            cluster = LocalCluster(
                n_workers=1,
                threads_per_worker=4,
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False, "plugins": [Reports()]},
            )
    else:
        # Its thread would begin in a test, and not end with it.
        with dask.config.set({"flame.local.echo": False}):
            cluster = FlameCluster(min=1, max=1, concurrency=4, dashboard_address=None)
    with cluster, Client(cluster) as client:
        client.wait_for_workers(1)
        client.run(_know, str(ROOT))
        client.run(_track)
        yield client


def _know(folder: str) -> None:
    if folder not in sys.path:
        sys.path.append(folder)


def _track() -> None:
    # A runner's own, which ends with it and not with a test.
    resource_tracker.ensure_running()


def key(i: object = "") -> str:
    """A key of this test's own."""
    return f"{os.environ['PYTEST_CURRENT_TEST'].partition(' ')[0]}-{i}"


def values(client: Client, of: str) -> list[float]:
    return list(there(client.cluster).calls[of].series["loss"].values)


def together(folder: str, me: float, n: int) -> None:
    """Wait until so many calls run at once."""
    (Path(folder) / f"{me}").touch()
    wait_for(lambda: len(list(Path(folder).iterdir())) >= n, within=60)


# Threads


def in_threads(folder: str, me: float) -> None:
    together(folder, me, 3)

    def helper(depth: int) -> None:
        report(loss=me)
        if depth:
            thread = threading.Thread(target=helper, args=(depth - 1,))
            thread.start()
            thread.join()

    threads = [threading.Thread(target=helper, args=(2,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: report(loss=me), range(10)))
    for thread in threads:
        thread.join()


async def in_tasks(folder: str, me: float, n: int) -> None:
    await asyncio.to_thread(together, folder, me, n)

    async def helper() -> None:
        report(loss=me)
        await asyncio.to_thread(report, loss=me)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(helper())


def test_threads_report_for_the_call_that_started_them(client: Client, tmp_path: Path) -> None:
    futures = [client.submit(in_threads, str(tmp_path), i, key=key(i)) for i in (1.0, 2.0)]
    last = client.submit(together, str(tmp_path), 3.0, 3)
    client.gather([*futures, last])
    for i in (1.0, 2.0):
        assert values(client, key(i)) == [i] * 19
        steps = there(client.cluster).calls[key(i)].series["loss"].steps
        assert list(steps) == list(range(19))


def test_tasks_report_for_the_coroutine_that_started_them(client: Client, tmp_path: Path) -> None:
    # What a coroutine starts is known on our runners; on others, while nothing else runs.
    n = 2 if isinstance(client.cluster, FlameCluster) else 1
    futures = [client.submit(in_tasks, str(tmp_path), i, n, key=key(i)) for i in range(n)]
    client.gather(futures)
    for i in range(n):
        assert values(client, key(i)) == [float(i)] * 6


def leaves_a_thread(path: str) -> None:
    def later() -> None:
        wait_for(lambda: os.path.exists(path), within=60)
        report(loss=2.0)

    report(loss=1.0)
    threading.Thread(target=later).start()


def test_what_a_thread_reports_late_is_its_calls_still(client: Client, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    client.submit(leaves_a_thread, str(flag), key=key()).result()
    assert values(client, key()) == [1.0]
    flag.touch()
    wait_for(lambda: values(client, key()) == [1.0, 2.0])
    assert there(client.cluster).calls[key()].state == "done"


_pool: list[ThreadPoolExecutor] = []


def by_a_pool_of_all(me: float) -> None:
    if not _pool:
        _pool.append(ThreadPoolExecutor(1))
    _pool[0].submit(report, loss=me).result()


def test_a_pool_that_outlives_its_call_reports_for_the_one_that_runs(client: Client) -> None:
    for i in (1.0, 2.0, 3.0):
        client.submit(by_a_pool_of_all, i, key=key(i)).result()
        assert values(client, key(i)) == [i]


def of_nobody(folder: str, me: float) -> str:
    together(folder, me, 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _warn_no_call.cache_clear()
        _pool[0].submit(report, loss=me).result()
        together(folder, me + 0.5, 4)
    return " ".join(str(w.message) for w in caught)


def test_what_could_be_of_several_calls_is_not_guessed(client: Client, tmp_path: Path) -> None:
    client.submit(by_a_pool_of_all, 0.0).result()
    futures = [client.submit(of_nobody, str(tmp_path), i, key=key(i)) for i in (1.0, 2.0)]
    assert "report.bind()" in "".join(client.gather(futures))
    assert not {key(1.0), key(2.0)} & set(there(client.cluster).calls)


def by_a_bound_one(folder: str, me: float) -> None:
    bound = report.bind()
    together(folder, me, 2)
    _pool[0].submit(bound, loss=me, step=7).result()


def test_what_is_bound_is_of_its_call(client: Client, tmp_path: Path) -> None:
    client.submit(by_a_pool_of_all, 0.0).result()
    futures = [client.submit(by_a_bound_one, str(tmp_path), i, key=key(i)) for i in (1.0, 2.0)]
    client.gather(futures)
    for i in (1.0, 2.0):
        assert values(client, key(i)) == [i]
        assert list(there(client.cluster).calls[key(i)].series["loss"].steps) == [7]


# Processes

CHILD = """
import dask_flame
for i in range(300):
    dask_flame.report(step=i, loss=float(i))
dask_flame.report(loss="low")
"""


def in_a_program() -> str:
    environment = {**os.environ, **report.bind().env}
    done = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True)
    report(end=1.0)
    return done.stderr.decode()


def test_a_program_reports_for_the_call_that_started_it(client: Client) -> None:
    with pytest.warns(UserWarning, match="loss='low'.*::test_a_program.* on"):
        said = client.submit(in_a_program, key=key()).result()
    assert values(client, key()) == [float(i) for i in range(300)]
    assert list(there(client.cluster).calls[key()].series["end"].steps) == [300]
    assert "loss='low'" in said


def many(bound: Callable[..., None], n: int, kill: bool = False) -> None:
    for i in range(n):
        bound(loss=float(i))
    if kill:
        os.kill(os.getpid(), signal.SIGKILL)


def in_processes(method: str, n: int) -> None:
    context = multiprocessing.get_context(method)
    bound = report.bind()
    bound(loss=-1.0)
    processes = [context.Process(target=many, args=(bound, n, i == 0)) for i in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_all_that_a_process_reported_is_there(client: Client, method: str) -> None:
    client.submit(in_processes, method, 50, key=key()).result()
    got = values(client, key())
    assert got[0] == -1.0
    assert sorted(got[1:]) == sorted(2 * [float(i) for i in range(50)])


def unbound_in_a_fork() -> str:
    reading, writing = os.pipe()
    _warn_forked.cache_clear()
    if not os.fork():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            report(loss=1.0)
            report(loss=2.0)
        os.write(writing, " ".join(str(w.message) for w in caught).encode())
        os._exit(0)
    os.wait()
    return os.read(reading, 10_000).decode()


def test_a_fork_that_is_not_bound_is_told_so_once(client: Client) -> None:
    said = client.submit(unbound_in_a_fork, key=key()).result()
    assert said.count("report.bind()") == 1
    assert key() not in there(client.cluster)


def bound_and_not() -> tuple[str, str, str]:
    bound = report.bind()
    secret, _, address = bound.env["DASK_FLAME_REPORT"].partition(":")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        BoundReport(address, "0" * 32)(loss=5.0)
    assert "cannot reach the runner" in str(caught[0].message)
    report(loss=1.0)
    return address, secret, repr(bound)


def test_a_secret_is_needed_and_not_shown() -> None:
    with running("stock") as client:
        address, secret, shown = client.submit(bound_and_not, key=key()).result()
        assert len(secret) == 32
        assert secret not in shown
        assert values(client, key()) == [1.0]
        # From this process too, as it knows the secret.
        bound = BoundReport(address, secret)
        bound(loss=2.0)
        wait_for(lambda: values(client, key()) == [1.0, 2.0])
        client.cluster.scale(0)
        wait_for(lambda: not client.scheduler_info()["workers"])
        with pytest.warns(UserWarning, match="cannot reach the runner"):
            bound(loss=3.0)
        bound(loss=4.0)


def test_it_travels_by_its_name() -> None:
    assert cloudpickle.loads(cloudpickle.dumps(report)) is report
    assert "step" in (report.__doc__ or "")

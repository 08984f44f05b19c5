from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from dask import annotate, delayed
from distributed import (
    Client,
    LocalCluster,
    Scheduler,
    SchedulerPlugin,
    fire_and_forget,
    get_client,
)
from distributed.client import FutureCancelledError

import dask_flame
from dask_flame import FlameCluster, Lease
from dask_flame.core.messages import LEASE, MARK
from dask_flame.errors import CallFailed
from dask_flame.lease.resume import ResumableLink
from dask_flame.testing import Proxy
from tests.lease.resume_calls import once
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

dask_flame.resume_clients()


# What calls do: each appends a byte to its own file, so that it is seen how often it ran.


def ran(folder: Path) -> list[int]:
    """How often each call ran that ran at all."""
    return [file.stat().st_size for file in sorted(folder.glob("call-*"))]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Calls wait in the middle for as long as this file is there."""
    path = tmp_path / "gate"
    path.touch()
    yield path
    path.unlink(missing_ok=True)


class Setting:
    """A leased scheduler, a proxy before it, and what a test asks of the scheduler's inside."""

    def __init__(self, cluster: Any, proxy: Proxy) -> None:
        self.cluster = cluster
        self.scheduler = cluster.scheduler
        self.proxy = proxy

    @property
    def lease(self) -> Lease:
        lease: Lease = self.scheduler.plugins[Lease.name]
        return lease

    def connected(self, client: Client) -> bool:
        return client.id in self.scheduler.client_comms

    def kept(self, client: Client) -> bool:
        records = self.lease._sessions.records if self.lease._sessions else {}
        return client.id in records and records[client.id].release is not None

    def cut(self, client: Client, **kwargs: Any) -> None:
        """Cut, and wait until both sides know."""
        self.proxy.cut(**kwargs)
        wait_for(lambda: self.kept(client), what="the scheduler keeps")

    def back(self, client: Client) -> None:
        self.proxy.restore()
        wait_for(lambda: self.connected(client) and ResumableLink.of(client)._sender, what="back")


@contextmanager
def local(**lease: Any) -> Iterator[Setting]:
    with LocalCluster(
        n_workers=1,
        threads_per_worker=4,
        processes=False,
        protocol="tcp",
        dashboard_address=":0",
    ) as cluster:

        async def add() -> None:
            await cluster.scheduler.register_scheduler_plugin(Lease(**lease), idempotent=False)

        cluster.sync(add)
        with Proxy(cluster.scheduler_address) as proxy:
            yield Setting(cluster, proxy)


@contextmanager
def flame(**lease: Any) -> Iterator[Setting]:
    with (
        FlameCluster(
            max=2, concurrency=2, disconnect_grace=lease["grace"], dashboard_address=None
        ) as cluster,
        Proxy(cluster.scheduler_address) as proxy,
    ):
        yield Setting(cluster, proxy)


@pytest.fixture(params=[local, flame], ids=["LocalCluster", "FlameCluster"])
def setting(request: Any) -> Iterator[Setting]:
    with request.param(grace="30s") as made:
        yield made


# The connection is cut and comes back


def test_calls_go_on_while_the_connection_is_gone(
    setting: Setting, tmp_path: Path, gate: Path
) -> None:
    with Client(setting.proxy.address) as client:
        done = client.submit(once, tmp_path, 100)
        gate.unlink()
        assert done.result(timeout=60) == 100
        gate.touch()
        futures = client.map(lambda n: once(tmp_path, n), range(3))
        wait_for(lambda: len(ran(tmp_path)) == 4)
        answers: list[Any] = []
        waiting = threading.Thread(target=lambda: answers.append(futures[0].result()))
        waiting.start()
        setting.cut(client)
        assert {f.status for f in futures} == {"pending"}
        gate.unlink()
        wait_for(lambda: {f.key for f in futures} <= in_memory(setting))
        assert done.status == "finished"
        assert waiting.is_alive()
        setting.back(client)
        assert client.gather(futures) == [0, 1, 2]
        waiting.join(40)
        assert answers == [0]
        assert done.result() == 100
    assert ran(tmp_path) == [1, 1, 1, 1]


def in_memory(setting: Setting) -> set[Any]:
    return {key for key, ts in dict(setting.scheduler.tasks).items() if ts.state == "memory"}


def test_what_is_submitted_while_it_is_gone_runs_once(setting: Setting, tmp_path: Path) -> None:
    with Client(setting.proxy.address) as client:
        first = client.submit(once, tmp_path, 0)
        assert first.result(timeout=60) == 0
        setting.cut(client)
        second = client.submit(lambda n: once(tmp_path, n + 1), first)
        third = client.submit(lambda n: once(tmp_path, n + 1), second)
        dropped = client.submit(once, tmp_path, 9)
        dropped.cancel()
        released = first.key
        del first
        setting.back(client)
        assert third.result(timeout=60) == 2
        wait_for(lambda: released not in in_memory(setting))
        assert dropped.cancelled()
    # The one that was cancelled may have run, or been interrupted before it wrote.
    *rest, _, _, _ = times = sorted(ran(tmp_path))
    assert times[-3:] == [1, 1, 1]
    assert rest in ([], [0], [1])


def test_what_was_on_the_way_is_sent_again_and_nothing_twice(
    setting: Setting, tmp_path: Path
) -> None:
    """Between submission and the start: what was sent is lost in a connection that seems well."""
    with Client(setting.proxy.address) as client:
        base = client.submit(once, tmp_path, 0)
        assert base.result(timeout=60) == 0
        link = ResumableLink.of(client)
        before = link.outbox.handed
        setting.proxy.hold()
        lost = [client.submit(once, tmp_path, n) for n in range(1, 6)]
        after = client.submit(sum, lost)
        forgotten = client.submit(once, tmp_path, 6)
        fire_and_forget(forgotten)
        del forgotten
        # Five, their sum, the forgotten one, that it is to run all the same, and its release.
        wait_for(lambda: link.outbox.handed == before + 9)
        setting.proxy.lose()
        setting.cut(client)
        setting.back(client)
        assert after.result(timeout=60) == 15
        assert client.gather(lost) == [1, 2, 3, 4, 5]
        wait_for(lambda: len(ran(tmp_path)) == 7, what="the forgotten one runs too")
    assert ran(tmp_path) == [1] * 7


@pytest.mark.parametrize("size", [1, 300, 2_000, 20_000, 150_000, 400_000])
def test_a_cut_in_the_middle_of_what_is_sent(size: int, tmp_path: Path) -> None:
    with local(grace="30s") as setting, Client(setting.proxy.address) as client:
        payload = os.urandom(100_000)
        setting.proxy.cut_after(size)
        futures = [
            client.submit(lambda data, n: once(tmp_path, n) + len(data), payload, n)
            for n in range(5)
        ]
        wait_for(lambda: setting.proxy._refusing)
        setting.proxy.restore()
        assert client.gather(futures) == [100_000 + n for n in range(5)]
    assert ran(tmp_path) == [1] * 5


@pytest.mark.parametrize("size", [10, 10_000, 5_000_000])
def test_a_result_that_is_on_its_way_is_fetched_again(
    setting: Setting, tmp_path: Path, size: int
) -> None:
    def make() -> bytes:
        once(tmp_path)
        return bytes(10_000_000)

    with Client(setting.proxy.address) as client:
        future = client.submit(make)
        wait_for(future.done)
        setting.proxy.cut_after(size)
        results: list[bytes] = []
        reading = threading.Thread(target=lambda: results.append(future.result()))
        reading.start()
        wait_for(lambda: setting.proxy._refusing)
        setting.back(client)
        reading.join(60)
        assert [len(result) for result in results] == [10_000_000]
        assert len(client.gather([future])[0]) == 10_000_000
    assert ran(tmp_path) == [1]


def test_results_asked_for_while_it_is_gone_come_when_it_is_back(setting: Setting) -> None:
    with Client(setting.proxy.address) as client:
        future = client.submit(int, 5)
        wait_for(future.done)
        setting.cut(client)
        results: list[int] = []
        reading = threading.Thread(target=lambda: results.append(future.result()))
        reading.start()
        setting.back(client)
        reading.join(60)
        assert results == [5]


def test_errors_and_collections_come_through_a_drop(setting: Setting, gate: Path) -> None:
    folder = gate.parent

    def fail() -> None:
        once(folder)
        raise ValueError("as it should")

    with Client(setting.proxy.address) as client:
        failing = client.submit(fail)
        total = client.compute(delayed(sum)([delayed(once)(folder, n) for n in (1, 2)]))
        wait_for(lambda: len(ran(folder)) == 3)
        setting.cut(client)
        gate.unlink()
        wait_for(
            lambda: (
                setting.scheduler.tasks[failing.key].state == "erred"
                and total.key in in_memory(setting)
            )
        )
        setting.back(client)
        with pytest.raises(ValueError, match="as it should"):
            failing.result(timeout=60)
        assert total.result(timeout=60) == 3
    assert ran(folder) == [1, 1, 1]


def test_many_cuts(setting: Setting, tmp_path: Path) -> None:
    with Client(setting.proxy.address) as client:
        futures = []
        for n in range(40):
            futures.append(client.submit(once, tmp_path, n))
            if n % 4 == 0:
                setting.proxy.cut(refuse=False)
        assert client.gather(futures) == list(range(40))
    assert ran(tmp_path) == [1] * 40


@pytest.mark.parametrize("seed", range(4))
def test_cuts_at_random(seed: int, tmp_path: Path) -> None:
    """Calls, some on others' results, are submitted, forgotten, and fetched through random cuts."""
    random = Random(seed)
    with local(grace="30s") as setting, Client(setting.proxy.address) as client:
        held: dict[int, Any] = {}
        forgotten = []
        for n in range(60):
            if random.random() < 0.25:
                setting.proxy.cut_after(random.choice([1, 40, 300, 900, 3000]))
            if random.random() < 0.1:
                setting.proxy.cut(refuse=False)
            after = [held[k] for k in random.sample(sorted(held), min(len(held), 2))]
            future = client.submit(lambda n, _: once(tmp_path, n), n, after)
            if random.random() < 0.1:
                fire_and_forget(future)
                forgotten.append(n)
            else:
                held[n] = future
            if held and random.random() < 0.2:
                k = random.choice(sorted(held))
                setting.proxy.restore()
                assert held[k].result(timeout=60) == k
                if random.random() < 0.5:
                    del held[k]
            setting.proxy.restore()
        del future, after
        assert client.gather(list(held.values())) == list(held)
        wait_for(lambda: len(ran(tmp_path)) == 60, within=60)
        keys = {held[k].key for k in held}
        state = setting.scheduler.clients[client.id]
        wait_for(lambda: {ts.key for ts in set(state.wants_what)} == keys, within=60)
    assert ran(tmp_path) == [1] * 60


def test_a_connection_that_is_slow(setting: Setting, tmp_path: Path) -> None:
    setting.proxy.delay = 0.05
    with Client(setting.proxy.address) as client:
        futures = [client.submit(once, tmp_path, n) for n in range(5)]
        setting.proxy.cut(refuse=False)
        assert client.gather(futures) == list(range(5))
    assert ran(tmp_path) == [1] * 5


@pytest.mark.parametrize("toward", ["client", "target"])
def test_half_closed(setting: Setting, gate: Path, toward: str) -> None:
    """The new connection of the same client wins over the half-open one, and nothing is lost."""
    with Client(setting.proxy.address) as client:
        future = client.submit(once, gate.parent)
        wait_for(lambda: ran(gate.parent))
        sender = ResumableLink.of(client)._sender
        setting.proxy.half_close(toward=toward)
        if toward == "target":
            # The driver hears nothing of it; in life it would, after its own silence.
            wait_for(lambda: setting.kept(client))
            client.loop.add_callback(sender.abort)
        wait_for(lambda: ResumableLink.of(client)._sender not in (None, sender))
        gate.unlink()
        assert future.result(timeout=60) == 0
        assert setting.connected(client)
        assert client.submit(int, 3).result(timeout=60) == 3
    assert ran(gate.parent) == [1]


def test_what_was_cancelled_or_released_meanwhile_says_so(setting: Setting) -> None:
    with Client(setting.proxy.address) as client, Client(setting.cluster) as other:
        future = client.submit(int, 5, key="five")
        wait_for(future.done)
        setting.cut(client)
        other.cancel([other.submit(int, 5, key="five")], force=True)
        wait_for(lambda: "five" not in dict(setting.scheduler.tasks))
        setting.back(client)
        wait_for(future.cancelled)
        with pytest.raises(FutureCancelledError, match="cancelled or its submission was lost"):
            future.result()


def test_a_result_that_was_lost_meanwhile_is_computed_again() -> None:
    with flame(grace="30s") as setting, Client(setting.proxy.address) as client:
        # Larger than what travels with the end of its call, and so outlives its runner.
        future = client.submit(lambda: (os.getpid(), bytes(100_000)))
        first, _ = future.result(timeout=60)
        setting.cut(client)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: future.key not in in_memory(setting))
        setting.back(client)
        assert future.result(timeout=60)[0] != first


class Unspeakable:
    """Cannot be pickled, or cannot be unpickled: from the first time on, or from the second."""

    def __init__(self, where: str, good: int = 0) -> None:
        self.where = where
        self.good = iter(range(good))

    def __reduce__(self) -> Any:
        fails = next(self.good, None) is None
        if fails and self.where == "here":
            raise TypeError("cannot be pickled")
        return _raise, (fails,)


def _raise(fails: bool) -> None:
    if fails:
        raise TypeError("cannot be unpickled")


@pytest.mark.parametrize("where", ["here", "there"])
def test_what_cannot_be_sent_fails_at_once(where: str, tmp_path: Path) -> None:
    with local(grace="30s") as setting, Client(setting.proxy.address) as client:
        with annotate(mark=Unspeakable(where)):
            bad = client.submit(once, tmp_path, 1)
        with pytest.raises(CallFailed, match=r"annotation 'mark' .*: TypeError: cannot be "):
            bad.result(timeout=60)
    assert ran(tmp_path) == []


@pytest.mark.parametrize("where", ["here", "there"])
def test_what_cannot_be_sent_is_given_up_and_the_rest_goes_on(where: str, tmp_path: Path) -> None:
    """A connection that is broken by what is said on it is not broken for ever."""
    with local(grace="30s") as setting, Client(setting.proxy.address) as client:
        good = client.submit(once, tmp_path)
        assert good.result(timeout=60) == 0
        with annotate(mark=Unspeakable(where, good=1)):
            bad = client.submit(once, tmp_path, 1)
        with pytest.raises(FutureCancelledError, match="its submission was lost"):
            bad.result(timeout=60)
        assert client.submit(once, tmp_path, 2).result(timeout=60) == 2
        assert good.status == "finished"
    assert ran(tmp_path) == [1, 1]


def test_reports_that_come_at_the_moment_of_return(gate: Path) -> None:
    """A client that is back wants keys from its first moment; its first message comes alone."""
    with local(grace="30s") as setting, Client(setting.proxy.address) as client:
        futures = client.map(lambda n: once(gate.parent, n), range(3))
        wait_for(lambda: len(ran(gate.parent)) == 3)
        setting.cut(client)
        lease, arrived = setting.lease, setting.lease.add_client

        def late(scheduler: Any, client: str) -> None:
            arrived(scheduler, client)
            for future in futures:
                message = {"op": "task-retried", "key": future.key}
                scheduler.loop.add_callback(scheduler.client_send, client, message)
                scheduler.loop.call_later(0, scheduler.client_send, client, message)

        lease.add_client = late  # type: ignore[method-assign]
        setting.back(client)
        gate.unlink()
        assert client.gather(futures) == [0, 1, 2]


class Cancels(SchedulerPlugin):
    """Each time a client connects, somebody cancels; distributed tells all clients of it."""

    name = "cancels"

    def add_client(self, scheduler: Scheduler, client: str) -> None:
        cancel = partial(scheduler.stimulus_cancel, [], client, force=False, reason="", msg="")
        scheduler.loop.add_callback(cancel)


def test_a_client_of_a_call_connects_while_others_cancel(flame: Any) -> None:
    """Its first message comes alone, as a Client demands, whatever else is to be said to all."""
    _, client = flame(min=1, max=1)
    client.register_plugin(Cancels())
    assert client.submit(lambda: get_client().submit(int, 3).result()).result(timeout=60) == 3


# It does not come back in time, or not at all


def test_a_cut_longer_than_the_grace(setting: Setting, gate: Path) -> None:
    with Client(setting.cluster) as other, Client(setting.proxy.address) as client:
        setting.lease._sessions.grace = 0.2
        old = client.map(lambda n: once(gate.parent, n), range(2))
        wait_for(lambda: len(ran(gate.parent)) == 2)
        setting.proxy.cut()
        wait_for(lambda: client.id not in setting.scheduler.clients, what="released")
        wait_for(lambda: not {f.key for f in old} & set(dict(setting.scheduler.tasks)))
        assert {f.status for f in old} == {"pending"}
        new = client.submit(once, gate.parent, 5)
        gate.unlink()
        setting.back(client)
        assert new.result(timeout=60) == 5
        for future in old:
            with pytest.raises(FutureCancelledError, match=r"longer than .* grace of 30 s"):
                future.result(timeout=60)
        assert other.submit(int, 1).result(timeout=60) == 1
    assert ran(gate.parent) == [1, 1, 1]


def test_one_that_cannot_come_back_says_so_and_closes(setting: Setting, gate: Path) -> None:
    client = Client(setting.proxy.address, timeout="3s")
    try:
        future = client.submit(once, gate.parent)
        ResumableLink.of(client).grace = 1.0
        setting.cut(client)
        with pytest.raises(FutureCancelledError, match="did not come back in 3 s"):
            future.result(timeout=60)
        wait_for(lambda: client.status == "closed")
    finally:
        client.close()
        client._loop_runner.stop()  # a Client that closes itself leaves its loop's thread


def test_closing_while_it_is_gone(setting: Setting) -> None:
    with Client(setting.proxy.address) as client:
        future = client.submit(int, 1)
        wait_for(future.done)
        setting.cut(client)
        failed: list[BaseException] = []

        def read() -> None:
            try:
                future.result()
            except BaseException as error:
                failed.append(error)

        reading = threading.Thread(target=read)
        reading.start()
    reading.join(60)
    assert not reading.is_alive()
    assert len(failed) == 1


@pytest.mark.slow
def test_the_scheduler_ends() -> None:
    with local(grace="30s") as setting, Client(setting.proxy.address, timeout="2s") as client:
        future = client.submit(int, 1, resources={"what nobody has": 1})
        wait_for(lambda: future.key in dict(setting.scheduler.tasks))
        setting.cluster.sync(setting.scheduler.close)
        with pytest.raises(FutureCancelledError, match="Client lost the connection"):
            future.result(timeout=60)


# Nothing is heard


@pytest.mark.parametrize("lose", [True, False], ids=["lost", "late"])
def test_a_black_hole(gate: Path, lose: bool) -> None:
    """Nobody is told anything: both sides find out by themselves."""
    with local(grace="60s", silence="1.5s") as setting, Client(setting.proxy.address) as client:
        future = client.submit(once, gate.parent)
        wait_for(lambda: ran(gate.parent))
        assert ResumableLink.of(client).silence == 1.5
        setting.proxy.hold()
        lost = client.submit(once, gate.parent, 1)
        if lose:
            setting.proxy.lose()
        wait_for(lambda: setting.kept(client), what="the scheduler finds out")
        wait_for(lambda: ResumableLink.of(client)._sender is None, what="the driver finds out")
        gate.unlink()
        setting.back(client)
        assert client.gather([future, lost]) == [0, 1]
    assert ran(gate.parent) == [1, 1]


def test_a_scheduler_that_is_long_at_work_is_not_taken_for_silent(tmp_path: Path) -> None:
    with local(grace="60s", silence="2.5s") as setting, Client(setting.proxy.address) as client:
        sender = ResumableLink.of(client)._sender
        stock = setting.scheduler.stream_handlers["update-graph"]

        async def slow(**message: Any) -> None:
            # While it takes in a large graph it reads nothing further of this client.
            await asyncio.sleep(6)
            await stock(**message)

        setting.scheduler.stream_handlers["update-graph"] = slow
        assert client.submit(once, tmp_path).result(timeout=60) == 0
        assert ResumableLink.of(client)._sender is sender
    assert ran(tmp_path) == [1]


@contextmanager
def commanded(folder: Path, **settings: str) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """`dask scheduler` and `dask worker`, processes of their own; yields the address and both."""
    file = folder / "scheduler.json"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    env |= {f"DASK_FLAME__{k.upper()}": v for k, v in settings.items()}
    dask = [sys.executable, "-m", "dask"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    options = ["--scheduler-file", str(file), "--no-dashboard"]
    lease = ["--preload", "dask_flame.lease.plugin"]
    parts = [
        subprocess.Popen(
            [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", *lease, *options],
            **quiet,
            env=env,
        ),
        subprocess.Popen(
            [*dask, "worker", "--no-nanny", "--nthreads", "4", *options], **quiet, env=env
        ),
    ]
    try:
        wait_for(lambda: file.exists() and file.read_text().rstrip().endswith("}"))
        yield json.loads(file.read_text())["address"], parts
    finally:
        for part in parts:
            part.kill()
            part.wait()


_DRIVER = """
import pathlib, sys, time
import dask_flame
from distributed import Client
dask_flame.resume_clients()

def once(folder, n):
    with open(f"{folder}/call-{n}", "ab") as file:
        file.write(b"x")
    while pathlib.Path(folder, "gate").exists():
        time.sleep(0.01)
    return n

with Client(sys.argv[1]) as client:
    futures = [client.submit(once, sys.argv[2], n) for n in range(3)]
    print("ready", flush=True)
    print(sum(client.gather(futures)), flush=True)
"""


def _drivers(dask_scheduler: Any) -> list[str]:
    from dask_flame.lease.plugin import is_driver

    return [client for client in dask_scheduler.client_comms if is_driver(client)]


@pytest.mark.slow
def test_a_driver_that_is_stopped_and_goes_on(tmp_path: Path, gate: Path) -> None:
    with commanded(tmp_path, silence="2s", disconnect_grace="10s") as (address, parts):
        driver = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, address, str(tmp_path)], stdout=subprocess.PIPE
        )
        try:
            assert driver.stdout
            assert driver.stdout.readline() == b"ready\n"
            wait_for(lambda: len(ran(tmp_path)) == 3)
            with Client(address, name="observer") as looking:
                assert len(looking.run_on_scheduler(_drivers)) == 1
                driver.send_signal(signal.SIGSTOP)
                wait_for(lambda: not looking.run_on_scheduler(_drivers), what="it is missed")
                gate.unlink()
                driver.send_signal(signal.SIGCONT)
                assert driver.stdout.readline() == b"3\n"
                assert driver.wait(60) == 0
            for part in parts:
                part.wait(timeout=60)
        finally:
            driver.kill()
            driver.wait()
            assert driver.stdout
            driver.stdout.close()
    assert ran(tmp_path) == [1, 1, 1]


@pytest.mark.slow
def test_a_driver_that_stays_stopped(tmp_path: Path, gate: Path) -> None:
    with commanded(tmp_path, silence="2s", disconnect_grace="2s") as (address, parts):
        driver = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, address, str(tmp_path)], stdout=subprocess.DEVNULL
        )
        try:
            wait_for(lambda: len(ran(tmp_path)) == 3)
            driver.send_signal(signal.SIGSTOP)
            parts[0].wait(timeout=60)
        finally:
            driver.kill()
            driver.wait()


@pytest.mark.slow
def test_a_scheduler_of_the_command_line(tmp_path: Path, gate: Path) -> None:
    with commanded(tmp_path, disconnect_grace="5s") as (address, parts):
        with Proxy(address) as proxy, Client(proxy.address) as client:
            future = client.submit(once, tmp_path)
            wait_for(lambda: ran(tmp_path))
            sender = ResumableLink.of(client)._sender
            proxy.cut()
            wait_for(lambda: ResumableLink.of(client)._sender is None)
            gate.unlink()
            proxy.restore()
            assert future.result(timeout=60) == 0
            assert ResumableLink.of(client)._sender not in (None, sender)
        for part in parts:
            part.wait(timeout=60)
    assert ran(tmp_path) == [1]


@pytest.mark.slow
def test_a_scheduler_that_is_stopped_and_goes_on(tmp_path: Path, gate: Path) -> None:
    """Nobody is judged by the time in which the scheduler itself did not run."""
    with commanded(tmp_path, silence="1s", disconnect_grace="2s") as (address, parts):
        with Client(address, timeout="30s") as client:
            link = ResumableLink.of(client)
            futures = [client.submit(once, tmp_path, n) for n in range(2)]
            wait_for(lambda: len(ran(tmp_path)) == 2)
            parts[0].send_signal(signal.SIGSTOP)
            futures.append(client.submit(once, tmp_path, 2))
            wait_for(lambda: link._sender is None, what="the driver hears nothing")
            time.sleep(3)  # longer than the silence and the grace that ought not to count
            gate.unlink()
            parts[0].send_signal(signal.SIGCONT)
            assert client.gather(futures) == [0, 1, 2]
        for part in parts:
            part.wait(timeout=60)
    assert ran(tmp_path) == [1, 1, 1]


_PRELOADED = """
import sys
from distributed import Client
with Client(sys.argv[1]) as client:
    print(client.extensions["flame-lease"].on, client.submit(int, 3).result())
"""


@pytest.mark.slow
def test_a_driver_that_is_told_by_its_configuration(tmp_path: Path) -> None:
    env = {**os.environ, "DASK_DISTRIBUTED__CLIENT__PRELOAD": "dask_flame.lease.resume"}
    with commanded(tmp_path, disconnect_grace="1s") as (address, parts):
        said = subprocess.run(
            [sys.executable, "-c", _PRELOADED, address], env=env, capture_output=True, timeout=60
        )
        assert said.stdout == b"True 3\n", said.stderr.decode()
        for part in parts:
            part.wait(timeout=60)


@pytest.mark.asyncio
async def test_an_asynchronous_client(tmp_path: Path) -> None:
    async with LocalCluster(
        n_workers=1, processes=False, protocol="tcp", dashboard_address=":0", asynchronous=True
    ) as cluster:
        scheduler = cluster.scheduler
        await scheduler.register_scheduler_plugin(Lease("30s"), idempotent=False)
        with Proxy(cluster.scheduler_address) as proxy:
            async with Client(proxy.address, asynchronous=True) as client:
                for n in range(5):
                    future = client.submit(once, tmp_path, n)
                    proxy.cut(refuse=False)
                    assert await future == n
    assert ran(tmp_path) == [1] * 5


# Where there is no lease, or it comes later


def test_without_a_lease_it_is_as_ever() -> None:
    with (
        LocalCluster(
            n_workers=1, processes=False, protocol="tcp", dashboard_address=":0"
        ) as cluster,
        Proxy(cluster.scheduler_address) as proxy,
        Client(proxy.address) as client,
    ):
        assert not ResumableLink.of(client).on
        future = client.submit(time.sleep, 600)
        proxy.cut()
        with pytest.raises(FutureCancelledError, match="re-run your work"):
            future.result(timeout=60)
        proxy.restore()
        wait_for(lambda: client.status == "running")
        assert client.submit(int, 3).result(timeout=60) == 3


def test_a_lease_that_comes_later_and_goes(tmp_path: Path) -> None:
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=4,
            processes=False,
            protocol="tcp",
            dashboard_address=":0",
        ) as cluster,
        Proxy(cluster.scheduler_address) as proxy,
        Client(proxy.address) as client,
    ):
        setting = Setting(cluster, proxy)
        before = [client.submit(once, tmp_path, n) for n in range(3)]
        wait_for(lambda: len(ran(tmp_path)) == 3)
        client.register_plugin(Lease("30s"))
        link = ResumableLink.of(client)
        wait_for(lambda: link.on, what="it is told")
        after = [client.submit(once, tmp_path, n) for n in range(3, 6)]
        setting.cut(client)
        setting.back(client)
        assert client.gather(before + after) == list(range(6))
        with warnings.catch_warnings(action="ignore"):  # distributed's: overwriting
            client.register_plugin(Lease("20s"))
        assert setting.lease.grace == 20
        held = client.submit(once, tmp_path, 6)
        setting.cut(client)
        setting.back(client)
        assert held.result(timeout=60) == 6
        client.unregister_scheduler_plugin(Lease.name)
        wait_for(lambda: not link.on, what="it is told that the lease is gone")
        scheduler = cluster.scheduler
        assert "remove_client" not in vars(scheduler)
        assert scheduler.handlers["register-client"] == scheduler.add_client
        assert not {k for k in scheduler.handlers if k.startswith("flame")}
        # What a client says that has not been told yet does not end its connection.
        stream = client.scheduler_comm
        client.loop.add_callback(stream.send, {"op": MARK, "n": 0})
        assert client.submit(once, tmp_path, 7).result(timeout=60) == 7
        assert client.scheduler_comm is stream
        assert LEASE not in client._periodic_callbacks
    assert ran(tmp_path) == [1] * 8

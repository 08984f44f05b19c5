"""Large results and arguments go between a Client and runners without passing the scheduler."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any

import pytest
from dask.distributed import Client, wait

from dask_flame import FlameCluster
from dask_flame.comm.channel import Channel
from dask_flame.lease.direct_transfer import scheduler_beside
from tests.lease.transfer_calls import LARGE, Homesick, make, name
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

#: Bytes of a large result, and what there may be beside it.
SMALL = 500_000


@dataclass
class Moved:
    """Bytes that this process has written to connections, and read from them."""

    written: int = 0
    read: int = 0

    def since(self) -> tuple[int, int]:
        """How many of each since it was last asked."""
        found = (self.written, self.read)
        self.written = self.read = 0
        return found


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Moved:
    counts = Moved()
    send, receive = Channel.send, Channel.receive

    def counted_send(self: Any, frames: Any) -> int:
        nbytes = send(self, frames)
        counts.written += nbytes
        return nbytes

    async def counted_receive(self: Any) -> list[memoryview]:
        frames = await receive(self)
        counts.read += sum(map(len, frames))
        return frames

    monkeypatch.setattr(Channel, "send", counted_send)
    monkeypatch.setattr(Channel, "receive", counted_receive)
    return counts


def test_large_data_is_moved_once(flame: Any, moved: Moved) -> None:
    cluster, client = flame(max=2, idle_timeout="60s")
    assert scheduler_beside(client) is cluster.scheduler
    # Nobody is there yet: to scatter boots a runner.
    given = make()
    moved.since()
    there = client.scatter(given)
    written, read = moved.since()
    assert LARGE <= written < LARGE + SMALL
    assert read < SMALL
    assert client.submit(len, there).result() == LARGE

    made = client.submit(make)
    wait(made)
    moved.since()
    assert len(made.result()) == LARGE
    written, read = moved.since()
    assert written < SMALL
    assert LARGE <= read < LARGE + SMALL

    several = client.map(make, [LARGE // 4] * 4, pure=False)
    wait(several)
    moved.since()
    assert [len(one) for one in client.gather([*several, there])] == [LARGE // 4] * 4 + [LARGE]
    written, read = moved.since()
    assert written < SMALL
    assert 2 * LARGE <= read < 2 * LARGE + SMALL


def test_a_copy_on_each_runner(flame: Any) -> None:
    cluster, client = flame(min=2, max=2, security=True)
    client.wait_for_workers(2)
    there = client.scatter([1, 2], broadcast=True)
    assert client.gather(there) == [1, 2]
    assert all(len(holders) == 2 for holders in client.who_has(there).values())
    one = next(iter(cluster.scheduler.workers))
    (alone,) = client.scatter(["alone"], workers=[one])
    assert client.who_has(alone)[alone.key] == (one,)


def test_after_its_runner(flame: Any, moved: Moved) -> None:
    cluster, client = flame(max=1, idle_timeout="200ms")
    made = client.submit(make)
    wait(made)
    wait_for(lambda: not cluster.runners)
    moved.since()
    assert len(made.result()) == LARGE
    written, read = moved.since()
    # Home is in this process, at the other end of a connection to itself.
    assert LARGE <= written < LARGE + SMALL
    assert LARGE <= read < LARGE + SMALL


def test_results_whose_runner_was_killed_are_made_again(flame: Any) -> None:
    cluster, client = flame(max=2)
    client.submit(name).result()
    futures = client.map(make, [1000] * 6, pure=False)
    wait(futures)
    victim = next(iter(cluster.scheduler.workers.values()))
    os.kill(victim.pid, signal.SIGKILL)
    # Whether the scheduler knows of it yet or not.
    assert [len(one) for one in client.gather(futures)] == [1000] * 6
    assert [len(future.result()) for future in futures] == [1000] * 6


def test_what_cannot_be_read_here_says_so(flame: Any) -> None:
    _, client = flame(max=1)
    with pytest.raises(ZeroDivisionError, match="not here"):
        client.submit(Homesick).result()
    good, bad = client.submit(name), client.submit(Homesick, pure=False)
    wait([good, bad])
    with pytest.raises(ZeroDivisionError, match="not here"):
        client.gather([good, bad])
    assert good.result()


def test_a_client_with_a_loop_of_its_own_asks_the_scheduler(flame: Any, moved: Moved) -> None:
    cluster, _ = flame(max=1)
    with Client(cluster.scheduler_address) as other:
        assert scheduler_beside(other) is None
        made = other.submit(make)
        wait(made)
        moved.since()
        assert len(made.result()) == LARGE
        written, _ = moved.since()
        assert written >= LARGE
        assert other.gather(other.scatter([1, 2])) == [1, 2]


def test_serializers_hold_for_what_a_client_sends(flame: Any) -> None:
    cluster, client = flame(max=1)
    with Client(cluster, serializers=["dask", "pickle"], set_as_default=False) as other:
        assert other.gather(other.scatter([b"x", {1}])) == [b"x", {1}]
        assert other.submit(make, 1000).result()
    assert client.submit(name).result()


@pytest.mark.asyncio
async def test_on_the_users_own_loop() -> None:
    async with (
        FlameCluster(max=1, asynchronous=True, dashboard_address=None) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        assert scheduler_beside(client) is cluster.scheduler
        there = await client.scatter(1)
        assert await client.submit(abs, there) == 1
        assert await client.gather([there, there]) == [1, 1]

"""Which GPUs calls get that run on one runner at the same time. None of them is really there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import pytest
from distributed import Client, Event, get_client, get_worker
from hypothesis import given
from hypothesis import strategies as st

import dask_flame
from dask_flame import FlameCluster
from dask_flame.runner.devices import VISIBLE, Devices
from dask_flame.runner.gpus import Gpus, make_current, visible
from tests.support.stubborn import Stubborn
from tests.support.waiting import wait_for

Start = Callable[..., tuple[FlameCluster, Client]]


@pytest.fixture
def runner(flame: Start, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Client]:
    """Starts a cluster of one runner with the GPUs 0 and GPU-5 of two slots."""
    monkeypatch.setenv(VISIBLE, "0,GPU-5")

    def start(**options: Any) -> Client:
        _, client = flame(**{"max": 1, "gpus": 2, "concurrency": 2, **options})
        return client

    return start


def mine(seconds: float = 0.0) -> tuple[float, float, tuple[int, ...]]:
    """Use a GPU for a while: from when until when, and which."""
    begun = time.monotonic()
    time.sleep(seconds)
    return begun, time.monotonic(), tuple(dask_flame.devices())


def different(used: list[tuple[float, float, tuple[int, ...]]]) -> bool:
    """Whether no two that overlap in time have a GPU in common."""
    return not any(
        a[0] < b[1] and b[0] < a[1] and set(a[2]) & set(b[2])
        for number, a in enumerate(used)
        for b in used[:number]
    )


def meet() -> None:
    """Wait until another call of this runner waits here too."""
    vars(get_worker()).setdefault("flame_meeting", threading.Barrier(2)).wait(60)


def met() -> tuple[int, ...]:
    """The GPUs of a call that runs at the same time as another one."""
    meet()
    return tuple(dask_flame.devices())


def both(client: Client) -> None:
    """Two calls at a time have a GPU each."""
    used = client.gather([client.submit(met, pure=False) for _ in range(2)])
    assert sorted(used) == [(0,), (1,)]


@pytest.mark.process
def test_calls_at_the_same_time_have_different_gpus(runner: Callable[..., Client]) -> None:
    client = runner()
    used = client.gather(client.map(mine, [0.05, 0.2, 0.1] * 5, pure=False))
    assert {devices for _, _, devices in used} == {(0,), (1,)}
    assert different(used)
    assert dask_flame.devices() == ()


@pytest.mark.process
def test_processes_that_a_call_starts_can_be_given_its_gpu(runner: Callable[..., Client]) -> None:
    def child() -> tuple[tuple[int, ...], str]:
        code = f"import os; print(os.environ['{VISIBLE}'])"
        env = os.environ | dask_flame.devices().environment
        meet()
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        return tuple(dask_flame.devices()), done.stdout.strip()

    client = runner()
    futures = [client.submit(child, pure=False) for _ in range(2)]
    assert sorted(client.gather(futures)) == [((0,), "0"), ((1,), "GPU-5")]


@pytest.mark.process
def test_gpus_are_given_back_after_errors_timeouts_and_cancellations(
    runner: Callable[..., Client],
) -> None:
    client = runner()

    def fail() -> None:
        raise ValueError

    def spin() -> None:
        while True:
            time.sleep(0.01)

    for _ in range(3):
        assert isinstance(client.submit(fail, pure=False).exception(), ValueError)
    with dask_flame.on("default", timeout="200ms"):
        late = client.submit(spin, pure=False)
    assert isinstance(late.exception(), dask_flame.CallTimeout)
    unwanted = client.submit(spin, pure=False)
    wait_for(lambda: any(client.processing().values()))
    unwanted.cancel()
    both(client)


@pytest.mark.process
def test_one_that_was_cancelled_and_goes_on_keeps_its_gpu(
    runner: Callable[..., Client], tmp_path: Path
) -> None:
    client = runner()
    with Stubborn(tmp_path) as stubborn:
        call, began = stubborn.call, tmp_path / "began"

        def goes_on() -> None:
            began.write_text(str(dask_flame.devices()[0]))
            call()

        unwanted = client.submit(goes_on)
        stubborn.has_begun()
        unwanted.cancel()
        used = [client.submit(mine, pure=False).result() for _ in range(3)]
    assert {devices for _, _, devices in used} == {(1 - int(began.read_text()),)}


@pytest.mark.process
def test_a_placed_object_keeps_its_gpu_until_it_is_let_go(runner: Callable[..., Client]) -> None:
    # One of distributed's assertions is wrong where an actor waits: see the tests of `place`.
    with dask.config.set({"distributed.scheduler.validate": False}):
        client = runner()

    class Model:
        def __init__(self) -> None:
            self.devices = tuple(dask_flame.devices())

        def where(self) -> tuple[int, ...]:
            return self.devices

    model = dask_flame.place(Model)
    (kept,) = model.where().result()
    used = [client.submit(mine, pure=False).result() for _ in range(3)]
    assert {devices for _, _, devices in used} == {(1 - kept,)}
    del model
    wait_for(lambda: client.run(placed) and not any(client.run(placed).values()))
    both(client)


def placed(dask_worker: Any) -> int:
    return len(dask_worker.state.actors)


@pytest.mark.process
def test_calls_that_ask_for_gpus_get_as_many(runner: Callable[..., Client]) -> None:
    client = runner(concurrency=4)
    two = [client.submit(met, resources={"GPU": 1}, pure=False) for _ in range(2)]
    other = client.submit(mine, pure=False)
    assert sorted(client.gather(two)) == [(0,), (1,)]
    assert len(other.result()[2]) == 1
    assert client.submit(mine, resources={"GPU": 2}).result()[2] == (0, 1)


@pytest.mark.process
def test_one_slot_has_all(runner: Callable[..., Client]) -> None:
    assert runner(concurrency=1).submit(mine).result()[2] == (0, 1)


@pytest.mark.process
def test_a_call_that_waits_for_another_lends_it_its_gpu(runner: Callable[..., Client]) -> None:
    def outer() -> tuple[tuple[int, ...], ...]:
        inner = get_client().submit(mine, pure=False)
        return tuple(dask_flame.devices()), inner.result()[2]

    def holds(gate: Event) -> tuple[int, ...]:
        gate.wait()
        return tuple(dask_flame.devices())

    client = runner()
    gate = Event("gate", client=client)
    busy = client.submit(holds, gate, pure=False)
    wait_for(lambda: any(client.processing().values()))
    own, lent = client.submit(outer, pure=False).result()
    gate.set()
    assert own == lent != busy.result()


@pytest.mark.process
def test_coroutines_have_gpus_too(runner: Callable[..., Client]) -> None:
    async def coroutine() -> tuple[int, ...]:
        import asyncio

        here = vars(get_worker()).setdefault("flame_coroutines", [])
        here.append(1)
        while len(here) < 2:  # noqa: ASYNC110 - there is no event in two calls
            await asyncio.sleep(0.01)
        return tuple(dask_flame.devices())

    client = runner()
    futures = [client.submit(coroutine, pure=False) for _ in range(2)]
    assert sorted(client.gather(futures)) == [(0,), (1,)]
    both(client)


@pytest.mark.process
def test_without_gpus_there_are_none(flame: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "")
    _, client = flame(max=1, gpus=2, concurrency=2)
    assert client.submit(mine).result()[2] == ()


@pytest.mark.process
def test_the_current_device_is_that_of_the_calls_thread(
    flame: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # In place of torch with CUDA: what it keeps for each thread.
    (tmp_path / "torch.py").write_text(
        "import threading\n"
        "class cuda:\n"
        "    kept = threading.local()\n"
        "    is_available = staticmethod(lambda: True)\n"
        "    set_device = staticmethod(lambda n: setattr(cuda.kept, 'number', n))\n"
        "    current_device = staticmethod(lambda: getattr(cuda.kept, 'number', 0))\n"
    )
    monkeypatch.setenv(VISIBLE, "0,1")
    monkeypatch.syspath_prepend(str(tmp_path))
    _, client = flame(max=1, gpus=2, concurrency=2, preload=["torch"])

    def current() -> tuple[int, tuple[int, ...]]:
        import torch

        time.sleep(0.2)
        return torch.cuda.current_device(), tuple(dask_flame.devices())

    found = client.gather([client.submit(current, pure=False) for _ in range(8)])
    assert all((number,) == devices for number, devices in found)
    assert {number for number, _ in found} == {0, 1}


@pytest.mark.unit
def test_a_library_that_fails_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(number: int) -> None:
        raise RuntimeError("CUDA error: invalid device ordinal")

    cuda = SimpleNamespace(is_available=lambda: True, set_device=fail)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    make_current(Devices([1], ["0", "1"]))


@pytest.mark.unit
def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    assert visible(2) == ["0", "1"]
    monkeypatch.setenv(VISIBLE, "MIG-1, GPU-2,-1")
    assert visible(3) == ["MIG-1", "GPU-2"]
    devices = Devices([1], visible(3))
    assert (devices, devices.environment) == ((1,), {VISIBLE: "GPU-2"})
    assert Devices().environment == {}


@pytest.mark.unit
@given(
    there=st.integers(1, 8),
    slots=st.integers(1, 8),
    moves=st.lists(st.integers(0, 7), max_size=40),
)
def test_nobody_shares_where_there_are_enough(there: int, slots: int, moves: list[int]) -> None:
    held: dict[int, Devices] = {}
    gpus = Gpus([str(n) for n in range(there)], slots, gone=lambda who: who not in held)
    for who in moves:
        if who in held:
            del held[who]
        elif len(held) < slots:
            held[who] = gpus.take(who)
            assert len(held[who]) == max(1, there // slots)
        users = [sum(n in devices for devices in held.values()) for n in range(there)]
        assert max(users) <= -(-slots // there)
        if there >= slots:
            assert max(users) <= 1


@pytest.mark.unit
def test_many_threads() -> None:
    over: set[tuple[int, int]] = set()
    gpus = Gpus(["0", "1", "2", "3"], 4, gone=lambda who: who in over)
    busy, wrong = [0] * 4, []

    def work(who: int) -> None:
        for turn in range(300):
            (number,) = gpus.take((who, turn))
            busy[number] += 1
            if busy[number] > 1:
                wrong.append(number)
            busy[number] -= 1
            over.add((who, turn))

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []

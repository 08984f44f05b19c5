"""Looking inside runners while they run calls: from the driver, and from a terminal."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from click.testing import CliRunner
from distributed import Client, Event

from dask_flame import FlameCluster
from dask_flame.attached.looking import outside
from dask_flame.backends.local import runner_stacks
from dask_flame.cli.commands import flame as command
from dask_flame.driver.runners import Runners
from dask_flame.errors import FlameError
from dask_flame.scaling.runner_index import Phase, RunnerState
from dask_flame.scheduler import looks
from tests.support.waiting import wait_for


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine an answer takes its time."""
    monkeypatch.setattr(looks, "WITHIN", 60.0)
    monkeypatch.setattr(runner_stacks, "WITHIN", 60.0)


def loops(event: str) -> None:
    stop = Event(event)
    while not stop.is_set():
        for _ in range(10_000):
            pass


async def waits(event: str) -> None:
    stop = Event(event)
    while not await stop.is_set():
        await _deep()


async def _deep() -> None:
    import asyncio

    await asyncio.sleep(0.05)


def held() -> int:
    return 7 ** (7**99)


def _busy(cluster: FlameCluster, number: int = 1) -> list[str]:
    found = [name for name, runner in cluster.runners.items() if runner.busy]
    return found if len(found) >= number else []


@pytest.mark.unit
def test_a_runner_has_the_attributes_of_its_state() -> None:
    state = RunnerState("gpu-1", Phase.READY, 1.0, 2.0, busy=1, kind="A100")
    runners = Runners({"gpu-1": state}, lambda *args: args)
    runner = runners["gpu-1"]
    assert (runner.name, runner.phase, runner.busy, runner.since) == ("gpu-1", Phase.READY, 1, 2.0)
    assert repr(runners) == "{'gpu-1': Runner(gpu-1, ready, 1 busy, A100)}"
    assert runner.memory(limit=2) == ("gpu-1", "memory", {"limit": 2.0})  # type: ignore[comparison-overlap]
    for wrong in ("1s", -1, 11, float("nan"), True):
        with pytest.raises(FlameError, match="write limit=1"):
            runner.memory(limit=wrong)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        runner.no_such_thing  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(KeyError, match="there is no runner gpu-2; there are: gpu-1"):
        runners["gpu-2"]


@pytest.mark.process
def test_calls_are_shown_by_name_with_their_own_lines(flame: Any) -> None:
    cluster, client = flame(max=1)
    # Nobody has looked yet, so that nothing for it is loaded.
    loaded = "[m for m in __import__('sys').modules if m.startswith('dask_flame.attached')]"
    assert client.submit(eval, loaded).result() == []
    calls = client.submit(loops, "stop", key="the loop")
    name = wait_for(lambda: _busy(cluster))[0]

    def thread() -> Any:
        found = cluster.runners[name].stacks()
        return next((t for t in found.threads if t.call and t.lines[0].function == "loops"), None)

    found = wait_for(thread)
    assert found.call == "the loop"
    assert found.lines[0].file.endswith("test_runners.py")
    assert not found.idle
    # Neither a call nor a slot.
    assert cluster.runners[name].busy == 1
    processes = cluster.runners[name].processes()
    assert next(each.depth for each in processes) == 0
    assert cluster.runners[name].versions().packages["distributed"]
    assert cluster.runners[name].memory(limit=5).objects > 1_000
    assert cluster.runners[name].modules()["distributed"].file
    # From another process of the same user, by the runner's own socket.
    arguments = ["stacks", cluster.name, name, "--json"]
    shown = CliRunner().invoke(command, arguments, catch_exceptions=False)
    (told,) = json.loads(shown.output)
    assert [t["call"] for t in told["threads"] if t["call"]] == ["the loop"]
    assert told["how"] == "inside"
    Event("stop", client=client).set()
    calls.result()


@pytest.mark.process
def test_a_coroutine_is_shown_with_what_it_awaits(flame: Any) -> None:
    cluster, client = flame(max=1)
    call = client.submit(waits, "stop", key="the coroutine")
    wait_for(lambda: _busy(cluster))

    def task() -> Any:
        found = next((t for t in cluster.runners["runner-1"].stacks().tasks if t.call), None)
        functions = [line.function for line in found.lines] if found else []
        return found if functions[:2] == ["waits", "_deep"] else None

    found = wait_for(task)
    assert found.call == "the coroutine"
    assert found.title == "runs the coroutine, waiting"
    Event("stop", client=client).set()
    call.result()


@pytest.mark.process
def test_a_runner_whose_interpreter_is_held_is_read_from_outside(
    flame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "_program", lambda: None)
    monkeypatch.setattr(looks, "WITHIN", 0.5)
    cluster, client = flame(max=1, shutdown_timeout="1s")
    call = client.submit(held, key="the held one")
    wait_for(lambda: _busy(cluster))

    def silent() -> Any:
        found = cluster.runners["runner-1"].stacks()
        return found if found.how == "system" else None

    found = wait_for(silent)
    assert "its calls: the held one" in found.note
    assert "pip install py-spy" in found.note
    assert any("% of a processor" in thread.state for thread in found.threads)
    with pytest.raises(FlameError, match="runner-1 has not answered"):
        cluster.runners["runner-1"].versions()
    call.cancel()


@pytest.mark.process
def test_looking_does_not_keep_a_runner(flame: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="1s")
    assert client.submit(os.getpid).result()
    runner = cluster.runners["runner-1"]
    looked = 0
    while "runner-1" in cluster.runners:
        try:
            runner.stacks()
            looked += 1
        except FlameError as error:
            assert "runner-1" in str(error)  # noqa: PT017
    assert looked
    with pytest.raises(FlameError, match="there is no runner runner-1 that is up"):
        runner.stacks()


@pytest.mark.process
@pytest.mark.asyncio
async def test_an_asynchronous_cluster_awaits_the_answer() -> None:
    async with (
        FlameCluster(max=1, asynchronous=True, dashboard_address=None) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        await client.submit(os.getpid)
        runner: Any = cluster.runners["runner-1"]
        assert (await runner.stacks()).process == "runner-1"

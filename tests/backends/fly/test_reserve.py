"""Stopped machines that are kept ready: taken first, started in parallel, returned, removed."""

from __future__ import annotations

from typing import Any

import pytest

from dask_flame.backends import RunnerSpec
from dask_flame.backends.fly.metadata import COMPONENT, NAME, RESERVE
from tests.backends.fly.stage import SLEEPS, connection_of, machines_of, spec, started
from tests.fakes.fly import FakeFly
from tests.support.waiting import until

pytestmark = [pytest.mark.process, pytest.mark.asyncio]

#: States of machines that do not run.
AT_REST = {"created", "stopped"}


def kept(name: str, *, reserve: int = 3, **more: Any) -> RunnerSpec:
    """Return a runner of a pool with a reserve."""
    return spec(name, options={"image": SLEEPS, "reserve": reserve}, **more)


def reserve_of(fly: FakeFly) -> dict[str, str]:
    """Return the state of each machine of the reserve, by its id."""
    there = fly.machines()
    return {m["id"]: m["state"] for m in there if m["config"]["metadata"].get(COMPONENT) == RESERVE}


async def filled(fly: FakeFly, count: int = 3) -> set[str]:
    """Wait until the reserve is full, and return its ids."""
    await until(lambda: len(there := reserve_of(fly)) == count and {*there.values()} <= AT_REST)
    return set(reserve_of(fly))


async def test_runners_take_from_the_reserve_first_and_without_a_create(fly: FakeFly) -> None:
    async with started(kept("")) as (backend, said):
        ids = await filled(fly)
        assert await backend.list() == set()
        await until(lambda: machines_of(backend).reserve.ready == 3)
        created = len(fly.requests.of("create"))
        await backend.boot([kept("a"), kept("b", secrets={"KEY": "s3cret-0123"})])
        await until(lambda: said.reached("a", "started") and said.reached("b", "started"))
        running = {m["config"]["metadata"].get(NAME): m for m in fly.machines()}
        assert {running["a"]["id"], running["b"]["id"]} <= ids
        assert running["a"]["config"]["init"]["cmd"][1:] == [
            "-m",
            "dask_flame.runner.from_file",
            "/run/dask-flame/launch.json",
        ]
        assert await backend.list() == {"a", "b"}
        # What was taken is replaced.
        assert len(await filled(fly)) == 3
        assert len(fly.requests.of("create")) >= created + 2


async def test_what_ends_well_returns_without_anything_of_the_runner(fly: FakeFly) -> None:
    async with started(kept("", reserve=1)) as (backend, said):
        (id,) = await filled(fly, 1)
        await until(lambda: machines_of(backend).reserve.ready == 1)
        await backend.boot([kept("a", reserve=1, secrets={"KEY": "s3cret-0123"})])
        await until(lambda: said.reached("a", "started"))
        fly.capacity("ams", 0)  # so that none is created in its place
        await until(lambda: len(reserve_of(fly)) < 2)
        for other in reserve_of(fly):
            fly.destroy(other)
            machines_of(backend).reserve._shelves[
                next(iter(machines_of(backend).reserve._shelves))
            ].ready.clear()
        await backend.end(["a"], grace=10)
        ended = said.of("a")
        assert ended is not None
        assert ended.why == "exit code 0"
        await until(lambda: reserve_of(fly).get(id) in AT_REST)
        (there,) = [m for m in fly.machines() if m["id"] == id]
        assert there["config"].get("files") in (None, [])
        assert NAME not in there["config"]["metadata"]
        await until(lambda: machines_of(backend).reserve.ready == 1)
        # And it runs again.
        fly.capacity("ams", 10)
        await backend.boot([kept("b", reserve=1)])
        await until(lambda: said.reached("b", "started"))
        assert not said.of("b")


async def test_what_fails_does_not_return(fly: FakeFly) -> None:
    async with started(kept("", reserve=1)) as (backend, said):
        (id,) = await filled(fly, 1)
        await until(lambda: machines_of(backend).reserve.ready == 1)
        await backend.boot([kept("a", reserve=1)])
        await until(lambda: said.reached("a", "started"))
        fly.kill(id)
        await until(lambda: said.of("a"))
        await until(lambda: id not in {m["id"] for m in fly.machines()})


async def test_a_machine_that_cannot_start_any_more_is_replaced_by_a_new_one(fly: FakeFly) -> None:
    async with started(kept("", reserve=1)) as (backend, said):
        (id,) = await filled(fly, 1)
        await until(lambda: machines_of(backend).reserve.ready == 1)
        fly.destroy(id)
        await backend.boot([kept("a", reserve=1)])
        await until(lambda: said.reached("a", "started"))
        assert id not in {m["id"] for m in fly.machines() if m["config"]["metadata"].get(NAME)}


async def test_an_end_while_a_machine_is_being_started_leaves_none(fly: FakeFly) -> None:
    async with started(kept("", reserve=2)) as (backend, said):
        await filled(fly, 2)
        await until(lambda: machines_of(backend).reserve.ready == 2)
        fly.slow(0.3)
        await backend.boot([kept("a", reserve=2)])
        await until(lambda: fly.requests.of("update"))
        await backend.end(["a"])
        assert said.of("a")
        fly.slow(0)
        assert NAME not in {k for m in fly.machines() for k in m["config"]["metadata"]}


async def test_a_smaller_reserve_gives_machines_up(fly: FakeFly) -> None:
    async with started(kept("", reserve=3)) as (backend, _):
        await filled(fly)
        backend.expect([kept("", reserve=1)])
        await until(lambda: len(reserve_of(fly)) == 1)


async def test_a_machine_of_the_reserve_that_somebody_starts_ends_by_itself(fly: FakeFly) -> None:
    async with started(kept("", reserve=1)) as (backend, _):
        (id,) = await filled(fly, 1)
        api = connection_of(backend).api
        await api.start(id)
        await until(lambda: id not in {m["id"] for m in fly.machines()})

"""The Fly backend on a Fly that misbehaves: every machine is asked for once, and none is left."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from collections import Counter

import dask
import psutil
import pytest

from dask_flame.backends.fly import FlyBackend
from dask_flame.backends.fly import backend as backend_module
from dask_flame.backends.fly.api import client as client_module
from dask_flame.backends.fly.metadata import NAME
from dask_flame.errors import BackendError
from tests.backends.fly.stage import SLEEPS, Said, connection_of, spec, started
from tests.fakes.fly import FakeFly
from tests.support.waiting import until

pytestmark = [pytest.mark.process, pytest.mark.asyncio]


def machines_by_runner(fly: FakeFly) -> Counter[str]:
    """Return how many machines were ever made for each runner."""
    there = fly.machines(deleted=True)
    return Counter(m["config"]["metadata"].get(NAME, "") for m in there)


def _has_ended(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


async def test_sixty_four_creates_through_one_a_second_all_succeed(fly: FakeFly) -> None:
    names = [f"r-{number}" for number in range(64)]
    async with started() as (backend, said):
        await backend.boot([spec(name) for name in names])
        assert await backend.list() == set(names)
        await until(lambda: all(said.reached(name, "created") for name in names), within=120)
        assert not said.ended
    assert machines_by_runner(fly) == Counter(names)
    # The client keeps to the pace by itself, but for delays of the network; and the user sees how
    # far it has come.
    assert len(fly.requests.of("create", status=429)) < 16
    news = {why for _, why in said.troubles if why}
    assert any(text.startswith("creating ") and "/64, limited by Fly to " in text for text in news)
    assert {e.name for e in said.ended} == set(names)


async def test_others_that_use_up_the_limit_delay_and_refuse_nothing(fly: FakeFly) -> None:
    names = [f"r-{number}" for number in range(8)]
    async with started() as (backend, said):
        fly.storm(1.0)
        await backend.boot([spec(name) for name in names])
        await until(lambda: all(said.reached(name, "created") for name in names))
        assert fly.requests.of("*", status=429)
        assert not said.ended
    assert machines_by_runner(fly) == Counter(names)


@pytest.mark.parametrize("status", [None, 502, 504])
async def test_a_lost_answer_makes_no_second_machine(fly: FakeFly, status: int | None) -> None:
    fly.fail("create", status=status, after=True, times=2)
    async with started() as (backend, said):
        await backend.boot([spec("a"), spec("b"), spec("c")])
        await until(lambda: all(said.reached(name, "started") for name in "abc"))
        assert await backend.list() == {"a", "b", "c"}
    assert machines_by_runner(fly) == Counter("abc")


async def test_an_answer_that_hangs_makes_no_second_machine(
    fly: FakeFly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "CREATE_WITHIN", 0.5)
    fly.fail("create", status=None, after=True, hang=30.0)
    async with started() as (backend, said):
        await backend.boot([spec("a")])
        await until(lambda: said.reached("a", "started"))
    assert machines_by_runner(fly) == Counter("a")


async def test_a_create_that_is_lost_before_it_arrives_is_repeated(fly: FakeFly) -> None:
    fly.fail("create", status=None, times=2)
    async with started() as (backend, said):
        await backend.boot([spec("a")])
        await until(lambda: said.reached("a", "started"))
    assert machines_by_runner(fly) == Counter("a")


async def test_no_capacity_is_said_in_the_words_of_fly(fly: FakeFly) -> None:
    fly.capacity("ams", 1)
    async with started() as (backend, said):
        await backend.boot([spec("a"), spec("b")])
        await until(lambda: said.of("b"))
        ended = said.of("b")
        assert ended is not None
        assert ended.no_capacity
        assert not ended.no_room
        assert not ended.final
        assert "insufficient resources available" in ended.why
        assert "(HTTP 412)" in ended.why
        assert "region, cpus" in ended.why
        assert await backend.list() == {"a"}


async def test_the_limit_of_the_organization_is_no_failure_of_others(fly: FakeFly) -> None:
    fly.limit(1)
    async with started() as (backend, said):
        await backend.boot([spec("a"), spec("b")])
        await until(lambda: said.of("b"))
        ended = said.of("b")
        assert ended is not None
        assert ended.no_room
        assert "contact support to raise the limit" in ended.why


async def test_a_machine_that_is_stuck_is_destroyed_by_force(fly: FakeFly) -> None:
    fly.stick()
    async with started() as (backend, said):
        await backend.boot([spec("a", boot_timeout=1.0), spec("b")])
        await until(lambda: said.of("a") and said.reached("b", "started"))
        ended = said.of("a")
        assert ended is not None
        assert ended.why == "its machine was still 'created' after boot_timeout=1 s"
        await until(lambda: [m["config"]["metadata"][NAME] for m in fly.machines()] == ["b"])
        forced = fly.requests.of("delete")
        assert [request.query for request in forced] == [{"force": "true"}]


async def test_a_stuck_machine_ends_with_its_request(fly: FakeFly) -> None:
    fly.stick()
    async with started() as (backend, said):
        await backend.boot([spec("a")])
        await until(lambda: said.reached("a", "created"))
        await backend.end(["a"], grace=5)
        assert said.of("a")
        assert fly.machines() == []


async def test_ends_are_told_with_the_reason_of_fly(fly: FakeFly) -> None:
    async with started() as (backend, said):
        await backend.boot([spec(name) for name in "abc"])
        await until(lambda: all(said.reached(name, "started") for name in "abc"))
        by_runner = {m["config"]["metadata"][NAME]: m["id"] for m in fly.machines()}
        fly.oom(by_runner["a"])
        fly.kill(by_runner["b"])
        fly.destroy(by_runner["c"])
        await until(lambda: len(said.ended) == 3)
        reasons = {e.name: e.why for e in said.ended}
        assert reasons["a"] == "ran out of memory (limit 1024 MiB); relevant settings: memory"
        assert reasons["b"] == "killed by SIGKILL"
        assert reasons["c"] == "its machine was destroyed by somebody else"
        assert "sleeping" in next(e for e in said.ended if e.name == "b").output
        assert await backend.list() == set()


async def test_a_machine_that_nobody_waits_for_is_removed(fly: FakeFly) -> None:
    async with started() as (backend, said):
        await backend.boot([spec("a")])
        await until(lambda: said.reached("a", "started"))
        (there,) = fly.machines()
        config = {**there["config"], "metadata": {**there["config"]["metadata"], NAME: "gone"}}
        api = connection_of(backend).api
        stray = await api.create({"name": "stray", "config": config}, {NAME: "gone"})
        await until(lambda: stray["id"] not in {m["id"] for m in fly.machines()})
        assert await backend.list() == {"a"}
        assert not said.ended


async def test_a_list_that_is_behind_ends_nobody(fly: FakeFly) -> None:
    async with started() as (backend, said):
        await backend.boot([spec("a")])
        await until(lambda: said.reached("a", "started"))
        looks = len(fly.requests.of("get"))
        api = connection_of(backend).api
        lists = 0

        async def nothing(metadata: object) -> list[object]:
            nonlocal lists
            lists += 1
            return []

        api.list_machines = nothing  # type: ignore[method-assign, assignment]
        await until(lambda: lists > 2 and len(fly.requests.of("get")) > looks)
        assert not said.ended
        del api.list_machines


async def test_machines_are_asked_for_together_and_not_each(fly: FakeFly) -> None:
    names = [f"r-{number}" for number in range(8)]
    async with started() as (backend, said):
        await backend.boot([spec(name) for name in names])
        await until(lambda: all(said.reached(name, "started") for name in names))
        before = len(fly.requests.of("list"))
        await until(lambda: len(fly.requests.of("list")) > before + 2)
        assert not fly.requests.of("get")
        assert not fly.requests.of("wait")


async def test_an_outage_ends_nobody_and_a_close_in_it_returns(
    fly: FakeFly, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client_module, "LIST_PATIENCE", 0.5)
    monkeypatch.setattr("dask_flame.backends.fly.backend._CLOSE_WITHIN", 1.0)
    async with started() as (backend, said):
        await backend.boot([spec("a")])
        await until(lambda: said.reached("a", "started"))
        fly.down()
        with pytest.raises(BackendError, match="cannot be listed"):
            await backend.list()
        assert not said.ended
        process = backend._death_watch._process
        assert process is not None
        await backend.close()
        assert said.of("a")
        assert "not all machines" in caplog.text
        fly.up()
        # The process beside the driver removes it, and ends.
        await until(lambda: not fly.left())
        await until(lambda: _has_ended(process.pid))


async def test_a_token_that_is_revoked_is_said_without_the_token(fly: FakeFly) -> None:
    async with started() as (backend, said):
        fly.revoke()
        await backend.boot([spec("a")])
        await until(lambda: said.of("a"))
        ended = said.of("a")
        assert ended is not None
        assert ended.final
        assert "token is invalid or expired (HTTP 401)" in ended.why
        fly.grant(fly.token)


async def test_what_cannot_be_is_refused_before_anything_is_made(
    fly: FakeFly, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FlyBackend(Said().context)
    with pytest.raises(BackendError, match=r"withdrew them on 2026-08-01; .* backend=\"kubern"):
        backend.expect([spec("", gpus=1)])
    pools = [spec("", options={"image": SLEEPS, "app": app}) for app in ("one", "two")]
    with pytest.raises(BackendError, match="a cluster has one"):
        backend.expect(pools)
    monkeypatch.setenv("FLY_APP_NAME", "nowhere")
    backend = FlyBackend(Said().context)
    with pytest.raises(BackendError, match=r"no app 'nowhere': .*fly apps create nowhere"):
        await backend.start()
    monkeypatch.delenv("FLY_API_TOKEN")
    backend = FlyBackend(Said().context)
    with pytest.raises(BackendError, match="no token for Fly; type: export FLY_API_TOKEN"):
        await backend.start()
    assert not fly.requests.of("create")


async def test_the_token_is_in_nothing_that_is_said(
    fly: FakeFly, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    fly.fail("create", status=503, times=1)
    fly.fail("create", status=None, times=1, after=True)
    fly.fail("delete", status=409, times=1)
    with dask.config.set({"flame.fly.token": fly.token}):
        async with started() as (backend, said):
            await backend.boot([spec("a"), spec("b")])
            await until(lambda: all(said.reached(name, "started") for name in "ab"))
            manifest = backend.manifest(spec("c"))
            fly.revoke()
            await backend.boot([spec("c")])
            await until(lambda: said.of("c"))
            try:
                await backend.list()
            except BackendError as error:
                refused = error
            chain: list[object] = []
            failure: BaseException | None = refused
            while failure is not None:
                chain += [repr(failure), str(failure), getattr(failure, "__dict__", {})]
                failure = failure.__cause__ or failure.__context__
            fly.grant(fly.token)
    sent = [(m["config"], m["name"]) for m in fly.machines(deleted=True)]
    printed = capfd.readouterr()
    for shown in (caplog.text, printed, manifest, said.__dict__, chain, sent, fly.logs()):
        assert fly.token not in repr(shown)
    assert repr(backend._connection).find(fly.token) < 0
    # Not even in the files, which hold all of Dask's configuration.
    for config, _ in sent:
        for file in config.get("files", ()):
            assert fly.token.encode() not in base64.b64decode(file["raw_value"])


async def test_a_stop_from_outside_is_told(fly: FakeFly) -> None:
    async with started() as (backend, said):
        await backend.boot([spec("a")])
        await until(lambda: said.reached("a", "started"))
        api = connection_of(backend).api
        (there,) = fly.machines()
        await api.set_metadata(there["id"], "dask_flame_stopped", "1")
        await until(lambda: said.stopped)
        await backend.boot([spec("b")])
        await until(lambda: said.of("b"))
        ended = said.of("b")
        assert ended is not None
        assert "was stopped with `dask flame stop`" in ended.why


async def test_creates_that_wait_are_given_up_at_once(fly: FakeFly) -> None:
    names = [f"r-{number}" for number in range(64)]
    async with started() as (backend, said):
        await backend.boot([spec(name) for name in names])
        await asyncio.sleep(0)
        await backend.end(names)
        assert {e.name for e in said.ended} == set(names)
        assert len(fly.requests.of("create")) <= 4


async def test_a_cluster_that_had_nothing_left_leaves_no_process_to_look_for_it(
    fly: FakeFly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "_CLOSE_WITHIN", 1.0)
    async with started() as (backend, said):
        await backend.boot([spec("a")])
        await until(lambda: said.reached("a", "started"))
        await backend.end(["a"])
        await until(lambda: said.of("a"))
        process = backend._death_watch._process
        assert process is not None
        fly.fail("*", status=None, times=1_000_000)
        await backend.close()
    try:
        await until(lambda: _has_ended(process.pid))
    finally:
        process.kill()
        process.wait()
        fly.calm()

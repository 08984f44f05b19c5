"""The scheduler tells its observer of runners and calls, in the order in which things happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import dask
import pytest
import pytest_asyncio
from distributed import Client, Worker
from distributed.core import rpc

from dask_flame import Pool
from dask_flame.core.messages import SETUP
from dask_flame.driver.scheduler_news import SchedulerNews
from dask_flame.scheduler.scheduler import FlameScheduler

pytestmark = pytest.mark.process


class Notes:
    """Writes down what a scheduler tells."""

    def __init__(self) -> None:
        self.taken: list[tuple[Any, ...]] = []
        self.demand = asyncio.Event()

    def demand_changed(self) -> None:
        self.demand.set()
        self.taken.append(("demand",))

    def runner_changed(self, name: str) -> None:
        self.taken.append(("changed", name))

    def call_began(self, name: str) -> None:
        self.taken.append(("began", name))

    def runner_sets_up(self, name: str, *, done: bool) -> None:
        self.taken.append(("sets up", name, done))

    def runner_refused(self, name: str, why: str) -> None:
        self.taken.append(("refused", name, why))

    def runner_leaves(self, name: str, why: str) -> None:
        self.taken.append(("leaves", name, why))

    def runner_retired(self, name: str) -> None:
        self.taken.append(("retired", name))

    def not_awaited(self, pool: str, number: int) -> None:
        self.taken.append(("not awaited", pool, number))

    def happened(self, kind: str, text: str) -> None:
        self.taken.append((kind, text))


@pytest_asyncio.fixture
async def scheduler() -> AsyncIterator[FlameScheduler]:
    pools = {"default": Pool(max=2, single_use=True)}
    async with FlameScheduler(
        pools=pools, host="127.0.0.1", port=0, dashboard=False, dashboard_address="127.0.0.1:0"
    ) as scheduler:
        yield scheduler


@pytest.mark.asyncio
async def test_a_call_and_a_retirement_are_told(scheduler: FlameScheduler) -> None:
    notes = Notes()
    scheduler.report_to(notes)
    async with Client(scheduler.address, asynchronous=True) as client:
        future = client.submit(sum, [1, 2])
        await asyncio.wait_for(notes.demand.wait(), 30)
        assert set(notes.taken) == {("demand",)}
        notes.taken.clear()
        async with Worker(scheduler.address, name="one", nthreads=1) as worker:
            assert await future == 3
            began = notes.taken.index(("began", "one"))
            assert ("changed", "one") in notes.taken[:began]  # it came
            assert ("changed", "one") in notes.taken[began + 1 :]  # its call has ended
            assert scheduler.load("one").spent
            notes.taken.clear()
            await scheduler.remove_worker(worker.address, stimulus_id="test", expected=True)
            assert notes.taken.index(("retired", "one")) < len(notes.taken) - 1
            assert notes.taken[-1] == ("changed", "one")
    scheduler.runner_ended("one", "it was retired")
    assert not scheduler.load("one").spent


@pytest.mark.asyncio
async def test_a_runner_that_is_set_up_is_told(scheduler: FlameScheduler) -> None:
    woken = []
    news = SchedulerNews(on_change=lambda: woken.append(1))
    scheduler.report_to(news)
    async with rpc(scheduler.address) as booting:
        for done in (False, True):
            await getattr(booting, SETUP)(name="one", done=done)
    assert len(woken) == 2
    assert news.take().set_up == [("one", False), ("one", True)]
    assert not news.take().set_up


@pytest.mark.asyncio
async def test_a_call_that_nobody_waits_for_tells_that_it_failed(scheduler: FlameScheduler) -> None:
    news = SchedulerNews(on_change=lambda: None)
    scheduler.report_to(news)
    async with (
        Client(scheduler.address, asynchronous=True) as client,
        Worker(scheduler.address, name="one", nthreads=1),
    ):
        with dask.annotate(cast=True):
            future = client.submit(divmod, 1, 0, key="divided")
        with pytest.raises(ZeroDivisionError):
            await future
        recent = news.take()
        assert {"one"} == recent.changed == recent.began
        assert [kind for kind, _ in recent.happened] == ["failed"]
        assert "divided (cast) has failed" in recent.happened[0][1]
        assert not news.take().happened


@pytest.mark.asyncio
async def test_a_runner_that_is_taken_away_is_known_until_it_has_ended(
    scheduler: FlameScheduler,
) -> None:
    woken = []
    news = SchedulerNews(on_change=lambda: woken.append(1))
    scheduler.report_to(news)
    async with Worker(scheduler.address, name="one", nthreads=1) as worker:
        assert woken
        news.take()
        scheduler.runner_leaves(worker.address, "the spot market wants it")
        assert news.leaving == {"one": "the spot market wants it"}
        assert news.take().changed == {"one"}
        assert worker.address in scheduler.draining
    news.forget("one")
    assert not news.leaving

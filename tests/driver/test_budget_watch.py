"""The budget of a cluster, which runs out while calls run and wait."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Sequence
from typing import Any

import dask.config
import pytest
from distributed import Event, wait

from dask_flame import BackendError, BudgetExhausted, FlameCluster, Pool, PoolError, on
from dask_flame.backends import BackendContext, Ended, RunnerSpec
from dask_flame.backends.local import LocalBackend
from tests.driver.budget_calls import held, works
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

#: The price at which a runner costs one unit in a second.
UNIT = 3600.0


def events(cluster: FlameCluster, kind: str = "budget") -> list[str]:
    return [e.reason for e in cluster.events if e.kind == kind]


def lower(cluster: FlameCluster) -> str:
    """Set a budget of which less than 80 % is spent now, and return its text."""
    used = cluster.cost().budget
    assert used is not None
    cluster.budget = f"{2 * used.spent + 1:.0f} USD"
    return str(cluster.budget)


def exhausted(cluster: FlameCluster) -> None:
    wait_for(lambda: any("no runner boots any more, idle" in e for e in events(cluster)))


class Queues(LocalBackend):
    """Local processes that wait in a queue until their turns are said to have come."""

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        self.waiting: list[RunnerSpec] = []

    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        self.waiting += specs
        for spec in specs:
            self.queued(spec.name)

    async def list(self) -> set[str]:
        return await super().list() | {spec.name for spec in self.waiting}

    async def turn(self) -> None:
        """Boot those that wait."""
        specs, self.waiting = self.waiting, []
        for spec in specs:
            self.started(spec.name)
        await super().boot(specs)

    async def close(self) -> None:
        for spec in self.waiting:
            self.ended(Ended(name=spec.name, why="the cluster was closed"))
        self.waiting = []
        await super().close()


def test_the_time_in_a_queue_is_not_spent(flame: Any) -> None:
    cluster, client = flame(backend=Queues, max=1, price=UNIT, budget="2 USD")
    future = client.submit(held, "queue", pure=False)
    wait_for(lambda: cluster.backend.waiting, what="a runner waits")
    later = time.monotonic() + 3
    wait_for(lambda: time.monotonic() > later, what="its time would be over")
    assert (cluster.cost().runner_seconds, cluster.cost().budget.spent) == (0, 0)
    assert not events(cluster)
    client.sync(cluster.backend.turn)
    exhausted(cluster)  # soon, or while its call runs
    Event("queue").set()
    wait([future])
    wait_for(lambda: not cluster.runners)
    whole = time.time() - cluster.boots[0].at
    assert 2 <= cluster.cost().runner_seconds <= whole - 3


def test_it_runs_out_while_calls_run_and_wait(flame: Any, caplog: pytest.LogCaptureFixture) -> None:
    cluster, client = flame(max=2, concurrency=2, price=UNIT, budget="900 USD")
    running = client.map(held, ["go", "go", "go"], pure=False)
    wait_for(lambda: sum(m.busy for m in cluster.runners.values()) == 3, what="three calls run")
    blocker = client.submit(held, "other", pure=False)  # takes the last slot
    wait_for(lambda: sum(m.busy for m in cluster.runners.values()) == 4)
    waiting = client.map(held, ["go"] * 5, pure=False)
    dependent = client.submit(held, "go", running, pure=False)
    with caplog.at_level(logging.WARNING, logger="dask_flame"):
        budget = lower(cluster)
        wait(waiting, timeout=60)
    for future in waiting:
        with pytest.raises(BudgetExhausted) as caught:
            future.result()
    said = str(caught.value)
    assert said.startswith("the budget of this cluster is spent, ")
    assert f" of {budget} (1" in said
    assert 'write cluster.budget = "' in said
    assert f" of {budget} (1" in (gone := events(cluster)[-1])
    assert " %) is spent: no runner boots any more, idle ones end" in gone
    assert sum(gone in message for message in caplog.messages) == 1
    assert any("5 calls that waited: the budget of " in e for e in events(cluster, "failed"))

    # Further calls fail at once, also if a running call has left a slot free.
    Event("other", client=client).set()
    assert blocker.result(timeout=60).startswith("runner-")
    with pytest.raises(BudgetExhausted, match="the budget of this cluster is spent"):
        client.submit(works, pure=False).result(timeout=60)
    with pytest.raises(BudgetExhausted, match="the budget of this cluster is spent"):
        cluster.wait_for_workers(2, timeout=60)
    # Running calls finish, and then their runners end; what depends on them does not run.
    Event("go", client=client).set()
    assert {name.rpartition("-")[0] for name in client.gather(running)} == {"runner"}
    with pytest.raises(BudgetExhausted):
        dependent.result(timeout=60)
    wait_for(lambda: not cluster.runners, what="no runner is left")
    ended = [e.reason for e in cluster.events if e.kind == "retire"]
    assert set(ended) == {f'the budget of "{budget}" is spent'}
    boots = len(cluster.boots)
    assert f"budget: {cluster.cost().budget}" in repr(cluster.cost())
    assert cluster.cost().budget.share >= 1
    assert re.search(rf"of {budget} \(\d{{3,}} %\) spent", cluster._repr_html_())
    assert events(cluster)[-1] == gone

    # It is raised, and the cluster goes on; what was spent counts.
    cluster.budget = "900 USD"
    assert client.submit(works, pure=False).result(timeout=60).startswith("runner-")
    client.retry(waiting)
    assert len(client.gather(waiting)) == 5
    assert len(cluster.boots) > boots
    *_, policy = events(cluster, "policy")
    assert policy.startswith(f'budget="900 USD" (it was "{budget}"); ')
    assert 0 < cluster.cost().budget.share < 1
    client.close()
    cluster.close()
    assert cluster.cost().budget.spent > 0


def test_a_warning_and_an_end_are_said_once_for_each_budget(
    flame: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cluster, client = flame(max=1, price=UNIT, budget="900 USD", idle_timeout=0)
    assert client.submit(works, pure=False).result(timeout=60) == "runner-1"
    wait_for(lambda: not cluster.runners)
    used = cluster.cost().budget.spent  # no more from now on
    with caplog.at_level(logging.WARNING, logger="dask_flame"):
        cluster.budget = f"{used / 0.905:.6f} USD"
        wait_for(lambda: events(cluster))
        cluster.resize(idle_timeout="10m")  # makes it decide once more
        cluster.budget = f"{used / 0.5:.6f} USD"
        cluster.budget = f"{used / 0.855:.6f} USD"
        wait_for(lambda: len(events(cluster)) == 2)
        cluster.budget = f"{used / 1.205:.6f} USD"
        wait_for(lambda: len(events(cluster)) == 3)
    told = events(cluster)
    assert "(90 %) is spent; at 100 %, no runner boots any more" in told[0]
    assert "(85 %) is spent; at 100 %, no runner boots any more" in told[1]
    assert "(120 %) is spent: no runner boots any more" in told[2]
    assert [m for m in caplog.messages if m.startswith("budget")] == [f"budget: {t}" for t in told]
    (event, *_) = [e for e in cluster.events if e.kind == "budget"]
    assert event.numbers["spent"] == pytest.approx(used)
    assert event.numbers["budget"] == pytest.approx(used / 0.905, rel=1e-4)


def test_a_budget_that_is_spent_again_is_said_again(flame: Any) -> None:
    cluster, client = flame(max=1, price=UNIT, budget="900 USD", idle_timeout=0)
    assert client.submit(works, pure=False).result(timeout=60) == "runner-1"
    wait_for(lambda: not cluster.runners)
    low = f"{cluster.cost().budget.spent / 1.205:.6f} USD"
    for number, other in enumerate(("900 USD", None, "900 USD"), 1):
        cluster.budget = low
        wait_for(lambda number=number: len(events(cluster)) == number)  # type: ignore[misc]
        cluster.budget = other
    assert all("(120 %) is spent: no runner boots any more" in each for each in events(cluster))


def test_a_runner_whose_result_cannot_be_moved_stays_and_one_warning_says_so(
    flame: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sizes: list[int] = []
    cluster, client = flame(
        max=1,
        price=UNIT,
        budget="900 USD",
        home_limit="1 MB",
        idle_timeout="10m",
        on_shrink=lambda pool, count: sizes.append(count),
    )
    future = client.submit(bytes, 3_000_000)
    wait(future, timeout=60)
    with caplog.at_level(logging.WARNING, logger="dask_flame"):
        budget = lower(cluster)
        exhausted(cluster)
        # It is asked again and again, without a word.
        wait_for(lambda: cluster.runners and next(iter(cluster.runners.values())).refusals >= 2)
    *_, told = events(cluster)
    assert told.startswith(
        "stays although the budget is spent, so that its results are not lost, and goes on "
        "costing: its 1 result (3 MB) does not fit at home: 0 B of home_limit=1 MB are taken"
    )
    assert "ends once their futures are released (del future), or takes calls again after " in told
    assert told.endswith(' USD"')
    assert sum(told in message for message in caplog.messages) == 1
    assert sum("stays although" in e for e in events(cluster)) == 1
    assert events(cluster, "retire") == [f'the budget of "{budget}" is spent']
    assert not events(cluster, "kept")
    wait_for(lambda: sizes, what="the call of on_shrink")
    assert len(sizes) == 1
    # It takes no calls, and its result can be read.
    with pytest.raises(BudgetExhausted):
        client.submit(works, pure=False).result(timeout=60)
    assert future.result(timeout=60) == bytes(3_000_000)
    # It takes calls again once the budget is raised, and the next end of the budget is news.
    cluster.budget = "900 USD"
    assert client.submit(works, pure=False).result(timeout=60) == "runner-1"
    cluster.budget = "1 USD"
    wait_for(lambda: sum("stays although" in e for e in events(cluster)) == 2)
    future.release()
    wait_for(lambda: not cluster.runners, what="it ends once its result is released")


def test_a_runner_that_stayed_and_ends_for_another_reason_has_an_event(flame: Any) -> None:
    cluster, client = flame(
        pools={"cpu": Pool(max=1, price=UNIT), "gpu": Pool(max=1, price=UNIT)},
        budget="900 USD",
        home_limit="1 MB",
    )
    with on("cpu"):
        running = client.submit(held, "go", pure=False)
    with on("gpu"):
        future = client.submit(bytes, 3_000_000)
    # Where a boot takes longer than 2 s, the first runner would spend it before the second call.
    wait(future, timeout=60)
    wait_for(lambda: any(runner.busy for runner in cluster.runners.values()))
    cluster.budget = "2 USD"
    wait_for(lambda: any("stays although the budget is spent" in e for e in events(cluster)))
    wait_for(lambda: cluster.cost()["cpu"].amount > 2, what="the other pool has spent it alone")
    cluster.resize("gpu", price=None, idle_timeout=0)  # its time costs no money from now on
    future.release()
    wait_for(lambda: list(cluster.runners) == ["cpu-1"])
    Event("go", client=client).set()
    assert running.result(timeout=60) == "cpu-1"
    told = [e.reason for e in cluster.events if e.kind == "retire" and e.pool == "gpu"]
    assert told[0] == 'the budget of "2 USD" is spent'
    assert set(told[1:]) == {"no call for idle_timeout=0 s"}


def test_idle_runners_end_at_once_and_boots_are_given_up(flame: Any) -> None:
    cluster, client = flame(
        pools={
            "cpu": Pool(min=1, max=2, idle_timeout="10m", price=UNIT),
            "slow": Pool(max=1, setup=lambda: time.sleep(600), price=UNIT, boot_timeout="20m"),
        },
        budget="900 USD",
    )
    assert client.submit(works).result(timeout=60).startswith("cpu-")
    with on("slow"):
        never = client.submit(works, pure=False)
    wait_for(lambda: any(name.startswith("slow") for name in cluster.runners))
    lower(cluster)
    with pytest.raises(BudgetExhausted):
        never.result(timeout=60)
    wait_for(lambda: not cluster.runners, what="no runner is left, also of `min`")
    # It is raised while nothing waits: what is kept at all times comes back.
    cluster.budget = None
    assert cluster.budget is None
    assert cluster.cost().budget is None
    wait_for(lambda: len(cluster.runners) == 1)


def test_runners_that_are_busy_take_calls_again_when_it_is_raised(flame: Any) -> None:
    cluster, client = flame(max=1, concurrency=2, price=UNIT, budget="900 USD")
    running = client.submit(held, "go", pure=False)
    wait_for(lambda: sum(m.busy for m in cluster.runners.values()) == 1)
    lower(cluster)
    exhausted(cluster)
    with pytest.raises(BudgetExhausted):
        client.submit(works, pure=False).result(timeout=60)
    cluster.budget = "900 USD"
    assert client.submit(works, pure=False).result(timeout=60) == "runner-1"
    Event("go", client=client).set()
    assert running.result(timeout=60) == "runner-1"


def test_pools_without_a_price_go_on(flame: Any) -> None:
    cluster, client = flame(
        pools={"cpu": Pool(max=1), "gpu": Pool(max=1, price=UNIT)}, budget="900 USD"
    )
    with on("gpu"):
        running = client.submit(held, "go", pure=False)
    wait_for(lambda: sum(m.busy for m in cluster.runners.values()) == 1)
    lower(cluster)
    exhausted(cluster)
    assert "(pools without a price go on: cpu)" in events(cluster)[-1]
    assert client.submit(works, pure=False).result(timeout=60) == "cpu-1"
    with on("gpu"), pytest.raises(BudgetExhausted):
        client.submit(works, pure=False).result(timeout=60)
    # The only price cannot be removed.
    with pytest.raises(PoolError, match="is money, and no pool has a price"):
        cluster.resize("gpu", price=None)
    with pytest.raises(PoolError, match=r"(?m)or cluster\.budget = None$"):
        cluster.resize("gpu", price=None)
    Event("go", client=client).set()
    assert running.result(timeout=60) == "gpu-1"


def test_the_time_of_runners_needs_no_price(flame: Any) -> None:
    with dask.config.set({"flame.budget": "1 runner-second"}):
        cluster, client = flame(max=1)
    assert str(cluster.budget) == "1 runner-second"
    running = client.submit(held, "go", pure=False)
    exhausted(cluster)
    with pytest.raises(BudgetExhausted, match=r"spent, [\d.]+ of 1 runner-second \(1\d\d %\)"):
        client.submit(works, pure=False).result(timeout=60)
    cluster.budget = "10 h"
    Event("go", client=client).set()
    wait_for(lambda: running.done())
    assert client.submit(works, pure=False).result(timeout=60).startswith("runner-")


def test_a_wrong_budget_changes_nothing(flame: Any) -> None:
    cluster, _ = flame(max=1, budget="2 h")
    with pytest.raises(PoolError, match="budget=20 is not an amount with its unit"):
        cluster.budget = 20
    with pytest.raises(PoolError, match="budget='20 USD' is money, and no pool has a price"):
        cluster.budget = "20 USD"
    with pytest.raises(PoolError, match=r'it is of the whole cluster: cluster\.budget = "20 '):
        cluster.resize(budget="20 h")
    assert str(cluster.budget) == "2 runner-hours"
    assert not events(cluster, "policy")


@pytest.mark.asyncio
async def test_on_the_running_event_loop() -> None:
    async with FlameCluster(
        max=1, budget="2 h", asynchronous=True, dashboard_address=None
    ) as cluster:
        cluster.budget = "3 h"
        assert str(cluster.budget) == "3 runner-hours"
        assert events(cluster, "policy")[0].startswith('budget="3 runner-hours" (it was "2 runner')


@pytest.mark.asyncio
async def test_from_another_thread_of_an_asynchronous_cluster() -> None:
    async with FlameCluster(
        max=1, price=2.5, budget="2 h", asynchronous=True, dashboard_address=None
    ) as cluster:

        def change() -> None:
            cluster.budget = "3 h"
            cluster.resize(max=3)
            cluster.scale(0)

        await asyncio.to_thread(change)
        assert str(cluster.budget) == "3 runner-hours"
        budget, resized, scaled = events(cluster, "policy")
        assert budget.startswith('budget="3 runner-hours" (it was "2 runner')
        assert resized == "resize: min=0, max=3"
        assert scaled.startswith("scale(0): min=0, max=0; calls wait until ")


def test_no_change_of_an_asynchronous_cluster_whose_loop_does_not_run() -> None:
    loop = asyncio.new_event_loop()

    async def made() -> FlameCluster:
        cluster: FlameCluster = await FlameCluster(max=1, asynchronous=True, dashboard_address=None)
        return cluster

    cluster = loop.run_until_complete(made())
    try:
        with pytest.raises(BackendError, match="loop of this asynchronous cluster does not run"):
            cluster.budget = "3 h"
        assert cluster.budget is None
    finally:

        async def close() -> None:
            await cluster.close()

        loop.run_until_complete(close())
        loop.close()

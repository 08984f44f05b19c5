"""Libraries that are built on Dask, from pools that have no runner until there is demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import pytest
from distributed import Client, get_client

from dask_flame import FlameCluster
from dask_flame.specs import settings

Flame = Callable[..., tuple[FlameCluster, Client]]


# Dask itself, inside a call


def delayed() -> Any:
    return dask.delayed(abs)(-3).compute()


def several() -> Any:
    return sum(dask.compute(*(dask.delayed(abs)(-i) for i in (1, 2))))


def collection() -> Any:
    return int(da.ones((6, 6), chunks=3).sum().compute() / 12)


def persisted() -> Any:
    return dask.delayed(abs)(-3).persist().compute()


def deep(depth: int = 3) -> Any:
    return depth and 1 + dask.delayed(deep)(depth - 1, dask_key_name=f"deep-{depth}").compute()


def in_threads() -> Any:
    return dask.delayed(abs)(-3).compute(scheduler="threads")


async def coroutine() -> Any:
    return await get_client().compute(dask.delayed(abs)(-3))


@pytest.mark.parametrize(
    "function", [delayed, several, collection, persisted, deep, in_threads, coroutine]
)
def test_a_call_that_uses_dask(function: Any, flame: Flame) -> None:
    """The one runner boots for it, so that nothing has told Dask there of a client before."""
    cluster, client = flame(max=1, concurrency=1)
    assert client.submit(function).result(timeout=60) == 3
    assert client.submit(function, pure=False).result(timeout=60) == 3
    assert len([e for e in cluster.events if e.kind == "ready"]) == 1


def test_a_scheduler_that_the_user_has_chosen_counts_on_runners(flame: Flame) -> None:
    _, client = flame(max=1)

    def chosen() -> Any:
        return dask.config.get("scheduler", None), dask.delayed(abs)(-3).compute()

    with dask.config.set(scheduler="threads"):
        assert client.submit(chosen).result(timeout=60) == ("threads", 3)


def test_what_is_for_the_drivers_clients_alone_stays_there(flame: Flame) -> None:
    preload = {"distributed.client.preload": ["/nowhere/mine.py"]}
    _, client = flame(max=1)
    with dask.config.set(preload):
        assert client.submit(delayed).result(timeout=60) == 3
        sent = settings()
    assert "scheduler" not in sent
    assert "preload" not in sent["distributed"]["client"]
    assert sent["distributed"]["client"]["heartbeat"]
    with dask.config.set(scheduler="Distributed"):
        assert "scheduler" not in settings()
    with dask.config.set(scheduler="synchronous"):
        assert settings()["scheduler"] == "synchronous"

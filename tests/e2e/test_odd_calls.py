"""Searched for: a thing or an error that harms anybody but the call that brings it.

``pytest tests/e2e/test_odd_calls.py --odd-calls 2000`` looks further than the few that are tried by
default.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from distributed import Client
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import dask_flame
from dask_flame import FlameCluster
from tests.support import odd
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

Make = Callable[..., tuple[FlameCluster, Client]]


def takes(*args: Any, **kwargs: Any) -> str:
    return "taken"


def gives(recipe: odd.Recipe) -> Any:
    return odd.make(recipe)


def raises(recipe: odd.Recipe, kind: str) -> None:
    raise odd.fails(recipe, kind)


async def gives_later(recipe: odd.Recipe) -> Any:
    await asyncio.sleep(0)
    return odd.make(recipe)


async def raises_later(recipe: odd.Recipe, kind: str) -> None:
    await asyncio.sleep(0)
    raise odd.fails(recipe, kind)


def submit(client: Client, how: str, recipe: odd.Recipe, kind: str) -> Any:
    """Have a call that is given, makes or raises the thing; the future to wait for."""
    match how:
        case "argument":
            return client.submit(takes, odd.make(recipe), pure=False)
        case "keyword":
            return client.map(takes, [1], held=odd.make(recipe), pure=False)[0]
        case "mapped":
            return client.map(takes, [odd.make(recipe)], pure=False)[0]
        case "closure":
            thing = odd.make(recipe)
            return client.submit(lambda: takes(thing), pure=False)
        case "result":
            return client.submit(gives, recipe, pure=False)
        case "result of a coroutine":
            return client.submit(gives_later, recipe, pure=False)
        case "used elsewhere":
            made = client.submit(gives, recipe, pure=False)
            return client.submit(takes, made, client.submit(takes, pure=False), pure=False)
        case "error":
            return client.submit(raises, recipe, kind, pure=False)
        case "error of a coroutine":
            return client.submit(raises_later, recipe, kind, pure=False)
        case "input that has failed":
            return client.submit(takes, client.submit(raises, recipe, kind, pure=False))
        case _:
            raise AssertionError(how)


HOWS = [
    "argument",
    "keyword",
    "mapped",
    "closure",
    "result",
    "result of a coroutine",
    "used elsewhere",
    "error",
    "error of a coroutine",
    "input that has failed",
]


def outlast() -> None:
    threading.Event().wait()


def test_odd_calls_harm_nobody_else(flame: Make, pytestconfig: pytest.Config) -> None:
    cluster, client = flame(max=2, concurrency=2, min=2)
    client.wait_for_workers(2)
    with dask_flame.on(rerun=False):
        neighbours = [client.submit(outlast, workers=[f"runner-{n}"], pure=False) for n in (1, 2)]
    ended = {"result": 0, "error": 0, "refused": 0}

    @settings(
        max_examples=pytestconfig.getoption("--odd-calls") or 100,
        # Without the option always the same ones: what CI tries is known to hold.
        derandomize=pytestconfig.getoption("--odd-calls") is None,
        suppress_health_check=list(HealthCheck),
        database=None,
        # What has ended a runner is not there any more to be found again in less.
        phases=[Phase.generate],
    )
    @given(st.sampled_from(HOWS), odd.recipes, odd.errors)
    def one(how: str, recipe: odd.Recipe, kind: str) -> None:
        future = None
        try:
            future = submit(client, how, recipe, kind)
        except BaseException:
            # Raised in the user's own code, or because it cannot be sent.
            ended["refused"] += 1
        if future is not None:
            try:
                future.result(timeout=60)
                ended["result"] += 1
            except TimeoutError:
                assert future.status != "pending", (how, recipe, kind)
                ended["error"] += 1
            except Exception:
                ended["error"] += 1
        del future
        told = (how, recipe, kind, list(cluster.events)[2:])
        assert client.submit(takes, pure=False).result(timeout=60) == "taken", told
        assert [each.status for each in neighbours] == ["pending"] * 2, told
        assert {event.kind for event in cluster.events} <= {"boot", "ready", "waiting"}, told
        assert client.status == "running", told

    one()
    print(ended)
    assert min(ended.values()) > 0
    client.cancel(neighbours)
    wait_for(lambda: not any(ws.processing for ws in cluster.scheduler.workers.values()))

"""Large keyword arguments of ``map`` reach the calls that they were given to, and no others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from dask._task_spec import DataNode, Task, TaskRef
from distributed import Client
from distributed.scheduler import TaskGroup, TaskPrefix, TaskState
from hypothesis import given
from hypothesis import strategies as st

from dask_flame import FlameCluster
from dask_flame.serialization.graphs import name_data_of_map, plain, unfit

Make = Callable[..., tuple[FlameCluster, Client]]

LARGE = 200_000  # numbers, of 8 bytes each: distributed's limit is 100 kB


def plus(x: float, data: Any = None, **more: Any) -> float:
    return float(x + data[0] + sum(other[0] for other in more.values()))


@pytest.mark.process
def test_map_with_large_arguments(flame: Make) -> None:
    cluster, client = flame(max=2)
    first = client.map(plus, [1, 2, 3], data=np.full(LARGE, 10.0))
    second = client.map(plus, [1, 2, 3], data=np.full(LARGE, 20.0), other=np.full(LARGE, 100.0))
    same = client.map(plus, [3, 4], data=np.full(LARGE, 10.0))
    assert client.gather(first) == [11, 12, 13]
    assert client.gather(second) == [121, 122, 123]
    assert client.gather(same) == [13, 14]
    again = client.map(plus, [5], data=np.full(LARGE, 10.0))
    assert client.gather(again) == [15]
    data = client.map(lambda x, **kwargs: x, [1], retries=3, n=[1.0] * LARGE)
    assert client.gather(data) == [1]
    assert client.submit(plus, 1, data=np.full(LARGE, 1.0)).result() == 2
    assert {e.kind for e in cluster.events} <= {"boot", "ready"}


@pytest.mark.process
def test_it_comes_from_zero_and_goes_when_nobody_holds_the_calls(flame: Make) -> None:
    cluster, client = flame(max=1, idle_timeout="0.1s")
    futures = client.map(plus, range(3), data=np.full(LARGE, 1.0))
    assert client.gather(futures) == [1, 2, 3]
    while cluster.runners:
        time.sleep(0.01)
    assert client.gather(client.map(plus, futures, data=np.full(LARGE, 2.0))) == [3, 4, 5]
    del futures
    deadline = time.monotonic() + 40
    while cluster.scheduler.tasks:
        assert time.monotonic() < deadline, list(cluster.scheduler.tasks)
        time.sleep(0.01)


def graph() -> dict[Any, Any]:
    return {
        "data": DataNode("data", 1),
        "f-1": Task("f-1", plus, 1, data=TaskRef("data")),
        "f-2": Task("f-2", plus, 2, data=TaskRef("data")),
    }


@pytest.mark.unit
def test_what_names_its_own_nodes_keeps_them() -> None:
    order = {"f-1": 0, "f-2": 1, "data": 2}
    assert name_data_of_map(graph(), order, {}) == (graph(), order)
    assert name_data_of_map(graph(), {}, {}) == (graph(), {})


@pytest.mark.unit
def test_calls_that_are_known_keep_their_data() -> None:
    named, order = name_data_of_map(graph(), {"f-1": 0, "f-2": 1}, {})
    (name,) = set(named) - {"f-1", "f-2"}
    assert name.startswith("data-")
    assert named["f-1"].dependencies == named["f-2"].dependencies == {name}
    assert order[name] < min(order["f-1"], order["f-2"])
    known = TaskState("f-2", named["f-2"], "memory", TaskGroup("f", TaskPrefix("f")), True)
    more, _ = name_data_of_map(graph(), {"f-1": 0, "f-2": 1}, {"f-2": known})
    assert more["f-2"] is named["f-2"]
    assert more["f-1"].dependencies.isdisjoint({name, "data"})


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.unit
@given(_plain)
def test_what_is_plain_fits_and_what_holds_anything_else_is_not(value: Any) -> None:
    assert plain(value)
    assert unfit({"x": value}) is None
    assert not plain([value, object()])
    assert not plain({"x": {"y": (value, len)}})

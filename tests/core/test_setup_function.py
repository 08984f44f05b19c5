"""The function of ``Pool(setup=…)`` is checked when the pool is made, with a line that works."""

from __future__ import annotations

import functools
import pickle
import threading
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy
import pytest

import dask_flame
from dask_flame import FlameError, Pool, PoolError
from dask_flame.core.python_versions import here
from dask_flame.core.setup_function import LARGEST, setup_config
from dask_flame.driver.fleets import PoolFleets

pytestmark = pytest.mark.unit


def load_model(path: str = "model.pt") -> str:
    return path


def load_from(path: str) -> str:
    return path


def yields() -> Iterator[int]:
    yield 1


async def waits() -> int:
    return 1


async def waits_and_yields() -> AsyncIterator[int]:
    yield 1


def read(function: Callable[[], object]) -> Any:
    return pickle.loads(b64decode(setup_config(function)["function"]))()


def test_a_function_is_kept_as_it_is() -> None:
    assert Pool(setup=load_model).setup is load_model
    assert Pool().setup is None
    assert read(load_model) == "model.pt"
    assert read(lambda: 3) == 3
    assert setup_config(load_model)["python"] == here()


@pytest.mark.parametrize(
    ("made", "name"),
    [(yields, "yields"), (waits, "waits"), (waits_and_yields, "waits_and_yields")],
)
@pytest.mark.filterwarnings("error")
def test_a_function_that_was_called_by_mistake(made: Callable[[], Any], name: str) -> None:
    with pytest.raises(PoolError) as caught:
        Pool(setup=made())
    assert str(caught.value) == (
        f"setup={name}() has called the function here; write setup={name}, and each runner calls it"
    )
    assert Pool(setup=made).setup is made


def test_a_function_that_needs_arguments() -> None:
    with pytest.raises(PoolError, match=r"^setup=load_from is called without arguments") as caught:
        Pool(setup=load_from)  # type: ignore[arg-type]
    assert str(caught.value).endswith(
        "(missing a required argument: 'path'); write setup=functools.partial(load_from, …)"
    )
    assert read(functools.partial(load_from, "b.pt")) == "b.pt"


def test_a_function_that_cannot_be_pickled() -> None:
    lock = threading.Lock()

    def load() -> object:
        return lock

    with pytest.raises(PoolError) as caught:
        Pool(setup=load)
    assert str(caught.value) == (
        "setup=load cannot be sent to runners (TypeError: cannot pickle '_thread.lock' object); "
        "make such objects inside of the function: def load(): …, and write setup=load"
    )
    with pytest.raises(PoolError, match=r"(?m)^setup=<lambda> .* write setup=load_model$"):
        Pool(setup=lambda: lock)


def test_a_function_that_is_too_large() -> None:
    weights = numpy.ones(2_000_000)
    with pytest.raises(PoolError) as caught:
        Pool(setup=lambda: weights)
    said = str(caught.value)
    assert said.startswith("setup=<lambda> has 16,00")
    assert "bytes when it is pickled, and runners are sent 262,144 at most; load the data" in said
    fits = b"x" * (LARGEST - 4_000)
    assert read(lambda: fits) == fits


def test_a_notebook_of_unusual_functions_can_be_sent() -> None:
    """Before a cluster is made, too: cloudpickle alone pickles this by name."""

    @functools.lru_cache
    def load() -> int:
        return 4

    load.__wrapped__.__module__ = load.__module__ = "__main__"
    assert read(load) == 4


def test_arguments_are_shown_nowhere() -> None:
    pool = Pool(setup=functools.partial(load_from, "s3cret"))
    assert "s3cret" not in repr(pool)
    assert repr(pool).endswith("setup=load_from)")
    assert pool.said(["setup"]) == {"setup": "load_from"}
    assert repr(Pool(idle_check=functools.partial(load_from, "s3cret"))).count("s3cret") == 0


def test_the_scheduler_elsewhere_does_not_get_it() -> None:
    assert Pool(setup=load_model).abridged.setup is None


def test_it_can_be_changed_while_the_cluster_runs() -> None:
    fleets = PoolFleets({"default": Pool(max=1, setup=load_model)})
    assert fleets.resize(None, {"setup": yields}).setup is yields
    assert fleets.resize(None, {"max": 2}).setup is yields
    assert fleets.resize(None, {"setup": None}).setup is None
    with pytest.raises(PoolError, match=r"setup=load_from is called without arguments"):
        fleets.resize(None, {"setup": load_from})


def test_it_belongs_to_a_pool() -> None:
    with pytest.raises(PoolError, match=r'write pools=\{"cpu": Pool\(setup=lambda: load_model'):
        dask_flame.FlameCluster(pools={"cpu": Pool()}, setup=load_model)


def test_outside_of_a_runner_there_is_no_result() -> None:
    with pytest.raises(FlameError, match=r"for calls on runners, and .* write client\.submit\(f\)"):
        dask_flame.setup_result()

"""A key that is held for another call is warned of; a repeated call is not."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from dask_flame.core.distributed_internals import SubmittedCalls
from dask_flame.submission.stale_keys import HeldKeys


def function(text: str) -> Callable[..., Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(text, names)
    return names["train"]  # type: ignore[no-any-return]


ONE = "def train(rate):\n    return rate"
TWO = "def train(rate):\n    return 2 * rate"


def calls(fn: Callable[..., Any], *args: Any, key: str = "a", own: bool = True) -> SubmittedCalls:
    return SubmittedCalls(fn, [key], [args], {}, own)


def said(*submitted: SubmittedCalls, held: Sequence[str] = "a", versions: Any = None) -> list[str]:
    keys = HeldKeys()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for one, version in zip(submitted, versions or [None] * 9, strict=False):
            keys.check(one, held, version)
    return [str(warning.message) for warning in caught]


@pytest.mark.unit
def test_an_edited_function_with_an_old_key_is_said() -> None:
    (told,) = said(calls(function(ONE), 1), calls(function(TWO), 1))
    assert "'a' of this train()" in told
    assert "an earlier version" in told
    assert "dask_flame.label" in told


@pytest.mark.unit
def test_a_reloaded_module_with_an_old_key_is_said() -> None:
    one = function(ONE)
    first = calls(one, 1)
    keys = HeldKeys()
    keys.check(first, "a", None)
    one.__code__ = function(TWO).__code__
    with pytest.warns(UserWarning, match="an earlier version"):
        keys.check(first, "a", None)
    assert said(calls(abs, 1), calls(abs, 1), versions=["v1", "v2"])


@pytest.mark.unit
def test_other_arguments_and_other_functions_with_an_old_key_are_said() -> None:
    assert "other arguments" in said(calls(abs, 1), calls(abs, 2))[0]
    assert "a call of abs" in said(calls(abs, 1), calls(round, 1))[0]


@pytest.mark.unit
def test_a_repeated_call_is_not_said() -> None:
    assert not said(calls(function(ONE), 1), calls(function(ONE), 1))  # the cell ran again
    assert not said(calls(abs, 1), calls(abs, 1))


@pytest.mark.unit
def test_keys_that_are_not_held_and_keys_of_dask_are_not_said() -> None:
    assert not said(calls(abs, 1), calls(abs, 2), held=())
    assert not said(calls(abs, 1, own=False), calls(abs, 2, own=False))


@pytest.mark.unit
def test_released_keys_are_forgotten() -> None:
    keys = HeldKeys()
    for n in range(5_000):
        keys.check(calls(abs, n, key=str(n)), (), None)
    assert len(keys._known) <= 1_001


class Model:
    def train(self, rate: float) -> float:
        return rate


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["closure", "method", "partial"])
def test_what_a_function_holds_is_not_kept(kind: str) -> None:
    def held() -> tuple[Callable[..., Any], weakref.ref[Model]]:
        data = Model()
        made: dict[str, Callable[..., Any]] = {
            "closure": lambda rate: (data, rate),
            "method": data.train,
            "partial": partial(id, data),
        }
        return made[kind], weakref.ref(data)

    keys = HeldKeys()
    function, data = held()
    keys.check(calls(function, 1), "a", None)
    del function
    gc.collect()
    assert data() is None


@pytest.mark.unit
def test_methods_are_told_apart_by_their_objects() -> None:
    one, other = Model(), Model()
    assert not said(calls(one.train, 1), calls(one.train, 1))
    assert "a call of Model.train" in said(calls(one.train, 1), calls(other.train, 1))[0]


@pytest.mark.process
def test_the_warning_is_at_the_line_that_submits(flame: Any) -> None:
    _, client = flame(max=1)
    futures = client.map(function(ONE), [1], key=["a"])
    client.gather(futures)
    with pytest.warns(UserWarning, match="an earlier version") as caught:
        again = client.map(function(TWO), [1], key=["a"])
    assert caught[0].filename == __file__
    assert client.gather(again) == [1]  # as the warning says
    # Without a key, the edited function runs; a label names its curve.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert client.gather(client.map(function(TWO), [1])) == [2]
        assert client.submit(function(TWO), 1, pure=True).result() == 2
        assert client.submit(function(ONE), 1, pure=True).result() == 1

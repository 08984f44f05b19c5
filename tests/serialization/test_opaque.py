"""A graph passes through a process that lacks the modules of its functions."""

from __future__ import annotations

import functools
import importlib
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed.protocol import pickle as dask_pickle

from dask_flame.serialization.opaque import Opaque, is_coroutine_function, opaquely
from dask_flame.serialization.pickling import prepare

pytestmark = pytest.mark.unit

SOURCE = """
import enum
import functools
import toolz
import typing
from dataclasses import dataclass

def double(x):
    return 2 * x

async def later(x):
    return x

@dataclass
class Point:
    x: int
    def moved(self, by):
        return Point(self.x + by)
    @classmethod
    def origin(cls):
        return cls(0)

class Color(enum.Enum):
    RED = 1

@functools.lru_cache
def cached(x):
    return 3 * x

UserId = typing.NewType("UserId", int)
T = typing.TypeVar("T")

@toolz.curry
def add(x, y):
    return x + y
"""


class Elsewhere:
    """A module that this process can lose, as if it were another."""

    def __init__(self, folder: Path) -> None:
        (folder / "apart.py").write_text(SOURCE)
        self._folder = str(folder)
        self.module: Any = None

    def __enter__(self) -> Any:
        sys.path.insert(0, self._folder)
        importlib.invalidate_caches()
        self.module = importlib.import_module("apart")
        return self.module

    def __exit__(self, *_: object) -> None:
        sys.path.remove(self._folder)
        del sys.modules["apart"]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    prepare(interruptible=True)
    return Elsewhere(tmp_path)


#: What is sent, and whether what arrives is right.
THINGS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], bool]]] = {
    "function": (lambda m: m.double, lambda m, got: got is m.double),
    "class": (lambda m: m.Point, lambda m, got: got is m.Point),
    "instance": (lambda m: m.Point(3), lambda m, got: got == m.Point(3)),
    "method": (lambda m: m.Point(3).moved, lambda m, got: got(1) == m.Point(4)),
    "class method": (lambda m: m.Point.origin, lambda m, got: got() == m.Point(0)),
    "enum": (lambda m: m.Color.RED, lambda m, got: got is m.Color.RED),
    "module": (lambda m: m, lambda m, got: got is m),
    "partial": (lambda m: functools.partial(m.double, 4), lambda m, got: got() == 8),
    "cached": (lambda m: m.cached, lambda m, got: got is m.cached),
    "new type": (lambda m: m.UserId, lambda m, got: got is m.UserId),
    "type variable": (lambda m: m.T, lambda m, got: got is m.T),
    "union": (lambda m: m.Point | None, lambda m, got: got == m.Point | None),
    "list of": (lambda m: list[m.Point], lambda m, got: got == list[m.Point]),
    "curried": (lambda m: m.add(1), lambda m, got: got(2) == 3),
    "partial of curried": (lambda m: functools.partial(m.add, 1), lambda m, got: got(2) == 3),
    "nested": (
        lambda m: {"a": [m.Point(1), (m.double, 2)]},
        lambda m, got: got == {"a": [m.Point(1), (m.double, 2)]},
    ),
    "array": (
        lambda m: [np.arange(1000), m.Point(1)],
        lambda m, got: got[0].sum() == 499_500 and got[1] == m.Point(1),
    ),
}


@pytest.mark.parametrize("name", THINGS)
def test_things_pass_through_a_process_without_their_module(
    name: str, elsewhere: Elsewhere
) -> None:
    make, right = THINGS[name]
    with elsewhere as module:
        buffers: list[Any] = []
        with opaquely(["apart"]):
            sent = dask_pickle.dumps(make(module), buffer_callback=buffers.append)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("apart")
    # As the scheduler does.
    passed = dask_pickle.loads(sent, buffers=[bytes(b) for b in buffers])
    again = dask_pickle.dumps(passed)
    with elsewhere as module:
        assert right(module, dask_pickle.loads(again))


def test_coroutine_functions_are_known_as_such(elsewhere: Elsewhere) -> None:
    with elsewhere as module, opaquely(["apart"]):
        sent = [dask_pickle.dumps(function) for function in (module.later, module.double)]
    later, double = map(pickle.loads, sent)
    assert is_coroutine_function(later)
    assert not is_coroutine_function(double)
    assert isinstance(double, Opaque)
    assert double.__name__ == "double"


def test_nothing_changes_outside(elsewhere: Elsewhere) -> None:
    with elsewhere as module:
        assert dask_pickle.loads(dask_pickle.dumps(module.double)) is module.double

"""Small plain data, pickled at once."""

from __future__ import annotations

import collections
import pickle
from dataclasses import dataclass
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.serialization.plain_data import pickled

pytestmark = pytest.mark.unit

LIMIT = 2**15

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(max_size=50)
    | st.binary(max_size=50)
)
hashable = atoms | st.tuples(atoms, atoms)
plain = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(hashable, inner, max_size=5)
        | st.frozensets(hashable, max_size=5)
        | st.sets(hashable, max_size=5)
    ),
    max_leaves=30,
)


@given(plain)
def test_plain_data_come_back_as_they_were(value: Any) -> None:
    data = pickled(value, LIMIT)
    assert data is not None
    back = pickle.loads(data)
    assert back == value
    assert type(back) is type(value)


@given(plain, st.integers(0, 200))
def test_no_pickle_is_larger_than_the_limit(value: Any, limit: int) -> None:
    data = pickled(value, limit)
    assert data is None or len(data) <= limit


@pytest.mark.parametrize(
    "value",
    [
        numpy.float32(1.5),
        numpy.arange(10),
        numpy.zeros((3, 4), "f4")[:, ::2],
        numpy.datetime64("now"),
    ],
    ids=["number", "array", "view", "time"],
)
def test_numbers_and_arrays_of_numpy_are_plain(value: Any) -> None:
    data = pickled({"nested": [value]}, LIMIT)
    assert data is not None
    (back,) = pickle.loads(data)["nested"]
    assert type(back) is type(value)
    assert numpy.array_equal(back, value)
    assert back.dtype == value.dtype


@dataclass
class Point:
    x: int = 1


class Text(str):
    __slots__ = ()


class Array(numpy.ndarray):
    pass


LOOP: list[Any] = []
LOOP.append(LOOP)
DEEP: list[Any] = []
for _ in range(1_200):
    DEEP = [DEEP]
WITH_METADATA = numpy.dtype("i4", metadata={"any": print})


@pytest.mark.parametrize(
    "value",
    [
        Point(),
        [Point()],
        {"a": Point()},
        {Text("key"): 1},
        collections.OrderedDict(a=1),
        numpy.array([Point()], dtype=object),
        numpy.zeros(2, [("a", object)])[0],
        numpy.zeros(3).view(Array),
        bytes(LIMIT + 1),
        "x" * (LIMIT + 1),
        1 << (9 * LIMIT),
        numpy.zeros(LIMIT),
        [numpy.zeros(LIMIT // 16)] * 5,
        [0] * 3_000,
        [[0] * 500] * 10,
        LOOP,
        numpy.zeros(3, WITH_METADATA),
        numpy.zeros(3, [("field", WITH_METADATA)]),
        numpy.zeros(3, [("field", WITH_METADATA, 2)]),
        len,
        int,
    ],
    ids=lambda value: type(value).__name__,
)
def test_others_are_left_alone(value: Any) -> None:
    assert pickled(value, LIMIT) is None


def test_data_that_pickle_finds_too_deep_is_left_alone() -> None:
    try:
        expected = pickle.dumps(DEEP, protocol=5)
    except RecursionError:  # CPython 3.11; later versions go deeper
        expected = None
    assert pickled(DEEP, LIMIT) == expected

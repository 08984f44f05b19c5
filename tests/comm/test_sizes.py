"""Small messages are told from large ones."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from distributed.protocol import Serialize, ToPickle, serialize
from distributed.protocol.serialize import Serialized
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.comm.sizes import _BYTES, is_small

pytestmark = pytest.mark.unit

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
messages = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(messages)
def test_usual_messages_are_small(message: Any) -> None:
    assert is_small(message)


@pytest.mark.parametrize(
    "part",
    [
        bytes(_BYTES + 1),
        "x" * (_BYTES + 1),
        [0] * 1_000,
        [[0] * 100] * 5,
        Serialized(*serialize(bytes(_BYTES + 1))),
        Serialize(1),
        ToPickle(object()),
        numpy.zeros(1),
        object(),
    ],
    ids=lambda part: type(part).__name__,
)
def test_others_are_left_to_dask(part: Any) -> None:
    assert not is_small([{"op": "update-graph", "part": part}])


def test_a_small_graph_is_small() -> None:
    graph = Serialized(*serialize(ToPickle({"key": 1})))
    assert is_small([{"op": "update-graph", "expr_ser": graph, "keys": {"key"}}])

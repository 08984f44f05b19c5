"""Places for connections that have proved nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.core.unproven import Unproven

pytestmark = pytest.mark.unit


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans())), st.integers(1, 5))
def test_the_oldest_makes_room(steps: list[tuple[int, bool]], most: int) -> None:
    closed: list[int] = []
    unproven: Unproven[int] = Unproven(most, closed.append)
    expected: list[int] = []
    gone: list[int] = []
    for connection, comes in steps:
        if not comes:
            unproven.remove(connection)
            expected = [one for one in expected if one != connection]
        elif connection not in expected:
            unproven.add(connection)
            expected.append(connection)
            gone += expected[:-most]
            expected = expected[-most:]
        assert closed == gone
        assert len(unproven) == len(expected)


def test_what_has_proved_itself_meanwhile_is_not_closed() -> None:
    closed: list[int] = []
    unproven: Unproven[int] = Unproven(2, closed.append, lambda connection: connection == 1)
    for connection in (1, 2, 3, 4):
        unproven.add(connection)
    assert closed == [2]

"""Numbered messages: whatever is added and confirmed, in order, nothing lost or seen twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.core.numbered import Unconfirmed

pytestmark = pytest.mark.unit


@given(st.lists(st.one_of(st.none(), st.integers(-3, 40)), max_size=80))
def test_what_is_kept_is_all_that_was_added_and_not_confirmed(acts: list[int | None]) -> None:
    said: Unconfirmed[int] = Unconfirmed()
    added = confirmed = 0
    for act in acts:
        if act is None:
            assert said.add(added) == added
            added += 1
        else:
            upto = max(confirmed, min(act, added))
            assert said.confirm(act) == list(range(confirmed, upto))
            confirmed = upto
        assert (said.start, said.next, len(said)) == (confirmed, added, added - confirmed)
        assert list(said) == list(range(confirmed, added))
        for number in (confirmed - 1, confirmed, confirmed + 2, added):
            assert list(said.since(number)) == list(range(max(confirmed, number), added))
    said.clear()
    assert (said.start, len(said)) == (added, 0)

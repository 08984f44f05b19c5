"""How many lines may be shown, and how many were not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.core.rate_limit import RateLimit, left_out

pytestmark = pytest.mark.unit

BURSTS = st.integers(1, 50)
RATES = st.floats(0.1, 100)
OFFERS = st.lists(st.tuples(st.floats(0, 10), st.integers(0, 100)), max_size=60)


@given(BURSTS, RATES, OFFERS)
def test_no_more_than_the_burst_and_the_rate_and_each_line_is_counted(
    burst: int, rate: float, offers: list[tuple[float, int]]
) -> None:
    limit = RateLimit(burst, rate)
    now, given_out, said, offered = 100.0, [], 0, 0
    for n, (wait, lines) in enumerate(offers):
        now += wait
        given = limit.offer(lines, now)
        assert 0 <= given <= lines
        offered += lines
        given_out.append((now, given))
        if n % 3 == 0:
            said += limit.take_left_out()
    assert sum(g for _, g in given_out) + said + limit.take_left_out() == offered
    assert limit.left_out == 0
    for i, (begin, _) in enumerate(given_out):  # in any stretch of time
        for j in range(i, len(given_out)):
            end = given_out[j][0]
            most = burst + rate * (end - begin)
            assert sum(g for _, g in given_out[i : j + 1]) <= most + 1e-6


@given(BURSTS, RATES, st.floats(0, 1e6))
def test_who_keeps_to_the_rate_is_never_held_back(burst: int, rate: float, begin: float) -> None:
    limit = RateLimit(burst, rate)
    assert limit.offer(burst, begin) == burst
    now = begin
    for _ in range(100):
        now += 1.01 / rate
        assert limit.offer(1, now) == 1
    assert limit.left_out == 0


def test_a_flood_is_shown_in_handfuls() -> None:
    limit = RateLimit(burst=200, rate=20)
    shown = [limit.offer(10, ms / 1000) for ms in range(10_000)]
    assert sum(shown[:100]) == 200
    again = [i for i in range(1, len(shown)) if shown[i] and not shown[i - 1]]
    assert len(again) == 9  # once a second
    assert sum(shown) == 200 + 9 * 20


def test_after_a_pause_it_is_full_again_and_not_fuller() -> None:
    limit = RateLimit(burst=5, rate=1)
    assert limit.offer(9, 0) == 5
    assert limit.pause == 1
    assert not limit.full_enough(0.9)
    assert limit.full_enough(1.0)
    assert limit.offer(9, 1e9) == 5


def test_a_clock_that_goes_back_gives_nothing() -> None:
    limit = RateLimit(burst=2, rate=1)
    assert limit.offer(2, 10) == 2
    assert limit.offer(1, 5) == 0
    assert limit.offer(1, 10.5) == 0
    assert limit.offer(1, 11) == 1


def test_what_is_said_of_it() -> None:
    assert left_out(12_345, "see there") == "\u2026 12,345 lines not shown; see there\n"
    assert left_out(1, "see there") == "\u2026 1 line not shown; see there\n"

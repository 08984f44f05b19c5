"""Thinning keeps the shape of a curve, however often it is repeated."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dask_flame.reports import ReportStore, Series
from dask_flame.reports.downsample import LEAST, thin_steps
from dask_flame.reports.wire import Batch

pytestmark = pytest.mark.unit

numbers = st.floats() | st.sampled_from([0.0, 1.0, -1.0, math.inf, -math.inf, math.nan])
steps = st.integers(0, 40) | st.integers(0, 3_000) | st.integers(0, 2**53 - 1)
points = st.lists(st.tuples(steps, numbers), min_size=1, max_size=400)


def stored(batches: Iterable[list[tuple[int, float]]], limit: int) -> Series:
    """Report these points in these batches; return the points that the store keeps."""
    store, n = ReportStore(points=limit), 0
    for made in batches:
        times = [float(n + i) for i in range(len(made))]
        at, values = [step for step, _ in made], [value for _, value in made]
        store.add(Batch("call", "run", "runner", False, at, times, {"loss": values}))
        n += len(made)
    return store.calls["call"].series["loss"]


def width_of(made: list[tuple[int, float]], limit: int) -> int:
    """Return a power of two of steps that no bucket needs to be wider than."""
    width = 0
    # Four points of each bucket, and the first.
    while 4 * len({step >> width for step, _ in made}) + 1 > limit:
        width += 1
    return width


def judge(made: list[tuple[int, float]], kept: list[int], width: int) -> None:
    """Check that each bucket of steps with values has its extremes, its NaN and its last."""
    assert kept == sorted(set(kept))
    assert kept[0] == 0
    every, there = defaultdict(list), defaultdict(list)
    for i, (step, _) in enumerate(made):
        every[step >> width].append(i)
    for i in kept:
        there[made[i][0] >> width].append(i)
    for bucket, where in every.items():
        mine = [made[i][1] for i in there[bucket]]
        assert there[bucket], bucket
        assert there[bucket][-1] == where[-1]
        finite = [made[i][1] for i in where if not math.isnan(made[i][1])]
        own = [value for value in mine if not math.isnan(value)]
        assert len(own) < len(mine) or len(finite) == len(where)
        if finite:
            assert (min(own), max(own)) == (min(finite), max(finite))


@given(points, st.integers(LEAST, 120))
def test_each_bucket_of_steps_keeps_its_extremes_its_nan_and_its_last(
    made: list[tuple[int, float]], limit: int
) -> None:
    kept = thin_steps([step for step, _ in made], [value for _, value in made], limit)
    assert len(kept) <= limit
    if len(made) <= limit:
        assert kept == list(range(len(made)))
    judge(made, kept, width_of(made, limit))


@given(points, st.lists(st.integers(1, 60), min_size=1), st.booleans())
@example([(i % 37 * 50, float(i)) for i in range(400)], [7], False)
def test_so_does_a_curve_that_was_thinned_again_and_again(
    made: list[tuple[int, float]], sizes: list[int], ordered: bool
) -> None:
    if ordered:
        made = sorted(made, key=lambda point: point[0])
    made = made * 3 if not ordered else [point for point in made for _ in range(3)]
    rest, batches = iter(made), []
    for size in itertools.cycle(sizes):
        if not (batch := list(itertools.islice(rest, size))):
            break
        batches.append(batch)
    series = stored(batches, 100)
    assert len(series) <= 100
    assert series.made == len(made)
    kept = [int(at) for at in series.times]
    for i, step, value in zip(kept, series.steps, series.values, strict=True):
        assert made[i] == (step, value) or (made[i][0] == step and math.isnan(value))
    judge(made, kept, width_of(made, 50))


@pytest.mark.parametrize("size", [7, 1_000])
def test_a_hundred_thousand_reports_have_no_gap(size: int) -> None:
    noise = random.Random(size)
    curve = [(i, math.sin(i / 3_000) + noise.random()) for i in range(100_000)]
    series = stored((curve[i : i + size] for i in range(0, len(curve), size)), 4_000)
    assert 900 < len(series) <= 4_000
    gaps = [after - before for before, after in itertools.pairwise(series.steps)]
    assert max(gaps) <= 512
    judge(curve, [int(at) for at in series.times], 8)


def test_a_restart_from_a_checkpoint_keeps_both_passes_and_their_order() -> None:
    first = [(i, 1.0) for i in range(60_000)]
    again = [(i, 2.0) for i in range(40_000, 100_000)]
    made = first + again
    series = stored((made[i : i + 500] for i in range(0, len(made), 500)), 4_000)
    kept = list(zip(series.steps, series.values, strict=True))
    turn = kept.index(next(point for point in kept if point[1] == 2.0))
    for own in (kept[:turn], kept[turn:]):
        assert [step for step, _ in own] == sorted(step for step, _ in own)
        assert max(b - a for (a, _), (b, _) in itertools.pairwise(own)) <= 512
    assert (kept[turn - 1], kept[turn][0]) == ((59_999, 1.0), 40_000)
    assert kept[-1] == (99_999, 2.0)


def test_threads_that_report_side_by_side_are_bounded_too() -> None:
    made = [(i + 50_000 * (i % 2), float(i)) for i in range(50_000)]
    series = stored((made[i : i + 100] for i in range(0, len(made), 100)), 4_000)
    assert 900 < len(series) <= 4_000
    judge(made, [int(at) for at in series.times], 8)


def test_thinning_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="limit=4 is too small"):
        thin_steps([1] * 10, [1.0] * 10, 4)

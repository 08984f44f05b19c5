"""Reduce a curve to fewer points that draw the same line; pure (all places)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    _Ints = npt.NDArray[np.int64]
    _Floats = npt.NDArray[np.float64]

#: Smallest `limit` of :func:`thin` and :func:`thin_steps`.
LEAST = 5
#: Points for each pass over the steps; with fewer, passes are not kept apart.
_PER_PASS = 64
#: Maximum number of passes that are kept apart.
_MOST_PASSES = 256
#: Number of bits of a step, which is less than 2**53.
_BITS = 53


def thin(values: Sequence[float], limit: int) -> list[int]:
    """Choose the points of a curve to keep: both ends and the extremes of each bucket.

    Parameters
    ----------
    values : sequence of float
        The curve's values; NaN and infinities are allowed.
    limit : int
        Maximum number of points to keep, at least `LEAST`.

    Returns
    -------
    list of int
        Increasing positions in `values`. All of them if there are `limit` or fewer. Otherwise the
        first, the last and, for each of at most ``(limit - 2) // 3`` equal buckets between them, a
        minimum, a maximum and the first NaN.

    Examples
    --------
    >>> thin([5, 1, 2, 9, 3, 4], 5)
    [0, 1, 3, 5]
    """
    if limit < LEAST:
        raise ValueError(f"limit={limit} is too small: a curve needs {LEAST} points or more")
    n = len(values)
    if n <= limit:
        return list(range(n))
    # Imported here because runners import this module and never call this function.
    import numpy as np

    inner = n - 2
    size = math.ceil(inner / ((limit - 2) // 3))
    rows = math.ceil(inner / size)
    # One row for each bucket. The last row is padded with NaN; the padding is dropped below.
    padded = np.full(rows * size, np.nan)
    padded[:inner] = np.asarray(values, dtype=float)[1:-1]
    grid = padded.reshape(rows, size)
    nan = np.isnan(grid)
    # NaN counts as +inf for the minimum and as -inf for the maximum, so that it wins only in a
    # bucket without any other number.
    smallest = np.where(nan, np.inf, grid).argmin(axis=1)
    largest = np.where(nan, -np.inf, grid).argmax(axis=1)
    first_nan = np.where(nan.any(axis=1), nan.argmax(axis=1), smallest)
    starts = size * np.arange(rows)
    inside = np.unique(np.concatenate([starts + smallest, starts + largest, starts + first_nan]))
    kept: list[int] = (inside[inside < inner] + 1).tolist()
    return [0, *kept, n - 1]


def thin_steps(steps: Sequence[int], values: Sequence[float], limit: int) -> list[int]:
    """Choose the points of a curve to keep, by buckets of steps of equal width.

    A curve that grows can be thinned again and again. The width of the buckets is a power of two,
    so that the buckets of one time are parts of the buckets of a later time, and no part of the
    curve becomes sparser than another. With :func:`thin`, whose buckets have equal numbers of
    points, each time would halve the older points once more.

    Parameters
    ----------
    steps : sequence of int
        In the order of the reports, from 0 to 2**53 - 1. They may go back.
    values : sequence of float
        One for each step; NaN and infinities are allowed.
    limit : int
        Maximum number of points to keep, at least `LEAST`.

    Returns
    -------
    list of int
        Increasing positions. All of them if there are `limit` or fewer. Otherwise the first point
        and, for each bucket with points, a minimum, a maximum, the first NaN and the last point.
        The width is the smallest with which that is possible. If steps go back, as after a restart
        from a checkpoint, each pass over the steps has buckets of its own, unless there are many.

    Examples
    --------
    >>> thin_steps([0, 1, 2, 3, 4, 5, 6, 7], [9, 5, 1, 2, 8, 3, 4, 4], 7)
    [0, 2, 3, 4, 5, 7]
    """
    if limit < LEAST:
        raise ValueError(f"limit={limit} is too small: a curve needs {LEAST} points or more")
    if len(values) <= limit:
        return list(range(len(values)))
    import numpy as np

    at = np.asarray(steps, dtype=np.int64)
    curve = np.asarray(values, dtype=np.float64)
    back = np.flatnonzero(at[1:] < at[:-1]) + 1
    passes = np.zeros_like(at)
    if 0 < len(back) < min(limit // _PER_PASS, _MOST_PASSES):
        passes[back] = 1 << _BITS
        passes = np.cumsum(passes)
    ordered = np.sort(at) if len(back) else at
    # A bucket with several points keeps two or more of them.
    for width in range(_narrowest(ordered, limit // 2), _BITS + 1):
        kept = _of_buckets(passes | (at >> width), curve, in_order=not len(back))
        if len(kept) <= limit:
            break
    chosen: list[int] = kept.tolist()
    return chosen


def _narrowest(ordered: _Ints, limit: int) -> int:
    """Return the logarithm of the smallest width with which there are at most `limit` buckets."""
    import numpy as np

    # The number of buckets is at least that of the gaps that are as wide as a bucket.
    gaps = np.sort(np.diff(ordered))
    width = int(gaps[-limit]).bit_length() if len(gaps) >= limit else 0
    while width < _BITS:
        shifted = ordered >> width
        if np.count_nonzero(shifted[1:] != shifted[:-1]) < limit:
            break
        width += 1
    return width


def _of_buckets(buckets: _Ints, values: _Floats, *, in_order: bool) -> _Ints:
    """Return the positions of the first point, and of those to keep of each bucket."""
    import numpy as np

    if not in_order:
        order = np.argsort(buckets, kind="stable")
        buckets, values = buckets[order], values[order]
    begins = np.empty(len(buckets), dtype=bool)
    begins[0] = True
    np.not_equal(buckets[1:], buckets[:-1], out=begins[1:])
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(values))
    sizes = ends - starts
    keep = np.zeros(len(values), dtype=bool)
    keep[ends - 1] = True
    low = high = values
    nan = np.isnan(values)
    if nan.any():
        keep[_first(nan, begins)] = True
        # NaN counts as in `thin`.
        low, high = np.where(nan, np.inf, values), np.where(nan, -np.inf, values)
    keep[_first(low == np.repeat(np.minimum.reduceat(low, starts), sizes), begins)] = True
    keep[_first(high == np.repeat(np.maximum.reduceat(high, starts), sizes), begins)] = True
    if in_order:
        keep[0] = True
        return np.flatnonzero(keep)
    kept = np.zeros(len(values), dtype=bool)
    kept[order[keep]] = kept[0] = True
    return np.flatnonzero(kept)


def _first(those: npt.NDArray[np.bool_], begins: npt.NDArray[np.bool_]) -> _Ints:
    """Return the positions of the first of `those` in each bucket that has one."""
    import numpy as np

    where = np.flatnonzero(those)
    number = np.cumsum(begins)[where]
    firsts: _Ints = where[np.concatenate(([True], number[1:] != number[:-1]))[: len(where)]]
    return firsts

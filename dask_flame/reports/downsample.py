"""Fewer points that draw the same curve; pure (anywhere)."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: The least number of points that a curve can be thinned to.
LEAST = 5


def thin(values: Sequence[float], limit: int) -> list[int]:
    """Choose points of a curve to keep: the ends, and the extremes of each of many buckets.

    Parameters
    ----------
    values : sequence of float
        The curve's values; NaN and infinities are allowed.
    limit : int
        Most points to keep, `LEAST` or more.

    Returns
    -------
    list of int
        Rising positions in `values`: all of them where they are `limit` or fewer; else the first,
        the last, and of each of at most ``(limit - 2) // 3`` buckets of equal length between them
        a smallest value, a largest one, and the first NaN.

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
    # Here, as a runner imports this package too and never thins.
    import numpy as np

    inner = n - 2
    size = math.ceil(inner / ((limit - 2) // 3))
    rows = math.ceil(inner / size)
    # One row a bucket; the last one is filled up with NaNs, which are dropped again below.
    padded = np.full(rows * size, np.nan)
    padded[:inner] = np.asarray(values, dtype=float)[1:-1]
    grid = padded.reshape(rows, size)
    nan = np.isnan(grid)
    # A NaN stands for an infinity that the true extreme either beats or equals; where it equals
    # the one, it is beaten by the other.
    smallest = np.where(nan, np.inf, grid).argmin(axis=1)
    largest = np.where(nan, -np.inf, grid).argmax(axis=1)
    first_nan = np.where(nan.any(axis=1), nan.argmax(axis=1), smallest)
    starts = size * np.arange(rows)
    inside = np.unique(np.concatenate([starts + smallest, starts + largest, starts + first_nan]))
    kept: list[int] = (inside[inside < inner] + 1).tolist()
    return [0, *kept, n - 1]

"""Reduce a curve to fewer points that draw the same line; pure (all places)."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Smallest `limit` of :func:`thin`.
LEAST = 5


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

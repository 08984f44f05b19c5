"""Positions and labels of the ticks of an axis; pure (driver)."""

from __future__ import annotations

import math
import sys

#: Prefixes of large numbers.
_LARGE = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def ticks(low: float, high: float, about: int) -> list[float]:
    """Return about `about` round numbers between two others.

    Parameters
    ----------
    low, high : float
        Ends of the range.
    about : int
        Approximate number of ticks.

    Returns
    -------
    list of float

    Examples
    --------
    >>> ticks(0, 97, 5)
    [0.0, 20.0, 40.0, 60.0, 80.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(1, about)
    if rough < sys.float_info.min:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((f * power for f in (1, 2, 2.5, 5) if f * power >= rough), 10 * power)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return logarithms of round numbers in a range, which is given as decimal logarithms.

    Examples
    --------
    >>> [round(10**t, 6) for t in log_ticks(-2, 1)]
    [0.01, 0.1, 1.0, 10.0]
    """
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    decades = last - first + 1
    if decades > 6:
        every = math.ceil(decades / 6)
        return [float(n) for n in range(first, last + 1, every)]
    if decades >= 3:
        return [float(n) for n in range(first, last + 1)]
    fine = (1, 2, 5)
    found = [
        n + math.log10(f)
        for n in range(math.floor(low), math.ceil(high) + 1)
        for f in fine
        if low - 1e-9 <= n + math.log10(f) <= high + 1e-9
    ]
    # A range of less than half a decade may contain none.
    return found if len(found) > 1 else ticks(low, high, 4)


def tick(value: float, among: list[float]) -> str:
    """Return the label of a tick, as short as possible among the others.

    Examples
    --------
    >>> tick(0.25, [0.0, 0.25, 0.5]), tick(20_000, [0, 20_000]), tick(0.5, [0.0, 0.5])
    ('0.25', '20k', '0.5')
    """
    largest = max(map(abs, among), default=0.0)
    if value == 0:
        return "0"
    for size, prefix in _LARGE:
        if largest >= 10 * size or (largest >= size and size > 1e3):
            return f"{value / size:.4g}{prefix}"
    if largest >= 1000:
        return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"
    return f"{value:.4g}"

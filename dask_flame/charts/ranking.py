"""Find best values, and format names and numbers of reports; pure (all places)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dask_flame.core.terminal_text import plain
from dask_flame.core.text import label
from dask_flame.reports.series import CallReports, Series

#: Text for a missing number.
NOTHING = "\N{EN DASH}"
#: States of calls that have no rank; the same as in dashboard/static/calls.js.
UNRANKED = frozenset(("failed", "cancelled"))


def metrics(calls: Iterable[CallReports]) -> list[str]:
    """Return the names of all series: "loss" first, the others in order of appearance."""
    names = dict.fromkeys(name for call in calls for name in call.series)
    return sorted(names, key=lambda name: name != "loss")


def best(series: Series, *, higher: bool) -> tuple[float, int] | None:
    """Return the first best finite value of a series and its step; None if there is none."""
    values = np.asarray(series.values)
    finite = np.flatnonzero(np.isfinite(values))
    if not len(finite):
        return None
    at = finite[(np.argmax if higher else np.argmin)(values[finite])]
    return float(values[at]), int(series.steps[at])


def labels(keys: Sequence[Any]) -> Mapping[Any, str]:
    """Return a short unique name for each key."""
    short: dict[Any, str] = {}
    taken: set[str] = set()
    for key in keys:
        name = label(key)
        short[key] = name if name not in taken else plain(str(key))
        taken.add(short[key])
    return short


def counted(n: int, word: str) -> str:
    """Return a number with a noun."""
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def shown(value: float | None) -> str:
    """Return a number in few characters."""
    return NOTHING if value is None else f"{value:.4g}"

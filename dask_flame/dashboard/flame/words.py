"""Names of calls, and the direction of metrics, as the page shows them; pure (scheduler)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from dask.typing import Key

from dask_flame.charts.ranking import higher_is_better, labels
from dask_flame.core.text import label
from dask_flame.reports.series import CallReports, Direction


def direction(metric: str, calls: Collection[CallReports]) -> Direction:
    """Return whether small or large values of a metric are better: as declared, else guessed."""
    for call in calls:
        if metric in call.better:
            return call.better[metric]
    return "max" if higher_is_better(metric) else "min"


def names(calls: Collection[CallReports]) -> dict[Key, str]:
    """Return a name for each call: its key, or its arguments if Dask generated the key."""
    known = {call.key: call for call in calls}
    named = dict(labels(list(known)))
    made_up = {key: known[key].arguments for key in known if label(key) != str(key)}
    made_up = dict(zip(made_up, apart(list(made_up.values())), strict=True))
    seen = Counter(made_up.values())
    for key, arguments in made_up.items():
        if arguments:
            named[key] = arguments if seen[arguments] == 1 else f"{arguments} ({named[key]})"
    return named


def apart(arguments: Sequence[str]) -> list[str]:
    """Drop the arguments that are the same in all calls.

    Examples
    --------
    >>> apart(["rate=0.1, layers=4", "rate=0.2, layers=4"])
    ['rate=0.1', 'rate=0.2']
    """
    parts = [text.split(", ") for text in arguments]
    names = {tuple(part.partition("=")[0] for part in own) for own in parts}
    if len(set(arguments)) < 2 or len(names) != 1:
        return list(arguments)
    differ = [len(set(column)) > 1 for column in zip(*parts, strict=True)]
    return [", ".join(p for p, own in zip(part, differ, strict=True) if own) for part in parts]

"""Format tables for the command line; pure (command line)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

from dask_flame.backends.inspector import ClusterListing, Orphan
from dask_flame.core.terminal_text import plain

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return aligned columns, without control characters that a terminal would interpret.

    Examples
    --------
    >>> print(table(["NAME", "AGE"], [["one", "2h5m"], ["three", "7s"]]))
    NAME   AGE
    one    2h5m
    three  7s
    """
    lines = [header, *([plain(word) for word in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def age(seconds: float | None) -> str:
    """Return a duration in its two largest units.

    Examples
    --------
    >>> age(7504), age(59.6), age(172_800), age(None)
    ('2h5m', '59s', '2d', '?')
    """
    if seconds is None:
        return "?"
    left = max(0, int(seconds))
    parts = []
    for unit, length in _UNITS:
        number, left = divmod(left, length)
        parts.append((number, unit))
    first = next((i for i, (number, _) in enumerate(parts) if number), len(parts) - 1)
    shown = [f"{number}{unit}" for number, unit in parts[first : first + 2] if number]
    return "".join(shown) or "0s"


def of_clusters(clusters: Sequence[ClusterListing], now: float | None = None) -> str:
    """Return a table with a line for each cluster."""
    now = time.time() if now is None else now
    gpus = any(runner.gpus for cluster in clusters for runner in cluster.runners)
    rows = []
    for cluster in clusters:
        states = Counter(runner.state for runner in cluster.runners)
        counts = ", ".join(f"{number} {state}" for state, number in states.items())
        row = [cluster.id, cluster.state, _since(cluster.started, now), counts or "none"]
        row += [f"{sum(runner.gpus for runner in cluster.runners):g}"] if gpus else []
        rows.append([*row, cluster.driver or "?"])
    header = ["CLUSTER", "STATE", "AGE", "RUNNERS", *(["GPUS"] if gpus else []), "DRIVER"]
    return table(header, rows)


def of_runners(clusters: Sequence[ClusterListing], now: float | None = None) -> str:
    """Return a table with a line for each runner."""
    now = time.time() if now is None else now
    gpus = any(runner.gpus for cluster in clusters for runner in cluster.runners)
    rows = [
        [cluster.id, r.name, r.pool, r.state, _since(r.started, now)]
        + ([f"{r.gpus:g}"] if gpus else [])
        + [r.where or "-"]
        for cluster in clusters
        for r in cluster.runners
    ]
    more = ["GPUS"] if gpus else []
    return table(["CLUSTER", "RUNNER", "POOL", "STATE", "AGE", *more, "WHERE"], rows)


def of_orphans(orphans: Sequence[Orphan]) -> str:
    """Return a table with a line for each orphan."""
    rows = [[orphan.what, orphan.cluster or "?", orphan.why] for orphan in orphans]
    return table(["WHAT", "CLUSTER", "WHY"], rows)


def _since(started: float | None, now: float) -> str:
    return age(None if started is None else now - started)

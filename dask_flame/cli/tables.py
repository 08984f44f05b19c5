"""Format tables for the command line; pure (command line)."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes

from dask_flame.backends.inspector import ClusterListing, Orphan
from dask_flame.core.terminal_text import plain
from dask_flame.errors import FlameError
from dask_flame.reports.names import differing, names
from dask_flame.reports.names import shown as shown_parameter

if TYPE_CHECKING:
    from dask_flame.reports.driver.kept import RunReports

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
    kinds = any(runner.kind for cluster in clusters for runner in cluster.runners)
    rows = [
        [cluster.id, r.name, r.pool, r.state, _since(r.started, now)]
        + ([f"{r.gpus:g}"] if gpus else [])
        + ([r.kind or "-"] if kinds else [])
        + [r.where or "-"]
        for cluster in clusters
        for r in cluster.runners
    ]
    more = [*(["GPUS"] if gpus else []), *(["KIND"] if kinds else [])]
    return table(["CLUSTER", "RUNNER", "POOL", "STATE", "AGE", *more, "WHERE"], rows)


def of_orphans(orphans: Sequence[Orphan]) -> str:
    """Return a table with a line for each orphan."""
    rows = [[orphan.what, orphan.cluster or "?", orphan.why] for orphan in orphans]
    return table(["WHAT", "CLUSTER", "WHY"], rows)


def _since(started: float | None, now: float) -> str:
    return age(None if started is None else now - started)


@dataclass(frozen=True, slots=True)
class Listing:
    """The same things as a table, and as values for JSON."""

    text: str
    items: list[dict[str, Any]]


_STATES = ("waiting", "running", "done", "failed", "stopped", "cancelled")


def of_runs(runs: Sequence[RunReports], now: float | None = None) -> Listing:
    """Return the runs, with the number of their calls in each state."""
    now = time.time() if now is None else now
    rows, items = [], []
    for run in runs:
        about = {"id": run.id, "name": run.name, "begun": run.begun, "total": run.run.total}
        about["size"] = run.size
        try:
            told = run.progress(now)
        except FlameError as error:
            items.append({**about, "error": str(error)})
            counts = "cannot be read"
        else:
            states = {state: number for state in _STATES if (number := getattr(told, state))}
            items.append({**about, "total": told.total, **states})
            counts = ", ".join(f"{number} {state}" for state, number in states.items())
        size = format_bytes(run.size or 0)
        told_row = [run.name, age(now - run.begun), str(items[-1]["total"]), size, counts or "-"]
        rows.append([*told_row, run.id[:8]])
    head = ["RUN", "AGE", "CALLS", "SIZE", "STATES", "ID"]
    text = table(head, rows) if rows else "no runs"
    return Listing(text, items)


def _in_json(value: Any) -> Any:
    # Neither NaN nor infinity is JSON.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def of_calls(run: RunReports) -> Listing:
    """Return the calls of a run, with their parameters and the last values of their metrics."""
    calls = list(run.calls.values())
    named, parameters = names(calls), differing(calls)
    metrics = list(dict.fromkeys(name for call in calls for name in call.series))
    rows, items = [], []
    for call in calls:
        last = {name: s.values[-1] for name, s in call.series.items() if len(s)}
        took = None if call.finished is None else call.finished - call.started
        items.append(
            {
                "name": named[call.key],
                "key": str(call.key),
                "function": call.function,
                "label": call.label,
                "state": call.state,
                "why": call.why,
                "attempt": call.attempt,
                "took": took,
                "parameters": {name: _in_json(v) for name, v in call.parameters.items()},
                "last": {name: _in_json(v) for name, v in last.items()},
            }
        )
        given = [shown_parameter(call.parameters.get(name)) for name in parameters]
        values = [f"{last[name]:.6g}" if name in last else "-" for name in metrics]
        rows.append([named[call.key], call.state, age(took), *given, *values])
    head = ["CALL", "STATE", "TOOK", *map(plain, parameters), *map(plain, metrics)]
    return Listing(table(head, rows) if rows else "no calls", items)

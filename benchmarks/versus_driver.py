"""The driver of a run: one measure, for one contender.

    python versus_driver.py MEASURE CONTENDER OPTIONS

Writes its results to standard output as lines of JSON. If a measure has blocks, each line of
standard input requests another block. The parent process ends everything that was started.
"""

from __future__ import annotations

import heapq
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from versus_calls import nap, nothing  # beside this file


class Side(Protocol):
    """A contender; its libraries are imported when it is created."""

    def start(self, runners: int, *, elastic: bool) -> None:
        """Start so many runners, or with `elastic` a pool of up to so many."""

    def one(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return the result of one call."""

    def all(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Return the results of many calls, submitted in the quickest way available."""

    def joined(self) -> list[float]:
        """Return when each runner could take calls, on the monotonic clock; empty if unknown."""


def side(contender: str) -> Side:
    module, name = {
        "flame": ("versus_dask", "Flame"),
        "stock": ("versus_dask", "Stock"),
        "ray": ("versus_rivals", "Ray"),
        "loky": ("versus_rivals", "Loky"),
        "parsl": ("versus_rivals", "Parsl"),
    }[contender]
    made: Side = getattr(importlib.import_module(module), name)()
    return made


def cold(who: Side, *, runners: int, started: float) -> dict[str, float]:
    """Measure the time from nothing to the first result."""
    begin = time.monotonic()
    who.start(runners, elastic=True)
    who.one(nothing)
    now = time.monotonic()
    return {"constructor": now - begin, "process": now - started}


def wave(who: Side, *, runners: int, seconds: float, started: float) -> dict[str, Any]:
    """Measure as many calls as runners allowed, from zero runners."""
    begin = time.monotonic()
    who.start(runners, elastic=True)
    calls = who.all(nap, [seconds] * runners)
    makespan = time.monotonic() - begin
    first: dict[int, float] = {}
    for pid, at, _ in calls:
        first[pid] = min(at, first.get(pid, at))
    up = sorted(at - begin for at in who.joined() or first.values())
    lost = scheduled(up, runners, seconds) - seconds
    return {
        "makespan": makespan,
        "over": makespan / seconds,
        "without_boots": (makespan - lost) / seconds,
        "up": up,
        "used": len(first),
    }


def scheduled(up: Sequence[float], calls: int, seconds: float) -> float:
    """Return when equal calls end, at best, on runners that were up at these times."""
    free = list(up)
    heapq.heapify(free)
    last = 0.0
    for _ in range(calls):
        last = free[0] + seconds
        heapq.heapreplace(free, last)
    return last


def warm(who: Side, *, calls: int) -> dict[str, float]:
    """Measure one call after the other."""
    took = []
    for _ in range(calls):
        begin = time.perf_counter()
        who.one(nothing)
        took.append((time.perf_counter() - begin) * 1000)
    return {"median": statistics.median(took), "p95": statistics.quantiles(took, n=20)[-1]}


def many(who: Side, *, calls: int) -> dict[str, float]:
    """Measure many calls at once that do nothing."""
    begin = time.perf_counter()
    who.all(nothing, range(calls))
    return {"seconds": time.perf_counter() - begin}


def blocks(
    block: Callable[..., dict[str, float]], who: Side, *, runners: int, calls: int, **_: Any
) -> Iterator[dict[str, float]]:
    """Run blocks, after one that does not count."""
    who.start(runners, elastic=False)
    block(who, calls=min(calls, 1_000))
    yield {}
    while True:
        yield block(who, calls=calls)


def drive(measure: str, contender: str, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the results of a measure; several, if it has blocks."""
    if measure in ("warm", "map10k"):
        yield from blocks(warm if measure == "warm" else many, side(contender), **options)
    elif measure == "cold":
        yield cold(side(contender), **options)
    elif measure.startswith("wave"):
        yield wave(side(contender), **options)
    else:
        import versus_dask

        yield getattr(versus_dask, measure)(contender, **options)


def main() -> None:
    measure, contender, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    try:
        for found in drive(measure, contender, options):
            print(json.dumps({"versus": found}), flush=True)
            if not sys.stdin.readline():
                break
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        print(json.dumps({"versus": {"error": why}}), flush=True)
    sys.stdin.readline()
    os._exit(0)


if __name__ == "__main__":
    main()

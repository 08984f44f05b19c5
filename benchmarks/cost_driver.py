"""The driver of a run: serve a trace on a given cluster.

    python cost_driver.py

Reads the trace from standard input, and writes the results to standard output, as lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import dask
from cost_traces import Trace  # beside this file
from distributed import (
    Client,
    LocalCluster,
    Scheduler,
    SchedulerPlugin,
    Worker,
    WorkerPlugin,
    wait,
)

_TOPIC = "cost"


def work(seconds: float) -> tuple[int, float, float]:
    """Sleep; return the process and the times."""
    begin = time.monotonic()
    time.sleep(seconds)
    return os.getpid(), begin, time.monotonic()


class Joined(WorkerPlugin):
    """Report when a worker has registered."""

    name = "cost-joined"

    def setup(self, worker: Worker) -> None:
        said = {"address": worker.address, "pid": os.getpid(), "joined": time.monotonic()}
        worker.log_event(_TOPIC, said)


class Left(SchedulerPlugin):
    """Report when the scheduler has removed a worker."""

    name = "cost-left"

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        scheduler.log_event(_TOPIC, {"address": worker, "left": time.monotonic()})


@contextlib.contextmanager
def _cluster(who: str, trace: Trace) -> Iterator[Any]:
    if who in ("flame", "auto"):
        from dask_flame import FlameCluster  # stock workers import this module, too

        idle = "auto" if who == "auto" else trace.idle
        with FlameCluster(
            max=trace.max, concurrency=1, idle_timeout=idle, dashboard_address=None
        ) as cluster:
            yield cluster
        return
    saturation = {"distributed.scheduler.worker-saturation": 1.0} if who == "tuned" else {}
    interval = 0.2
    tuning = {
        "interval": interval,
        "target_duration": "1s",
        # Removes a worker after so many decisions, the first at once: not before `idle`.
        "wait_count": math.ceil(trace.idle / interval) + 1,
    }
    with (
        dask.config.set(saturation),
        LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        cluster.adapt(minimum=0, maximum=trace.max, **(tuning if who == "tuned" else {}))
        yield cluster


def _serve(client: Client, trace: Trace) -> dict[str, Any]:
    futures: list[Any] = []
    submitted: list[float] = []
    parts: list[tuple[float, float]] = []
    for part in trace.parts:
        time.sleep(part.pause)
        begin = time.monotonic()
        if not parts:
            print(json.dumps({"start": begin}), flush=True)
        mine: list[Any] = []
        for at in sorted({at for at, _ in part.calls}):
            time.sleep(max(0.0, begin + at - time.monotonic()))
            these = [seconds for when, seconds in part.calls if when == at]
            submitted += [time.monotonic()] * len(these)
            mine += client.map(work, these, pure=False)
        wait(mine)
        parts.append((begin, time.monotonic()))
        futures += mine
    return {"parts": parts, "submitted": submitted, "calls": client.gather(futures)}


def drive() -> None:
    """Serve the trace from standard input; close when asked to, or at the end of the input."""
    order = json.loads(sys.stdin.readline())
    trace = Trace.from_dict(order["trace"])
    with _cluster(order["who"], trace) as cluster, Client(cluster) as client:
        client.register_plugin(Joined())
        client.register_plugin(Left())
        done = _serve(client, trace)
        # The results are released.
        print(json.dumps(done), flush=True)
        sys.stdin.readline()
        events = [event for _, event in client.get_events(_TOPIC)]
    print(json.dumps({"events": events}), flush=True)


if __name__ == "__main__":
    drive()

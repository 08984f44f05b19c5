"""Measure the CPU time of what the scheduler does for a call, without any runner.

    python benchmarks/steps.py [--rounds 7] [--calls 1500]

Two runners are simulated, as in ``benchmarks/scale.py``. The figures are the least of the rounds,
in microseconds of CPU time for each call: to place it and to handle its end, which includes to
pickle it; and to write the message with it, and to read that. To compare two versions, run it in
turns with ``PYTHONPATH`` set to the one and to the other.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import time
from itertools import pairwise
from typing import Any

from dask._task_spec import Task
from distributed.protocol import dumps, loads
from scale import add_runner, end  # beside this file
from versus_calls import nothing

from dask_flame import Pool, Reports
from dask_flame.driver.scheduler_news import SchedulerNews
from dask_flame.scheduler.scheduler import FlameScheduler

_RUNNERS = 2


class _Kept:
    """Keep the messages to a runner."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def send(self, *messages: Any) -> None:
        self.messages.extend(messages)

    def closed(self) -> bool:
        return True


def _submit(scheduler: FlameScheduler, keys: list[str]) -> None:
    for key in keys:
        ts = scheduler.new_task(key, Task(key, nothing, 1), "released")
        ts.priority = (0, 1, len(scheduler.tasks))
        ts.who_wants = set()


def _place_and_end(scheduler: FlameScheduler, keys: list[str]) -> None:
    scheduler.transitions(dict.fromkeys(keys, "waiting"), "submit")
    while running := [ts for ws in scheduler.workers.values() for ts in ws.processing]:
        for ts in running:
            end(scheduler, ts, flame_inline=b"N.")


async def measure(rounds: int, calls: int) -> list[float]:
    """Return the least CPU time, in seconds for each call: of its steps, to write, to read."""
    scheduler = FlameScheduler(
        pools={"default": Pool(max=_RUNNERS)},
        host="127.0.0.1",
        port=0,
        dashboard=False,
        dashboard_address="127.0.0.1:0",
        plugins=[Reports()],
    )
    async with scheduler:
        for number in range(_RUNNERS):
            add_runner(scheduler, f"runner-{number + 1}", number)
        kept: dict[str, Any] = {address: _Kept() for address in scheduler.workers}
        scheduler.stream_comms.update(kept)
        scheduler.report_to(SchedulerNews(on_change=lambda: None))
        found = []
        for turn in range(rounds):
            keys = [f"call-{turn}-{n}" for n in range(calls)]
            _submit(scheduler, keys)
            gc.collect()
            times = [time.thread_time()]
            _place_and_end(scheduler, keys)
            times.append(time.thread_time())
            sent = [m for one in kept.values() for m in one.messages if m["op"] == "compute-task"]
            assert len(sent) == calls
            written = [dumps([message]) for message in sent]
            times.append(time.thread_time())
            for frames in written:
                loads(frames)
            times.append(time.thread_time())
            found.append([b - a for a, b in pairwise(times)])
            for one in kept.values():
                one.messages.clear()
    return [min(column) / calls for column in zip(*found, strict=True)]


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=1_500)
    args = parser.parse_args()
    logging.getLogger("distributed").setLevel(logging.ERROR)
    figures = asyncio.run(measure(args.rounds, args.calls))
    for name, seconds in zip(("steps", "write", "read"), figures, strict=True):
        print(f"{name}: {seconds * 1e6:.1f} us")


if __name__ == "__main__":
    main()

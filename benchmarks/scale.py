"""Measure decisions and placement with thousands of runners and a million waiting calls.

Runners are simulated: they are workers in the state of a real scheduler, without a process. The
timed code is real: :meth:`Fleet.decide`, and the plugins on a real :class:`FlameScheduler` while
calls are submitted, placed, ended and waited for. Each figure is for one change (a call submitted,
a call ended and the next one placed, a decision) with so many runners and waiting calls: if the
work is proportional to the change, the rows agree.

    python benchmarks/scale.py            # 1,000 and 10,000 runners, up to 1,000,000 calls
    python benchmarks/scale.py --quick    # the same with a tenth of each
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import dask
from dask._task_spec import Task
from distributed import Status
from distributed.scheduler import TaskState, WorkerState

from dask_flame import Pool
from dask_flame.core.messages import RUNNER
from dask_flame.driver.scheduler_news import SchedulerNews
from dask_flame.history.timeline import RunnerTimeline
from dask_flame.scaling.fleet import Fleet
from dask_flame.scheduler.scheduler import FlameScheduler

_TIMES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    part = 10 if parser.parse_args().quick else 1
    sizes = [1_000 // part, 10_000 // part]
    logging.getLogger("distributed").setLevel(logging.ERROR)
    print("| the fleet's decision, milliseconds | median | 99th of 100 |\n|---|---|---|")
    for runners in sizes:
        for label, times in decisions(runners).items():
            print(f"| {label}, {runners:,} runners | {_ms(times)} |")
    print(
        "\n| the scheduler, microseconds a call | submitted | ended, next placed | with decision |"
    )
    print("|---|---|---|---|")
    for runners in sizes:
        for calls in (10_000 // part, 1_000_000 // part):
            row = asyncio.run(placement(runners, calls))
            cells = " | ".join(f"{statistics.median(times) * 1e6:.0f}" for times in row)
            print(f"| {runners:,} runners, {calls:,} calls waiting | {cells} |", flush=True)
            gc.collect()


def _ms(times: list[float]) -> str:
    last = sorted(times)[min(len(times) - 1, round(0.99 * len(times)))]
    return f"{statistics.median(times) * 1e3:.3f} | {last * 1e3:.3f}"


def timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def note(lives: RunnerTimeline, fleet: Fleet, at: float) -> None:
    """Take note of runners that have got busy or idle, as the control loop does."""
    for seen in lives.news(fleet.index, at, lambda name: ["call"]):
        lives.apply(seen)


def decisions(runners: int) -> dict[str, list[float]]:
    """Return the seconds of single decisions of a fleet with so many runners."""
    fleet = Fleet(Pool(max=runners, idle_timeout=60))
    found = {"a wave from zero": [timed(lambda: fleet.decide(0, runners))]}
    names = list(fleet.members)
    for name in names:
        fleet.registered(name, 1)
        fleet.load(name, 1, 1)
    steady, ended, noted = [], [], []
    lives = RunnerTimeline()
    lives.asked(names, "default", 0, "")
    note(lives, fleet, 1)
    for i in range(_TIMES):
        steady.append(timed(lambda: fleet.decide(2, runners)))
        name = names[i % runners]
        fleet.load(name, 0, 2)
        ended.append(timed(lambda: fleet.decide(2, runners - 1)))
        noted.append(timed(lambda at=2.0 + i: note(lives, fleet, at)))  # type: ignore[misc]
        fleet.load(name, 1, 2)
    found |= {"nothing has changed": steady, "a call has ended": ended, "noting that": noted}
    for i, name in enumerate(names):
        fleet.load(name, 0, 3 + i * 1e-3)
    one_by_one = []
    for i in range(min(_TIMES, runners // 2)):
        now = 63 + i * 1e-3
        one_by_one.append(timed(lambda now=now: fleet.decide(now, 0)))  # type: ignore[misc]
    found["one runner has been idle for long enough"] = one_by_one
    found["all the others have"] = [timed(lambda: fleet.decide(1e6, 0))]
    return found


async def placement(runners: int, calls: int) -> tuple[list[float], list[float], list[float]]:
    """Return seconds per call: to submit it; to end one and place the next; with a decision."""
    pool = Pool(max=runners)
    with dask.config.set({"distributed.scheduler.validate": False}):
        scheduler = FlameScheduler(
            pools={"default": pool}, host="127.0.0.1", port=0, dashboard=False
        )
    async with scheduler:
        fleet = Fleet(pool)
        boots = fleet.decide(0, runners).boot
        assert boots is not None
        now = 1.0
        for i, name in enumerate(boots.names):
            add_runner(scheduler, name, i)
            fleet.registered(name, now)
        submitted: list[float] = []
        total = calls + runners
        batch = max(1, total // 100)
        made: list[TaskState] = []
        for first in range(0, total, batch):
            keys = [f"call-{i}" for i in range(first, min(first + batch, total))]
            spent = timed(lambda keys=keys: made.extend(submit(scheduler, keys)))  # type: ignore[misc]
            submitted.append(spent / len(keys))
        assert scheduler.waiting() == calls
        assert scheduler.demand() == total
        ended, decided = [], []
        news = SchedulerNews(on_change=lambda: None)
        scheduler.report_to(news)
        for ts in [ts for ts in made if ts.processing_on is not None][:_TIMES]:
            news.take()
            ended.append(timed(lambda ts=ts: end(scheduler, ts)))  # type: ignore[misc]
            decided.append(ended[-1] + timed(lambda: decide(scheduler, news, fleet, now)))
        return submitted, ended, decided


def add_runner(scheduler: FlameScheduler, name: str, number: int) -> None:
    """Add a runner to the scheduler's state as a registration would, without a connection."""
    address = f"tcp://127.0.0.1:{100_000 + number}"
    ws = WorkerState(
        address=address,
        status=Status.running,
        pid=number,
        name=name,
        nthreads=1,
        memory_limit=0,
        local_directory="",
        nanny="",
        server_id=name,
        services={},
        versions={},
        extra={RUNNER: "default"},
        scheduler=scheduler,
    )
    ws.metrics = {"memory": 0, "spilled_bytes": {"memory": 0, "disk": 0}}
    scheduler.workers[address] = ws
    scheduler.aliases[name] = address
    scheduler.running.add(ws)
    scheduler.total_nthreads += 1
    scheduler.stream_comms[address] = _Nowhere()
    scheduler.slots.add_worker(scheduler, address)


class _Nowhere:
    """Discard all messages to a runner."""

    def send(self, *messages: Any) -> None:
        pass

    def closed(self) -> bool:
        return True


def submit(scheduler: FlameScheduler, keys: list[str]) -> list[TaskState]:
    made = []
    for key in keys:
        ts = scheduler.new_task(key, Task(key, _nothing), "released")
        ts.priority = (0, 1, len(scheduler.tasks))
        ts.who_wants = set()
        made.append(ts)
    scheduler.transitions(dict.fromkeys(keys, "waiting"), "submit")
    return made


def end(scheduler: FlameScheduler, ts: TaskState, **more: Any) -> None:
    """Perform the scheduler's work when a runner reports the end of a call, with more of it."""
    assert ts.processing_on is not None
    scheduler.handle_task_finished(
        key=ts.key,
        worker=ts.processing_on.address,
        stimulus_id="end",
        nbytes=8,
        type=b"\x80\x04N.",
        typename="NoneType",
        run_id=ts.run_id,
        startstops=(),
        metadata={},
        **more,
    )


def decide(scheduler: FlameScheduler, news: SchedulerNews, fleet: Fleet, now: float) -> None:
    for name in news.take().changed:
        load = scheduler.load(name)
        fleet.load(name, load.busy, now, held=load.held, overran=load.overran)
    fleet.decide(now, scheduler.demand())


def _nothing() -> None:
    pass


if __name__ == "__main__":
    main()

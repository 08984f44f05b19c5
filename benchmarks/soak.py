"""Check that the driver's memory stays flat under short calls, boots, ends and random kills.

    python benchmarks/soak.py [--minutes 30] [--every 1] [--max 6] [--seed 0] [--kill 5]
                              [--most 1] [--json FILE] [--traces] [--counts] [--dashboard]

Waves of short calls with reports, prints, failures, cancellations and results of a few hundred
kilobytes run on a pool that shrinks to zero between some of them. About every ``--kill`` seconds a
runner is killed by SIGKILL. Each result is compared with the expected one. Once a minute a line
shows the memory of the driver (which holds the scheduler) and the work done so far. The memory is
measured after a garbage collection, by the kernel's count.

At the end, the growth of the memory per minute in the second half is estimated by a straight line
through the samples. Bounded structures fill up in the first minutes, so a short run shows more
growth than a long one. The exit code is 1 if a result was wrong, or if the memory grew by more than
``--most`` megabytes a minute.

``--traces`` prints the lines of code where the memory of Python's objects grows, and ``--counts``
the types with ever more objects; both at half of the time and at the end. Traces cost half of the
speed and a third of the memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import signal
import statistics
import sys
import time
import tracemalloc
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from distributed import Client, Future, wait

import dask_flame
from dask_flame.testing import nothing_left

#: Seconds after which a wave of calls counts as stuck.
_STUCK = 120.0
_SHOWN = 25


@dataclass(frozen=True)
class Sample:
    """The state of the driver after so many minutes."""

    minutes: float
    megabytes: float
    calls: int
    wrong: int
    kills: int
    boots: int


def work(n: int, size: int) -> tuple[int, bytes]:
    """Run a typical short call: report, print, and return a value."""
    for step in range(3):
        dask_flame.report(step=step, loss=n / (1 + step), n=n)
    if n % 10 == 0:
        print("call", n)
    time.sleep(0.01 * (n % 5))
    return n * n, bytes(size)


def fails(n: int) -> None:
    """Report, and fail."""
    dask_flame.report(loss=float(n))
    raise ValueError(f"as it should: {n}")


class Soak:
    """Run waves of calls until a time is over, and count their outcomes."""

    def __init__(self, client: Client, cluster: Any, seed: int, every: float) -> None:
        self._client, self._cluster = client, cluster
        self._random = random.Random(seed)
        self._every = every
        self._kill_at = time.monotonic() + every
        self.calls = self.wrong = self.kills = 0

    def wave(self) -> None:
        """Run one wave: submit, perhaps kill a runner, compare."""
        first = self.calls
        size = self._random.choice([0, 1_000, 300_000])
        numbers = range(first, first + self._random.randint(1, 40))
        futures = self._client.map(work, numbers, size=size, pure=False, retries=3)
        bad = self._client.submit(fails, first, pure=False)
        unwanted = self._client.map(time.sleep, [0.5] * 3, pure=False)
        del unwanted
        self.calls += len(futures) + 4
        self._perhaps_kill()
        self._compare(futures, bad, numbers)
        if self._random.random() < 0.15:
            self._until_empty()

    def _compare(self, futures: list[Future], bad: Future, numbers: range) -> None:
        wait([*futures, bad], timeout=_STUCK)
        for n, future in zip(numbers, futures, strict=True):
            if future.status != "finished" or future.result()[0] != n * n:
                print(f"wrong: {future} {future.exception()}", file=sys.stderr)
                self.wrong += 1
        if bad.status != "error":
            self.wrong += 1

    def _perhaps_kill(self) -> None:
        if time.monotonic() < self._kill_at:
            return
        pids = [ws.pid for ws in list(self._cluster.scheduler.workers.values())]
        pids = [pid for pid in pids if pid != os.getpid()]  # the home is a worker here
        if pids:
            self._kill_at = time.monotonic() + self._random.uniform(0.2, 1.8) * self._every
            self.kills += 1
            os.kill(self._random.choice(pids), signal.SIGKILL)

    def _until_empty(self) -> None:
        deadline = time.monotonic() + _STUCK
        while len(self._cluster.fleets.members) and time.monotonic() < deadline:
            time.sleep(0.05)

    def sample(self, minutes: float) -> Sample:
        """Return the present state."""
        boots = sum(ledger.boots for ledger in self._cluster._history.usage.values())
        gc.collect()
        return Sample(round(minutes, 2), resident(), self.calls, self.wrong, self.kills, boots)


def resident() -> float:
    """Return the private memory of this process in megabytes, by the kernel's count."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
        sizes = {line.split()[0]: line.split()[1] for line in list(lines)[1:]}
    return sum(int(sizes[f"Private_{kind}:"]) for kind in ("Clean", "Dirty")) / 1024


def slope(samples: list[Sample]) -> float:
    """Return the growth in megabytes per minute in the second half."""
    half = [s for s in samples if s.minutes >= samples[-1].minutes / 2]
    if len(half) < 2:
        return 0.0
    line = statistics.linear_regression([s.minutes for s in half], [s.megabytes for s in half])
    return float(line.slope)


class Looks:
    """Show growth between two moments: lines of code that allocate, and types."""

    def __init__(self, traces: bool, counts: bool) -> None:
        self._traces, self._counts = traces, counts
        self._snapshot: Any = None
        self._types: Counter[str] = Counter()
        if traces:
            tracemalloc.start(8)

    def look(self) -> None:
        """Print the growth since the last call, if there was one."""
        gc.collect()
        if self._traces:
            now = tracemalloc.take_snapshot().filter_traces(
                [tracemalloc.Filter(False, tracemalloc.__file__)]
            )
            if self._snapshot is not None:
                for difference in now.compare_to(self._snapshot, "lineno")[:_SHOWN]:
                    print(f"  {difference}")
            self._snapshot = now
        if self._counts:
            types = Counter(f"{type(o).__module__}.{type(o).__name__}" for o in gc.get_objects())
            if self._types:
                grown = types - self._types
                for name, number in grown.most_common(_SHOWN):
                    print(f"  {number:+8} {name} ({types[name]})")
            self._types = types


def soak(args: argparse.Namespace) -> tuple[list[Sample], int]:
    """Run the benchmark; return the samples, and the number of wrong results."""
    looks = Looks(args.traces, args.counts)
    address = "127.0.0.1:0" if args.dashboard else None
    with (
        dask_flame.FlameCluster(
            max=args.max, concurrency=2, idle_timeout="1s", dashboard_address=address
        ) as cluster,
        Client(cluster) as client,
    ):
        run = Soak(client, cluster, args.seed, args.kill)
        begun = time.monotonic()
        samples: list[Sample] = []
        looked = False
        while (minutes := (time.monotonic() - begun) / 60) < args.minutes:
            if minutes >= len(samples) * args.every:
                samples.append(run.sample(minutes))
                print(line(samples[-1]), flush=True)
            if not looked and minutes >= args.minutes / 2:
                looked = True
                looks.look()
            run.wave()
        samples.append(run.sample(minutes))
        print(line(samples[-1]), flush=True)
        looks.look()
        return samples, run.wrong


def line(sample: Sample) -> str:
    return (
        f"{sample.minutes:6.1f} min {sample.megabytes:8.1f} MB {sample.calls:7} calls "
        f"{sample.wrong} wrong {sample.kills:5} kills {sample.boots:6} boots"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Is the driver's memory flat?")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=1.0, help="minutes between two lines")
    parser.add_argument("--max", type=int, default=6, help="runners")
    parser.add_argument("--kill", type=float, default=5.0, help="seconds between kills, about")
    parser.add_argument("--most", type=float, default=1.0, help="megabytes a minute")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="a file for the figures")
    parser.add_argument("--traces", action="store_true", help="lines of code whose memory grows")
    parser.add_argument("--counts", action="store_true", help="types of which there are more")
    parser.add_argument("--dashboard", action="store_true", help="serve the dashboard as well")
    args = parser.parse_args()
    left = ""
    try:
        with nothing_left(within=30):
            samples, wrong = soak(args)
    except AssertionError as error:
        # Other users of this machine may have clusters too.
        left = str(error)
        print(left, file=sys.stderr)
    grows = slope(samples)
    print(f"{grows:+.2f} MB a minute in the second half; {wrong} wrong; left: {bool(left)}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"slope": grows, "samples": [asdict(s) for s in samples]}, file, indent=1)
    return 1 if wrong or grows > args.most else 0


if __name__ == "__main__":
    sys.exit(main())

"""Measure the delay of a report from its call to the loop over ``stream()`` in the driver.

    python benchmarks/stream.py [--runners 64] [--rate 100] [--seconds 30] [--cluster flame]

One call on each runner reports at a fixed rate; the driver records when it gets each report. The
output has the 50th, 99th and 99.9th percentile and the maximum of the delay, the number of reports
made, delivered and thinned out, and the share of a core used by the driver, with the scheduler.
The promise is a 99th percentile of 250 ms at 64 runners with 100 reports a second.

``--cluster dask`` uses Dask's own LocalCluster, whose driver keeps a copy of the reports.
``--reader 0.01`` makes the loop take 10 ms for each report, which is too slow: the number of
omitted reports is then shown, and the scheduler must use no more CPU for that.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

from distributed import Client, LocalCluster

import dask_flame


def call(n: int, rate: float, start: float) -> int:
    """Report at a fixed rate from a moment on; return the number of reports."""
    time.sleep(max(0.0, start - time.time()))
    begun = time.perf_counter()
    for step in range(n):
        wait = begun + step / rate - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        dask_flame.report(step=step, loss=1 / (1 + step), accuracy=0.5)
    return n


@contextlib.contextmanager
def client_of(kind: str, runners: int) -> Iterator[Client]:
    """Yield the client of a cluster with so many runners, all of them registered."""
    if kind == "dask":
        cluster: Any = LocalCluster(
            n_workers=runners, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        )
    else:
        cluster = dask_flame.FlameCluster(min=runners, max=runners, dashboard_address=None)
    with cluster, Client(cluster) as client:
        client.wait_for_workers(runners, timeout=300)
        if kind == "dask":
            client.register_plugin(dask_flame.Reports())
        yield client


def measure(kind: str, runners: int, rate: float, seconds: float, reader: float) -> None:
    """Run the benchmark, and print the results."""
    with client_of(kind, runners) as client:
        client.gather([client.submit(call, 1, 1.0, 0.0, pure=False) for _ in range(runners)])
        n = int(rate * seconds)
        futures = [
            client.submit(call, n, rate, time.time() + 2, key=f"call-{i}") for i in range(runners)
        ]
        delays, thinned = [], 0
        clock, cpu = time.perf_counter(), time.process_time()
        for r in dask_flame.stream(futures):
            delays.append(time.time() - r.time)
            thinned += r.thinned
            if reader:
                time.sleep(reader)
        clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
        made = sum(client.gather(futures))
    cuts = statistics.quantiles(delays, n=1000)
    print(f"{kind}: {runners} runners, {rate:g} reports a second each, for {seconds:g} s")
    for name, value in (("50", cuts[499]), ("99", cuts[989]), ("99.9", cuts[998])):
        print(f"  {name}th percentile of the delay: {value * 1000:.0f} ms")
    print(f"  longest: {max(delays) * 1000:.0f} ms")
    print(f"  {made} made, {len(delays)} given, {thinned} thinned")
    print(f"  the driver used {cpu / clock:.2f} of a core over {clock:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runners", type=int, default=64)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--reader", type=float, default=0.0, help="seconds for each report")
    parser.add_argument("--cluster", choices=("flame", "dask"), default="flame")
    args = parser.parse_args()
    measure(args.cluster, args.runners, args.rate, args.seconds, args.reader)


if __name__ == "__main__":
    main()

"""Compare the time of large results and arguments on a FlameCluster and on Dask's LocalCluster.

    python benchmarks/bigdata.py [--sizes 1MB 10MB 100MB 600MB 2.3GB] [--rounds 3] [--repeats 3]

In each round each contender is measured in a separate process, in alternating order; both have the
same number of workers, with one thread each. A call is timed from its submission until its result
is in the driver, after one call that is not counted. The table shows the median and best seconds of
each contender, their CPU seconds (driver, workers and other processes), the peak of the driver's
memory, and the ratio of the medians, dask-flame's over Dask's.

result, bytes, dict of arrays, DataFrame
    A result of this size, created by a call and fetched with ``result()``.
gather
    A hundred results, each a hundredth of the size, with ``client.gather``.
argument, scatter
    An argument of this size, given to ``client.submit``, or scattered and used by a call.
runner to runner
    Created by a call on one worker, before the clock starts, and used by a call on another.
after its runner
    Fetched after the retirement of the runner that created it. LocalCluster's workers stay: its
    result is fetched from one.

A virtual machine may have to obtain memory from its host that it has not touched for a while, which
takes four times as long as everything else. Therefore this process touches as much memory before
each call, and frees it (not with ``--no-touch``). The memory needed at once is three times the
largest size, for data that passes through LocalCluster's scheduler.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
from dask.utils import format_bytes, parse_bytes
from distributed import Client, LocalCluster, wait

from dask_flame import FlameCluster

CONTENDERS = ("flame", "dask")
ROWS = (
    "result",
    "bytes",
    "dict of arrays",
    "DataFrame",
    "gather",
    "argument",
    "scatter",
    "runner to runner",
    "after its runner",
)
#: Maximum size of arguments, which pass through pickle, messages and the scheduler.
_LARGEST_ARGUMENT = parse_bytes("100 MB")
#: Maximum size of the other rows, limited by the memory of a usual machine.
_LARGEST_OTHER = parse_bytes("600 MB")
_PIECES = 100
#: Do not touch memory in advance for less than this.
_LITTLE = parse_bytes("20 MB")


# Functions of the calls, which create so many bytes


def array(nbytes: int) -> Any:
    return np.ones(nbytes // 8)


def some_bytes(nbytes: int) -> bytes:
    return b"x" * nbytes


def arrays(nbytes: int) -> dict[str, Any]:
    return {f"layer{i}": np.ones(nbytes // 80) for i in range(10)}


def frame(nbytes: int) -> Any:
    import pandas

    return pandas.DataFrame(np.ones((nbytes // 80, 10))).add_prefix("column")


def first(value: Any) -> float:
    return float(value[0])


_MAKES: dict[str, Callable[[int], Any]] = {
    "result": array,
    "bytes": some_bytes,
    "dict of arrays": arrays,
    "DataFrame": frame,
}


# One contender, in a separate process


@contextlib.contextmanager
def client_of(kind: str, runners: int, *, idle_timeout: str = "600s") -> Iterator[Client]:
    """Yield the client of a cluster with all its workers registered."""
    if kind == "dask":
        cluster: Any = LocalCluster(
            n_workers=runners, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        )
    else:
        cluster = FlameCluster(max=runners, idle_timeout=idle_timeout, dashboard_address=None)
    with cluster, Client(cluster) as client:
        client.gather(client.map(time.sleep, [0.5] * runners, pure=False))
        yield client


def once(client: Client, row: str, nbytes: int) -> Callable[[], Any]:
    """Prepare a case, and return the function to be timed."""
    if row in _MAKES:
        return lambda: client.submit(_MAKES[row], nbytes, pure=False).result()
    if row == "gather":
        sizes = [nbytes // _PIECES] * _PIECES
        return lambda: client.gather(client.map(array, sizes, pure=False))
    if row in ("argument", "scatter"):
        given = array(nbytes)
        if row == "argument":
            return lambda: client.submit(first, given, pure=False).result()
        return lambda: client.submit(first, client.scatter(given, hash=False), pure=False).result()
    if row == "runner to runner":
        one, other = list(client.scheduler_info(n_workers=-1)["workers"])[:2]
        made = client.submit(array, nbytes, workers=[one], pure=False)
        wait(made)
        return lambda: client.submit(first, made, workers=[other], pure=False).result()
    made = client.submit(array, nbytes, pure=False)
    wait(made)
    while isinstance(client.cluster, FlameCluster) and client.cluster.runners:
        time.sleep(0.05)
    return made.result


def cpu() -> float:
    """Return the CPU seconds of this process and its descendants, including ended ones."""
    mine = psutil.Process()
    times = []
    for process in (mine, *mine.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times.append(process.cpu_times())
    return sum(t.user + t.system for t in times)


def peak() -> int:
    """Return the peak memory of this process since :func:`forget_peak`, in bytes."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))


def forget_peak() -> None:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as f:
        f.write("5")


def measure(kind: str, wanted: list[tuple[str, int]], args: argparse.Namespace) -> None:
    """Print the measurements of each case as JSON: see :func:`timed`."""
    for resting in (False, True):
        mine = [case for case in wanted if (case[0] == "after its runner") == resting]
        if not mine:
            continue
        idle = "500ms" if resting else "600s"
        with client_of(kind, args.runners, idle_timeout=idle) as client:
            for row, nbytes in mine:
                found = [timed(client, row, nbytes, args.touch) for _ in range(args.repeats + 1)]
                print(json.dumps([row, nbytes, found[1:]]), flush=True)


def timed(client: Client, row: str, nbytes: int, touch: bool) -> tuple[float, float, int]:
    """Measure one call: seconds, CPU seconds, and the driver's peak memory."""
    act = once(client, row, nbytes)
    if touch and nbytes > _LITTLE:
        np.ones(3 * nbytes // 8)
    forget_peak()
    spent, start = cpu(), time.perf_counter()
    result = act()
    seconds = time.perf_counter() - start
    found = (seconds, cpu() - spent, peak())
    del act, result
    time.sleep(0.2)  # until it is released everywhere
    return found


# All contenders


def cases(sizes: list[str], rows: list[str]) -> Iterator[tuple[str, int]]:
    for row, size in itertools.product(rows, map(parse_bytes, sizes)):
        if row == "argument":
            most = _LARGEST_ARGUMENT
        elif row in ("result", "gather"):
            most = parse_bytes("1 TB")
        else:
            most = _LARGEST_OTHER
        if size <= most and not (row == "gather" and size < _PIECES * 8):
            yield row, size


def in_its_own_process(kind: str, args: argparse.Namespace) -> list[Any]:
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--one", kind], stdout=subprocess.PIPE, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["1MB", "10MB", "100MB", "600MB", "2.3GB"])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="in each round")
    parser.add_argument("--runners", type=int, default=2)
    parser.add_argument("--touch", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parsed()
    wanted = list(cases(args.sizes, args.rows))
    if args.one:
        warnings.filterwarnings("ignore", "Sending large graph")
        measure(args.one, wanted, args)
        return
    found: dict[tuple[str, int], dict[str, list[Any]]] = {
        case: {kind: [] for kind in CONTENDERS} for case in wanted
    }
    for n in range(args.rounds):
        for kind in CONTENDERS if n % 2 == 0 else CONTENDERS[::-1]:
            for row, nbytes, times in in_its_own_process(kind, args):
                found[row, nbytes][kind] += times
    print("| | flame s | dask s | best s | CPU s | driver's peak | ratio |")
    print("|---|---|---|---|---|---|---|")
    for (row, nbytes), of in found.items():
        print(line(row, nbytes, of))


def line(row: str, nbytes: int, found: dict[str, list[Any]]) -> str:
    """Return a line of the table."""
    ours, theirs = (list(zip(*found[kind], strict=True)) for kind in CONTENDERS)
    medians = [[statistics.median(column) for column in one] for one in (ours, theirs)]
    (seconds, spent, most), (their_seconds, their_spent, their_most) = medians
    cells = [
        f"{row}, {format_bytes(nbytes)}",
        f"{seconds:.4f}",
        f"{their_seconds:.4f}",
        f"{min(ours[0]):.4f}, {min(theirs[0]):.4f}",
        f"{spent:.2f}, {their_spent:.2f}",
        f"{format_bytes(most)}, {format_bytes(their_most)}",
        f"{seconds / their_seconds:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

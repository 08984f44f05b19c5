"""Compare dask-flame's jobs with those of dask-jobqueue's SLURMCluster, on the same daemons.

    python benchmarks/slurm.py

Needs root, and ``apt-get install slurm-wlm munge``: it starts a Slurm of its own with two nodes, on
this machine, whose cores all jobs share. Both contenders take turns. SLURMCluster uses ``adapt`` as
it is by default; it is left out if dask-jobqueue is not installed.

registered
    Seconds from ``client.map`` of 8 calls of 20 s, without any runner, until 8 have registered.
makespan
    … until all 8 results have arrived.
left
    Jobs left 60 s after ``kill -9`` of a driver with 8 busy runners.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The tests have the code that starts a Slurm.
sys.path.append(str(Path(__file__).parents[1]))

import psutil
from slurm_driver import MARK  # beside this file

from tests.support.slurm_world import SlurmWorld, slurm_world, why_impossible
from tests.support.waiting import wait_for

TITLES = {"flame": "dask-flame", "stock": "SLURMCluster"}


class Bench:
    """Measure contenders on one Slurm.

    Parameters
    ----------
    world : SlurmWorld
    args : argparse.Namespace
    folder : str
        For files of drivers and jobs.
    """

    def __init__(self, world: SlurmWorld, args: argparse.Namespace, folder: str) -> None:
        self._world = world
        self._args = args
        self._folder = folder

    def calls(self, who: str) -> dict[str, Any]:
        """Run calls from zero."""
        process = self._start(who, "calls", self._args.seconds)
        found = self._read(process)
        process.communicate()
        wait_for(lambda: not self._world.jobs(), within=120, what="no job is left")
        return found

    def left(self, who: str) -> int:
        """Return the number of jobs that a kill leaves, and end them."""
        process = self._start(who, "kill", 3600)
        self._read(process)
        beside = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate()
        until = time.monotonic() + self._args.left_after
        wait_for(
            lambda: not self._world.jobs() or time.monotonic() > until,
            within=self._args.left_after + 60,
        )
        left = len(self._world.jobs())
        if left:
            self._world.command("scancel", f"--user={os.getuid()}")
            wait_for(lambda: not self._world.jobs(), within=120, what="no job is left")
        # The process that cancels jobs looks a little longer, for one that was being submitted.
        psutil.wait_procs(beside, timeout=120)
        return left

    def _start(self, who: str, what: str, seconds: float) -> subprocess.Popen[str]:
        print(f"{who}: {what} …", file=sys.stderr, flush=True)
        script = Path(__file__).with_name("slurm_driver.py")
        arguments = [who, what, str(self._args.calls), str(seconds), self._folder]
        return subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **self._world.environment},
        )

    def _read(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(MARK):
                found: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return found
        raise SystemExit("the driver has ended without a measurement")


def table(
    found: Mapping[str, Sequence[Mapping[str, Any]]], left: Mapping[str, int], args: Any
) -> str:
    """Return the measurements as a table in Markdown."""
    rows = {
        f"from call to {args.calls} registered, s": "registered",
        f"{args.calls} calls of {args.seconds:g} s from zero, s": "makespan",
        "runners that took calls": "runners",
    }
    lines = [f"| | {' | '.join(TITLES[who] for who in found)} |", f"|---|{'---|' * len(found)}"]
    for title, key in rows.items():
        cells = []
        for turns in found.values():
            values = [turn[key] for turn in turns if key in turn]
            never = f"never in {len(turns) - len(values)} of {len(turns)}"
            cells.append(f"{statistics.median(values):.3g}" if values else never)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    kept = " | ".join(str(left[who]) for who in found)
    lines.append(f"| jobs left {args.left_after:g} s after kill -9 | {kept} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20, help="of each call")
    parser.add_argument("--turns", type=int, default=3, help="of each contender")
    parser.add_argument("--left-after", type=float, default=60, help="seconds after kill -9")
    parser.add_argument("--json", type=Path, help="write what was measured there")
    args = parser.parse_args(arguments)
    if why := why_impossible():
        parser.error(why)
    contenders = ["flame"]
    if importlib.util.find_spec("dask_jobqueue") is None:
        print("SLURMCluster is not measured: dask-jobqueue is not installed", file=sys.stderr)
    else:
        contenders.append("stock")
    found: dict[str, list[dict[str, Any]]] = {who: [] for who in contenders}
    with slurm_world() as world, tempfile.TemporaryDirectory() as folder:
        bench = Bench(world, args, folder)
        for _ in range(args.turns):
            for who in contenders:
                found[who].append(bench.calls(who))
                print(f"{who}: {found[who][-1]}", file=sys.stderr, flush=True)
        left = {}
        for who in contenders:
            left[who] = bench.left(who)
            print(f"{who}: {left[who]} jobs left", file=sys.stderr, flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps({"calls": found, "left": left}))
    print(table(found, left, args))


if __name__ == "__main__":
    main()

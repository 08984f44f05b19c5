"""Measure three basic promises: one wave, a quick answer to demand, nothing left behind.

    python benchmarks/first_light.py [wave] [answer] [kills]

wave
    16 calls of 3 s without any runner, with max=16: boot waves, makespan, runners used, and the end
    of the last runner after its idle timeout.
answer
    Time from ``client.submit`` in the driver to the boot request to the backend, in ms.
kills
    A driver is killed with SIGKILL at random moments, also during boots: seconds until no process
    of it and no folder is left.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from distributed import Client, get_worker

from dask_flame import FlameCluster
from dask_flame.testing import marked_processes

_TOKEN = "DASK_FLAME_BENCHMARK"


def call(i: int, seconds: float) -> str:
    """Sleep; return the name of the runner."""
    time.sleep(seconds)
    return str(get_worker().name)


def wave(calls: int = 16, seconds: float = 3, idle: float = 3) -> None:
    """Measure one burst of calls, from zero runners back to zero."""
    with (
        FlameCluster(max=calls, idle_timeout=idle, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        start = time.time()
        names = client.gather(client.map(call, range(calls), seconds=seconds))
        makespan = time.time() - start
        while cluster.runners:
            time.sleep(0.01)
        gone = time.time()
        events = list(cluster.events)
    waves = [len(e.runners) for e in events if e.kind == "boot"]
    up = max(e.at for e in events if e.kind == "ready") - start
    print(f"wave: boots asked for per decision {waves}, {len(set(names))} runners used")
    print(f"wave: makespan {makespan:.2f} s = {seconds:g} s + {makespan - seconds:.2f} s")
    print(f"wave: the last runner was up after {up:.2f} s")
    print(
        f"wave: the last runner was gone {gone - start - makespan:.2f} s after the last result "
        f"(idle_timeout {idle:g} s)"
    )


def answer(times: int = 20) -> None:
    """Measure the time from demand to boot request."""
    took = []
    with (
        FlameCluster(max=1, idle_timeout="200ms", dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        for i in range(times):
            before = len(cluster.events)
            start = time.time()
            client.submit(int, i, pure=False).result()
            boot = next(e for e in list(cluster.events)[before:] if e.kind == "boot")
            took.append((boot.at - start) * 1000)
            while cluster.runners:
                time.sleep(0.01)
    print(
        f"answer: from submit to boot request median {statistics.median(took):.1f} ms, "
        f"worst {max(took):.1f} ms of {times}"
    )


_DRIVER = """
import subprocess, sys, time
from dask.distributed import Client
from dask_flame import FlameCluster

def work(i):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    time.sleep(600)

print("starting", flush=True)
client = Client(FlameCluster(max=8, dashboard_address=None))
futures = client.map(work, range(8))
time.sleep(600)
"""


def kills(times: int = 10, seed: int = 0) -> None:
    """Kill drivers, and measure how long any process or folder of them remains."""
    moments = random.Random(seed)
    took = []
    for _ in range(times):
        token = uuid.uuid4().hex
        with tempfile.TemporaryDirectory() as folder:
            driver = subprocess.Popen(
                [sys.executable, "-c", _DRIVER],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, _TOKEN: token, "TMPDIR": folder},
            )
            assert driver.stdout is not None
            driver.stdout.readline()
            after = moments.uniform(0, 6)
            time.sleep(after)
            alive = len(marked_processes(token, variable=_TOKEN))
            driver.kill()
            start = time.monotonic()
            while marked_processes(token, variable=_TOKEN) or list(Path(folder).iterdir()):
                time.sleep(0.01)
            took.append(time.monotonic() - start)
            driver.communicate()
            print(f"kills: after {after:.2f} s, {alive} processes: gone in {took[-1]:.2f} s")
    print(f"kills: median {statistics.median(took):.2f} s, worst {max(took):.2f} s of {times}")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or ["wave", "answer", "kills"]:
        {"wave": wave, "answer": answer, "kills": kills}[chosen]()

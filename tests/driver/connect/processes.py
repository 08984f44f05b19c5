"""Scripts that make a cluster, take it over or observe it, and the processes that run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

KERNEL = """
import os, sys, time
from dask.distributed import Client
from dask_flame import FlameCluster, recover, report

def train(variant, folder):
    open(f"{folder}/ran", "a").write(f"{variant}\\n")
    for step in range(1, 6):
        report(step=step, loss=1 / step + variant)
    while variant and not os.path.exists(f"{folder}/go-on"):
        time.sleep(0.02)
    for step in range(6, 11):
        report(step=step, loss=1 / step + variant)
    if variant == 3:
        raise ValueError("diverged")
    return variant * 10

def halfway(cluster, calls):
    points = [len(c.series["loss"]) for c in cluster.reports.calls.values() if "loss" in c.series]
    return sum(points) == 10 + 5 * min(calls - 1, cluster.pools["default"].max)

if __name__ == "__main__":
    folder, grace, calls, most = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    cluster = FlameCluster(
        name="shop", image="me/runner:1", max=most,
        secrets={"TOKEN": "s3cr3t"},
        idle_timeout="300s", budget="40 runner-hours", dashboard_address=None,
        disconnect_grace=grace,
    )
    client = Client(cluster)
    futures = [client.submit(train, n, folder, key=f"train-{n}") for n in range(calls)]
    futures[0].result()
    while not halfway(cluster, calls):
        time.sleep(0.01)
    cluster.resize(max=most + 1)
    while cluster.reports.calls and not os.path.exists(f"{folder}/resized"):
        time.sleep(0.01)
        print("half way", flush=True)
        open(f"{folder}/resized", "w").close()
    while cluster.status.name == "running":
        time.sleep(0.01)
    print("closed", cluster.over, flush=True)
    for name, ask in (
        ("future", futures[-1].result),
        ("submit", lambda: client.submit(abs, -1)),
        ("resize", lambda: cluster.resize(max=1)),
        ("recover", recover),
    ):
        try:
            print(name, "gives", ask(), flush=True)
        except BaseException as error:
            print(name, type(error).__name__, str(error).replace("\\n", " "), flush=True)
"""

ADOPTER = """
import os, sys, time
import dask_flame
from dask_flame.driver.connect import connecting
from dask_flame.driver.hosts.remote import RemoteScheduler
from dask_flame.errors import BackendError

class Dies:
    def __init__(self, *args, **kwargs):
        print("in the middle", flush=True)
        time.sleep(600)

if os.environ.get("DIES") == "joined":
    # Its backend has taken over, and it is not connected.
    RemoteScheduler._connect = Dies
elif os.environ.get("DIES"):
    connecting.AdoptedCluster = Dies
while True:
    try:
        client = dask_flame.connect("shop", adopt=True)
        break
    except BackendError as error:
        if "its driver is there" not in str(error):
            raise
        print("waits", flush=True)
futures = dask_flame.recover()

def own(number, folder):
    open(f"{folder}/ran", "a").write(f"own-{number}\\n")
    return int(number)

if number := os.environ.get("OWN"):
    mine = client.submit(own, number, sys.argv[1], key=f"own-{number}")
    assert mine.result() == int(number)
print("adopted", *futures, flush=True)
time.sleep(600)
"""

OBSERVER = """
import time
import dask_flame

client = dask_flame.connect("shop")
futures = dask_flame.recover(client)
print("observes", futures["train-0"].result(), flush=True)
time.sleep(600)
"""


def says(process: subprocess.Popen[str], beginning: str) -> str:
    """Wait until a line of a process's output begins with this, and return the line."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if line.startswith(beginning):
            return line
    raise AssertionError(f"it has ended before {beginning!r}: {seen}")


class Processes:
    """Starts processes, and ends them with the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[str]] = []

    def __call__(
        self, code: str, *words: str, until: str, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a script, and wait until a line of its output begins with this."""
        script = self._folder / f"script-{len(self._started)}.py"
        script.write_text(code)
        process = subprocess.Popen(
            [sys.executable, str(script), *words],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self._started.append(process)
        says(process, until)
        return process

    def kernel(
        self,
        *,
        grace: str = "120s",
        calls: int = 2,
        most: int = 1,
        env: dict[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a driver, which is then half way."""
        words = (str(self._folder), grace, str(calls), str(most))
        return self(KERNEL, *words, until="half way", env=env)

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def token() -> str | None:
    """Return the secret of the first driver (runner)."""
    return os.environ.get("TOKEN")


def ran(folder: Path) -> list[str]:
    """Return which calls have begun, with those that began twice."""
    return sorted((folder / "ran").read_text().split())

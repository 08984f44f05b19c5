"""Whatever ends the driver, nothing of its cluster is left: real drivers, really killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import wait_for

from dask_flame.testing import marked_processes

_TOKEN = "DASK_FLAME_TEST_DRIVER"

DRIVER = """
import subprocess, sys, time
from dask.distributed import Client
from dask_flame import FlameCluster

def work(i):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    time.sleep(600)

if __name__ == "__main__":
    print("starting", flush=True)
    cluster = FlameCluster(min=1, max=4, dashboard_address=None)
    client = Client(cluster)
    futures = client.map(work, range(4))
    print("submitted", flush=True)
    while sum(m.busy for m in cluster.runners.values()) < 4:
        time.sleep(0.01)
    print("busy", flush=True)
    {end}
"""


class Driver:
    """A driver in a process of its own, and all that came from it."""

    def __init__(self, end: str = "time.sleep(600)") -> None:
        self.token = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER.replace("{end}", end)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, _TOKEN: self.token},
            text=True,
        )

    def says(self, word: str) -> None:
        """Wait until the driver has printed this line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == word:
                return
        raise AssertionError(self.process.communicate()[1])

    def remains(self) -> list[psutil.Process]:
        return marked_processes(self.token, variable=_TOKEN)

    def assert_gone(self, within: float = 5.0) -> float:
        """Wait until no process of this driver is left; the seconds that it took."""
        start = time.monotonic()
        wait_for(lambda: not self.remains(), within, "no process is left")
        assert not list(Path(tempfile.gettempdir()).glob("dask-flame-*"))
        return time.monotonic() - start


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    made: list[Driver] = []
    yield made
    for driver in made:
        for process in driver.remains():
            process.kill()
        driver.process.communicate()


@pytest.mark.parametrize("seed", range(10))
def test_kill_9_at_a_random_moment(seed: int, drivers: list[Driver]) -> None:
    driver = Driver()
    drivers.append(driver)
    driver.says("starting")
    time.sleep(random.Random(seed).uniform(0, 4))  # the moment is what is being tested
    driver.process.kill()
    driver.assert_gone()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_while_all_runners_are_busy(how: signal.Signals, drivers: list[Driver]) -> None:
    driver = Driver()
    drivers.append(driver)
    driver.says("busy")
    assert len(driver.remains()) >= 1 + 1 + 4
    driver.process.send_signal(how)
    driver.assert_gone()


def test_a_signal_to_the_whole_process_group(drivers: list[Driver]) -> None:
    driver = Driver(end="import os, signal; os.setpgrp(); os.killpg(0, signal.SIGKILL)")
    drivers.append(driver)
    driver.says("busy")
    driver.assert_gone()


@pytest.mark.parametrize(
    "end",
    [
        "pass",  # a script that ends without closing anything
        "sys.exit(3)",
        "1 / 0",
        "import os; os._exit(1)",
        "cluster.close()",
        "import os; os.abort()",
    ],
)
def test_ways_for_a_driver_to_end_by_itself(end: str, drivers: list[Driver]) -> None:
    driver = Driver(end)
    drivers.append(driver)
    driver.says("busy")
    driver.process.wait(timeout=30)
    driver.assert_gone()


def test_the_driver_and_the_guard_killed_at_once(drivers: list[Driver]) -> None:
    driver = Driver()
    drivers.append(driver)
    driver.says("busy")
    guard = next(p for p in driver.remains() if "guard.py" in " ".join(p.cmdline()))
    guard.kill()
    driver.process.kill()
    driver.assert_gone()


def test_a_child_that_the_driver_forked_does_not_keep_the_runners(drivers: list[Driver]) -> None:
    # The child has a copy of the connection to the guard, which therefore does not close.
    driver = Driver(
        end="import os; os.fork() or time.sleep(600); print('forked', flush=True); time.sleep(600)"
    )
    drivers.append(driver)
    driver.says("forked")
    driver.process.kill()

    def only_the_child() -> bool:
        left = driver.remains()
        return len(left) == 1 and left[0].ppid() in (1, os.getpid())

    wait_for(only_the_child, 5, "only the forked child is left")

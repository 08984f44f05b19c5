"""Whatever ends the driver, nothing of its cluster is left: real drivers, really killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dask_flame.testing import marked_processes
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

_TOKEN = "DASK_FLAME_TEST_DRIVER"

DRIVER = """
import subprocess, sys, tempfile, time
from dask.distributed import Client
from dask_flame import FlameCluster

def work(i):
    tempfile.mkdtemp()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    daemon = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(600)"
    subprocess.run([sys.executable, "-c", daemon], check=True)
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

    def __init__(self, folder: Path, end: str = "time.sleep(600)") -> None:
        self.folder = folder
        self.token = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER.replace("{end}", end)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, _TOKEN: self.token, "TMPDIR": str(folder)},
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

    def assert_gone(self, within: float = 60.0) -> None:
        """Wait until no process of this driver is left, and no folder."""
        wait_for(lambda: not self.remains(), within, "no process is left")
        wait_for(lambda: not list(self.folder.iterdir()), within, "no temporary folder is left")


Drive = Callable[..., "Driver"]


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    """Starts drivers, and sees to it that even a failed test leaves none."""
    made: list[Driver] = []

    def start(end: str = "time.sleep(600)") -> Driver:
        made.append(Driver(tmp_path, end))
        return made[-1]

    yield start
    for driver in made:
        for process in driver.remains():
            process.kill()
        driver.process.communicate()


@pytest.mark.parametrize("seed", range(10))
def test_kill_9_at_a_random_moment(seed: int, drive: Drive) -> None:
    driver = drive()
    driver.says("starting")
    time.sleep(random.Random(seed).uniform(0, 4))  # the moment is what is being tested
    driver.process.kill()
    driver.assert_gone()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_while_all_runners_are_busy(how: signal.Signals, drive: Drive) -> None:
    driver = drive()
    driver.says("busy")
    assert len(driver.remains()) >= 1 + 1 + 4
    driver.process.send_signal(how)
    driver.assert_gone()


def test_a_signal_to_the_whole_process_group(drive: Drive) -> None:
    driver = drive(end="import os, signal; os.setpgrp(); os.killpg(0, signal.SIGKILL)")
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
def test_ways_for_a_driver_to_end_by_itself(end: str, drive: Drive) -> None:
    driver = drive(end)
    driver.says("busy")
    driver.process.wait(timeout=120)
    driver.assert_gone()


def test_the_driver_and_the_supervisor_killed_at_once(drive: Drive) -> None:
    driver = drive()
    driver.says("busy")
    supervisor = next(
        p
        for p in driver.remains()
        if "dask_flame/backends/local/supervisor" in " ".join(p.cmdline())
    )
    supervisor.kill()
    driver.process.kill()
    driver.assert_gone()


def test_a_child_that_the_driver_forked_does_not_keep_the_runners(
    drive: Drive,
) -> None:
    # The child has a copy of the connection to the supervisor, which therefore does not close.
    driver = drive(
        end="import os; os.fork() or time.sleep(600); print('forked', flush=True); time.sleep(600)"
    )
    driver.says("forked")
    driver.process.kill()

    def only_the_child() -> bool:
        left = driver.remains()
        return len(left) == 1 and left[0].ppid() in (1, os.getpid())

    wait_for(only_the_child, what="only the forked child is left")


def test_an_asynchronous_one_whose_loop_has_stopped_is_not_waited_for(tmp_path: Path) -> None:
    # As a Jupyter server's, for the cluster of its Dask sidebar.
    script = """
import asyncio
from dask_flame import FlameCluster

async def start():
    return await FlameCluster(min=1, max=1, dashboard_address=None, asynchronous=True)

loop = asyncio.new_event_loop()
cluster = loop.run_until_complete(start())
FlameCluster.close = lambda self, **options: print("waited for")
"""
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)
    assert "waited for" not in done.stdout, done.stderr
    wait_for(lambda: not list(tmp_path.iterdir()), what="no temporary folder is left")

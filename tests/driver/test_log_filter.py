"""Clusters close without a line, however many there are."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from dask_flame.driver.log_filter import QuietLogs

DRIVER = """
import sys, time
from dask.distributed import Client
from dask_flame import FlameCluster

if __name__ == "__main__":
    how = sys.argv[1]
    a = FlameCluster(max=1, dashboard_address="127.0.0.1:0")
    first = Client(a)
    assert first.submit(int, 1).result() == 1
    if how == "one after the other":
        a.close()
    b = FlameCluster(max=1, dashboard_address="127.0.0.1:0")
    second = Client(b)
    assert second.submit(int, 2).result() == 2
    if how == "busy":
        first.submit(time.sleep, 60), second.submit(time.sleep, 60)
        while not all(m.busy for c in (a, b) for m in c.runners.values()):
            time.sleep(0.01)
    if how == "clients first":
        first.close()
        second.close()
    if how != "at exit":
        for cluster in (b, a) if how == "last first" else (a, b):
            cluster.close()
"""


@pytest.mark.process
@pytest.mark.parametrize(
    "how",
    ["one after the other", "first first", "last first", "clients first", "busy", "at exit"],
)
def test_two_clusters_in_a_script_close_without_a_line(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, how], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.unit
def test_levels_are_put_back_when_the_last_one_has_gone() -> None:
    handler = logging.StreamHandler()
    logger = logging.getLogger("distributed")
    logger.addHandler(handler)
    quiet = QuietLogs()
    try:
        handler.setLevel(logging.DEBUG)
        first, second = quiet.held(logging.ERROR), quiet.held(logging.WARNING)
        with first:
            assert handler.level == logging.ERROR
            second.__enter__()
            assert handler.level == logging.WARNING
        assert handler.level == logging.WARNING
        second.__exit__(None, None, None)
        assert handler.level == logging.DEBUG
        with quiet.held(logging.ERROR):
            handler.setLevel(logging.INFO)  # somebody else's wish
        assert handler.level == logging.INFO
    finally:
        logger.removeHandler(handler)

"""What test_stop.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import os
import time
from pathlib import Path

import dask_flame
from dask_flame import CallStopped


def endless(name: int = 0) -> None:
    """Report until it is stopped, or too long."""
    for step in range(3_000):
        time.sleep(0.01)
        dask_flame.report(step=step, loss=float(name))
    raise AssertionError("it was not stopped")


def catches() -> str:
    try:
        endless()
    except CallStopped as error:
        return str(error)
    return "never stopped"


def looks() -> int:
    """Go on for as long as report() returns True."""
    for step in range(3_000):
        time.sleep(0.01)
        if not dask_flame.report(step=step, loss=0.5):
            return step
    return -1


def tracks() -> tuple[str, int]:
    n = 0
    try:
        for n in dask_flame.track(range(3_000), every=0):  # noqa: B007
            time.sleep(0.01)
    except CallStopped:
        return "raised", n
    return "ended", n


def once(path: str) -> None:
    """Wait for its runner's end at first; when it runs again, report."""
    if not Path(path).exists():
        Path(path).write_text(str(os.getpid()))
        time.sleep(60)
    endless()

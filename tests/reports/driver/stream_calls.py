"""What test_stream.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from distributed import get_worker

import dask_flame


def train(n: int, *, raises: bool = False, seconds: float = 0.0) -> int:
    for step in range(n):
        dask_flame.report(step=step, loss=step / 2)
        time.sleep(seconds)
    if raises:
        raise RuntimeError("on purpose")
    return n


go = threading.Event()


def waits(n: int) -> None:
    train(n)
    go.wait(60)
    train(n)


def dies_once(path: str) -> str:
    train(3)
    if not os.path.exists(path):
        Path(path).touch()
        time.sleep(60)
    return str(get_worker().name)

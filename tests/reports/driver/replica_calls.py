"""What test_replica.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import threading

import dask_flame

go = threading.Event()


def train(n: int, key: str = "") -> None:
    for step in range(n):
        dask_flame.report(step=step, loss=step / 2)


def waits(n: int) -> None:
    train(n)
    go.wait(60)
    train(n)

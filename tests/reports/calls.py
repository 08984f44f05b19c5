"""What test_reports.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import asyncio
import gc
import math
import time
import uuid
from pathlib import Path
from typing import Any

from distributed import get_worker, secede

import dask_flame
from dask_flame.reports import report
from dask_flame.reports.wire import NAME
from tests.support.waiting import wait_for


class Flag:
    """Raised in one process and seen in another."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / uuid.uuid4().hex

    def set(self) -> None:
        self.path.touch()

    def is_set(self) -> bool:
        return self.path.exists()

    def wait(self) -> None:
        wait_for(self.is_set, within=60)


def train(n: int, *, raises: bool = False, delay: float = 0.0, **values: float) -> str:
    for step in range(n):
        dask_flame.report(step=step, loss=step / 2, **values)
        if delay:
            time.sleep(delay)
    if raises:
        raise RuntimeError("on purpose")
    return str(get_worker().name)


def until(flag: Flag, n: int) -> None:
    for step in range(n):
        report(step=step, loss=1.0)
    flag.wait()


def odd(values: list[float]) -> None:
    for value in values:
        report(loss=value)


def counts() -> None:
    report(loss=0.0)
    report(loss=1.0, acc=0.5)
    report(step=10, loss=2.0)
    report(acc=0.6)
    report(step=4, loss=3.0)
    report(loss=4.0)


def bad() -> str:
    report(loss=1.0)
    for _ in range(3):
        report(loss="low", acc=0.5)  # type: ignore[arg-type]
    report(step=-7, loss=2.0)
    return "trained"


def leaves_its_slot() -> None:
    report(loss=1.0)
    secede()
    report(loss=2.0)


async def concurrently(n: int) -> None:
    for i in range(n):
        report(step=i, loss=float(n))
        await asyncio.sleep(0)


class Trainer:
    def __init__(self) -> None:
        report(loss=9.0)

    def step(self, n: int) -> str:
        report(loss=float(n))
        return str(get_worker().name)


def fails_once(flag: Flag) -> str:
    report(step=0, loss=1.0 if flag.is_set() else 2.0)
    if not flag.is_set():
        flag.set()
        report(step=1, loss=2.0)
        raise RuntimeError("the first time")
    return str(get_worker().name)


def idle(dask_worker: Any) -> bool:
    sender = dask_worker.plugins[NAME]
    return sender._timer is None and not sender._awake and not sender._buffer


def timed(n: int) -> tuple[float, float]:
    report(loss=0.0)
    best = math.inf
    start = time.perf_counter()
    gc.disable()
    for _ in range(5):
        a = time.perf_counter()
        for step in range(n // 5):
            report(step=step, loss=0.5)
        best = min(best, (time.perf_counter() - a) / (n // 5))
    gc.enable()
    return best * 1e6, (time.perf_counter() - start) / n * 1e6


def holds(started: Flag, go: Flag) -> None:
    for _ in range(7):
        report(loss=1.0)
    started.set()
    go.wait()


def dies_once(flag: Flag) -> str:
    """Waits, the first time, to be killed."""
    report(loss=1.0)
    if not flag.is_set():
        flag.set()
        time.sleep(60)
    return str(get_worker().name)


def unnamed_reports() -> None:
    report({"val/loss": 0.5}, step=1, loss=0.25)
    report(5)
    report({1: 2.0})

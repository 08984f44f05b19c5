"""What test_page.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import math
import time
import uuid
from pathlib import Path

from distributed import get_worker

from dask_flame import report
from tests.support.waiting import wait_for


class Flag:
    """Raised in one thread or process and seen in another."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / uuid.uuid4().hex

    def set(self) -> None:
        self.path.touch()

    def wait(self) -> None:
        wait_for(self.path.exists, within=60)


def train(i: int, half: Flag | None = None, n: int = 40) -> dict[str, list[float]]:
    said: dict[str, list[float]] = {"loss": [], "accuracy": []}
    for step in range(n):
        if step == n // 2 and half is not None:
            half.wait()
        loss, accuracy = (i + 1) / (step + 1), 1 - (i + 1) / (step + 2)
        report(step=step, loss=loss, accuracy=accuracy)
        said["loss"].append(loss)
        said["accuracy"].append(accuracy)
    return said


def report_once() -> float:
    report(loss=1.0)
    return time.time()


def train_on(i: int) -> str:
    train(i)
    return str(get_worker().name)


def only(name: str) -> None:
    report(**{name: 0.5})


def odd() -> None:
    for value in (math.nan, 2.0, math.inf, -math.inf, 1.0, math.nan):
        report(loss=value)


def never() -> None:
    report(loss=math.nan)


def fails(i: int) -> None:
    report(loss=1.0, step=i)
    raise ValueError(i)


def report_on(end: Flag) -> int:
    n = 0
    while not end.path.exists():
        for _ in range(100):
            report(loss=1 / (1 + n % 777), accuracy=0.5)
            n += 1
        time.sleep(0.05)
    return n


def spread(key: str) -> None:
    for step in range(100):
        report(step=step, loss=1e9 if key == "far" and step == 50 else 1 + step / 100)


def odd_names() -> None:
    for step in range(30):
        report({"constructor": 2.0, "": 1.0, "__proto__": 3.0}, step=step, loss=0.5)
        time.sleep(0.01)


def huge() -> None:
    for step in range(20):
        report(step=step, loss=1.7e308 * (-1) ** step)
    report(step=20, loss=3.0)

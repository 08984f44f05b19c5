"""What test_control_loop.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy

_KEPT: list[Any] = []


def fill(megabytes: int) -> Any:
    return numpy.ones(megabytes * 125_000)


def leak(megabytes: int) -> None:
    _KEPT.append(numpy.ones(megabytes * 125_000))


def leak_for(megabytes: int, seconds: float) -> str:
    leak(megabytes)
    time.sleep(seconds)
    return "done"


def leak_until(megabytes: int, file: Path) -> str:
    leak(megabytes)
    while not file.exists():
        time.sleep(0.05)
    return "done"


def one(number: int) -> int:
    return number


def children(megabytes: int) -> int:
    import multiprocessing

    leak(megabytes)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=time.sleep, args=(3,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return 7


def started(megabytes: int) -> None:
    import subprocess
    import sys

    code = f"import time; x = bytearray({megabytes}_000_000); time.sleep(600)"
    subprocess.run([sys.executable, "-c", code], check=False)


class Counter:
    def add(self) -> int:
        return 1

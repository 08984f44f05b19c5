"""What test_calls.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import asyncio
import cProfile
import operator
import os
import signal
import time
from pathlib import Path
from typing import Any

import dask
from distributed import get_client, get_worker

import dask_flame


def name() -> str:
    """The runner that this runs on."""
    return str(get_worker().name)


def pool() -> str:
    """The pool that this runs on."""
    return os.environ["POOL"]


def note(folder: Path, *args: Any) -> str:
    """What `pool` returns; leaves a file that says so."""
    (folder / os.urandom(8).hex()).write_text(pool())
    return pool()


def spin(seconds: float = 600) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "done"


def doze(seconds: float) -> str:
    """The same, which leaves the processor to others."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    return "done"


async def linger(seconds: float = 600) -> str:
    await asyncio.sleep(seconds)
    return "done"


def nested(depth: int) -> int:
    if depth == 0:
        return 1
    first = dask_flame.call(nested, depth - 1)
    second = get_client().submit(nested, depth - 1, pure=False).result()
    return int(first + second)


async def nested_coroutine(depth: int) -> int:
    if depth == 0:
        return 1
    both = asyncio.gather(*(dask_flame.call(nested_coroutine, depth - 1) for _ in range(2)))
    return sum(await both)


def computes(how: str) -> Any:
    divided = dask.delayed(operator.truediv)(1, 0)
    client = get_client()
    return divided.compute() if how == "compute" else client.submit(operator.truediv, 1, 0).result()


class Counter:
    n: int = 0

    def __init__(self, start: int = 0) -> None:
        self.n = start

    def add(self, n: int = 1) -> int:
        self.n += n
        return self.n

    def where(self) -> tuple[str, int]:
        return name(), os.getpid()

    def nested(self) -> int:
        return int(dask_flame.call(abs, -3))


def dies(folder: Path) -> None:
    (folder / os.urandom(8).hex()).touch()
    os.kill(os.getpid(), signal.SIGKILL)


def profiled() -> int:
    profile = cProfile.Profile()
    names: dict[str, int] = {}
    profile.runctx("total = sum(range(100))", {}, names)
    return names["total"]


def interrupted(dask_worker: Any) -> bool:
    """Return whether a call on this runner has been asked to stop."""
    return any(execution.interrupted for execution in dask_worker.calls._executing.values())


def cannot_be_sampled() -> int:
    """Return how often the profiler has met a frame that is none."""
    from distributed import profile

    sample, met = profile.process, 0

    def torn(*args: Any, **kwargs: Any) -> None:
        nonlocal met
        met += 1
        raise AttributeError("'code' object has no attribute 'f_code'")

    profile.process = torn
    try:
        while met < 3:
            time.sleep(0.01)
    finally:
        profile.process = sample
    return met

"""Functions that run in contenders' processes; a separate module, because these import it."""

from __future__ import annotations

import os
import time
from typing import Any


def nothing(_: Any = None) -> None:
    """Do nothing."""


def nap(seconds: float) -> tuple[int, float, float]:
    """Sleep; return the process, and the times on the clock shared by all processes."""
    begin = time.monotonic()
    time.sleep(seconds)
    return os.getpid(), begin, time.monotonic()


def learn(what: str) -> int:
    """Use the libraries needed for training; return the process."""
    if what != "nothing":
        import torch
        from transformers import BertModel

        torch.nn.Linear(2, 2)(torch.zeros(2))
        assert BertModel.config_class is not None
    return os.getpid()


def reporting(times: int, loops: int, who: str) -> float:
    """Return the seconds that one report adds to a loop: the median of several loops."""
    from distributed import get_worker

    def empty() -> float:
        begin = time.perf_counter()
        for step in range(times):
            loss = 1.0 / (step + 1)
        return time.perf_counter() - begin + 0 * loss

    def ours() -> float:
        from dask_flame import report

        begin = time.perf_counter()
        for step in range(times):
            loss = 1.0 / (step + 1)
            report(step=step, loss=loss)
        return time.perf_counter() - begin

    def stock() -> float:
        worker = get_worker()
        begin = time.perf_counter()
        for step in range(times):
            loss = 1.0 / (step + 1)
            worker.log_event("versus", {"step": step, "loss": loss})
        return time.perf_counter() - begin

    took = []
    for _ in range(loops):
        plain = empty()
        took.append(((ours if who == "flame" else stock)() - plain) / times)
        time.sleep(1.0)  # until background work is done
    return sorted(took)[len(took) // 2]


def steady(number: int, rate: float, seconds: float, who: str) -> int:
    """Report at this rate for so long; return the number of reports."""
    from distributed import get_worker

    from dask_flame import report

    worker = get_worker()
    start = time.monotonic()
    step = 0
    while (now := time.monotonic()) < start + seconds:
        if who == "flame":
            report(step=step, loss=float(number))
        else:
            worker.log_event("versus", {"step": step, "time": time.time(), "loss": float(number)})
        step += 1
        time.sleep(max(0.0, start + step / rate - now))
    return step

"""Assign this machine's GPUs to local runners (driver)."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from pathlib import Path

from dask_flame.runner.devices import VISIBLE

logger = logging.getLogger("dask_flame")


class GpuAllocation:
    """Give each runner the GPUs with the fewest other runners.

    The machine's GPUs are those that the driver may use: those in its ``CUDA_VISIBLE_DEVICES``, or
    else those shown by NVIDIA's kernel module.
    """

    def __init__(self) -> None:
        self.all = _devices()
        self._given: dict[str, list[str]] = {}
        self._warned = False

    def warn_of(self, number: int) -> None:
        """Warn, once, if runners want more GPUs than the machine has."""
        if number > len(self.all) and not self._warned:
            self._warned = True
            there = f"{len(self.all)} GPU" + ("" if len(self.all) == 1 else "s")
            logger.warning("gpus=%d: this machine shows %s; runners run without", number, there)

    def give(self, runner: str, number: int) -> dict[str, str]:
        """Assign GPUs to a runner; return the environment variables for it."""
        chosen = self.choose(number)
        if chosen:
            self._given[runner] = chosen[VISIBLE].split(",")
        return chosen

    def choose(self, number: int) -> dict[str, str]:
        """Return the variables that the next runner with so many GPUs would get."""
        if not number or not self.all:
            return {}
        used = Counter(device for given in list(self._given.values()) for device in given)
        chosen = sorted(self.all, key=lambda d: (used[d], self.all.index(d)))[:number]
        return {VISIBLE: ",".join(chosen)}

    def take_back(self, runner: str) -> None:
        """Release the GPUs of a runner that has ended."""
        self._given.pop(runner, None)


def _devices() -> list[str]:
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [d.strip() for d in named.split(",") if d.strip() not in ("", "-1", "NoDevFiles")]
    found = [p.name for p in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", p.name)]
    return sorted((name.removeprefix("nvidia") for name in found), key=int)

"""Which of this machine's GPUs a local runner sees (driver)."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from pathlib import Path

from dask_flame.runner.devices import VISIBLE

logger = logging.getLogger("dask_flame")


class GpuAllocation:
    """Gives each runner the GPUs that the fewest others have.

    The machine's GPUs are those that the driver itself may use: what its ``CUDA_VISIBLE_DEVICES``
    names, or else what NVIDIA's kernel module shows.
    """

    def __init__(self) -> None:
        self.all = _devices()
        self._given: dict[str, list[str]] = {}
        self._warned = False

    def warn_of(self, number: int) -> None:
        """Say once that runners are to have more GPUs than the machine has."""
        if number > len(self.all) and not self._warned:
            self._warned = True
            there = f"{len(self.all)} GPU" + ("" if len(self.all) == 1 else "s")
            logger.warning("gpus=%d: this machine shows %s; runners run without", number, there)

    def give(self, runner: str, number: int) -> dict[str, str]:
        """Environment variables for a runner that is to have so many GPUs."""
        chosen = self.choose(number)
        if chosen:
            self._given[runner] = chosen[VISIBLE].split(",")
        return chosen

    def choose(self, number: int) -> dict[str, str]:
        """What the next runner that is to have so many GPUs would be given."""
        if not number or not self.all:
            return {}
        used = Counter(device for given in list(self._given.values()) for device in given)
        chosen = sorted(self.all, key=lambda d: (used[d], self.all.index(d)))[:number]
        return {VISIBLE: ",".join(chosen)}

    def take_back(self, runner: str) -> None:
        """A runner is gone."""
        self._given.pop(runner, None)


def _devices() -> list[str]:
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [d.strip() for d in named.split(",") if d.strip() not in ("", "-1", "NoDevFiles")]
    found = [p.name for p in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", p.name)]
    return sorted((name.removeprefix("nvidia") for name in found), key=int)

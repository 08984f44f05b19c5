"""What test_home.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


def double(x: Any) -> Any:
    return x * 2


class OnlyThere:
    """Can be unpickled on a runner only."""

    def __reduce__(self) -> Any:
        return _only_on_a_runner, ()


def _only_on_a_runner() -> OnlyThere:
    if "DASK_FLAME_RUNNER" not in os.environ:
        raise RuntimeError("not here")
    return OnlyThere()


class Counted:
    """Knows how often one was unpickled in this process."""

    unpickled = 0

    def __reduce__(self) -> Any:
        return _counted, ()


def _counted() -> Counted:
    Counted.unpickled += 1
    return Counted()


def array(mb: float) -> Any:
    return np.random.default_rng(0).integers(0, 256, int(mb * 1e6), dtype="u1")

"""What test_fly.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import os
from typing import Any

import dask


def double(x: int) -> int:
    return 2 * x


def environment() -> tuple[dict[str, str], Any]:
    return dict(os.environ), dask.config.config

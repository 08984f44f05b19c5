"""What test_cluster.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import time
from typing import Any

from distributed import get_worker


def name_of_runner(*args: Any, seconds: float = 0) -> str:
    time.sleep(seconds)
    return str(get_worker().name)


def _die() -> None:
    import os

    os._exit(3)

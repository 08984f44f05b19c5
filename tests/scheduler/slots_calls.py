"""What test_slots.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import time
from typing import Any

from distributed import get_worker


def whoami(*args: Any, seconds: float = 0.0, after: Any = None) -> tuple[str, float, float]:
    start = time.time()
    time.sleep(seconds)
    return get_worker().name, start, time.time()

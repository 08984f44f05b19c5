"""What test_pools_api.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from distributed import get_worker


def whoami(*args: Any, seconds: float = 0) -> str:
    time.sleep(seconds)
    return str(get_worker().name)


def _die_once(path: str) -> str:
    marks = Path(path)
    marks.write_text(marks.read_text() + "x" if marks.exists() else "x")
    if len(marks.read_text()) < 3:
        import os

        os._exit(7)
    return whoami()


def _exit() -> None:
    import os

    os._exit(1)

"""What test_resume.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import time
from pathlib import Path


def once(folder: Path, n: int = 0, after: float = 0.0) -> int:
    with (folder / f"call-{n}").open("ab") as file:
        file.write(b"x")
    deadline = time.monotonic() + 60
    while (folder / "gate").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(after)
    return n

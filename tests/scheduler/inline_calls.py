"""What test_inline_results.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import os
from typing import Any

#: Bytes that do not travel with the end of their call.
LARGE = 100_000


def pid(tag: Any = None) -> int:
    return os.getpid()


def once(path: str) -> int:
    """Leave a mark for each time that this is called."""
    with open(path, "a") as file:
        file.write("x")
    return os.getpid()


def large(path: str) -> bytes:
    once(path)
    return bytes(LARGE)

"""Waiting for a condition, instead of for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_for(condition: Callable[[], Any], within: float = 60, what: str = "") -> Any:
    """Wait until a condition holds and return what it gave; fail after a deadline."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within} s: {what or condition}"
        time.sleep(0.01)
    return value


def wait_for_text(file: Path, within: float = 60, what: str = "") -> str:
    """Wait until another process has written a file, and return its text.

    A file exists from when it is opened: who waits for that may read nothing.
    """
    text: str = wait_for(
        lambda: file.exists() and file.read_text(), within, what or f"text in {file.name}"
    )
    return text


async def until(condition: Callable[[], Any], within: float = 60, what: str = "") -> Any:
    """Wait until a condition holds, while the event loop runs, and return what it gave."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within} s: {what or condition}"
        await asyncio.sleep(0.01)
    return value

"""Calls and times in few words, for people to read (all)."""

from __future__ import annotations

import re
from typing import Any

from dask_flame.terminals import plain

# What distributed puts into keys to make them differ: too long to read, and more than is needed.
_TOKEN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")


def label(key: Any) -> str:
    """A key, short enough for a table, and safe for a terminal."""
    if isinstance(key, tuple):
        return ", ".join(label(part) for part in key)
    return _TOKEN.sub(lambda token: token[0][:6], plain(str(key)))


def memory(size: float) -> str:
    """Bytes as a person says them: ``1.2 GB``, ``480 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.1f} GB" if unit == "GB" else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"

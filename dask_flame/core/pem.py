"""Certificates and keys as text, in place of the names of their files (driver)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def inline(security: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the names of files with their content: certificates and keys.

    Parameters
    ----------
    security : mapping
        Arguments of :class:`distributed.Security`. Values that are not strings stay as they are.
    """
    return {
        key: Path(value).read_text()
        if isinstance(value, str) and "-----BEGIN" not in value
        else value
        for key, value in security.items()
    }

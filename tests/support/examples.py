"""Number of examples that hypothesis plays: few by default, more for a campaign."""

from __future__ import annotations

import os

#: How many times as many as by default.
_FACTOR = float(os.environ.get("FLAME_TEST_EXAMPLES", "1"))


def examples(n: int) -> int:
    """Number of examples of a test whose default is `n`."""
    return max(1, round(n * _FACTOR))

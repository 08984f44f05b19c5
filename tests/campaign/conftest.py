"""What a campaign has done, in a few lines at its end."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

_TALLY = pytest.StashKey[Counter[str]]()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Counter[str]:
    """Counts of the whole campaign, by what is counted."""
    return request.config.stash.setdefault(_TALLY, Counter())


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    counts = config.stash.get(_TALLY, Counter())
    if counts:
        terminalreporter.section("campaign")
        terminalreporter.line(", ".join(f"{name}: {counts[name]}" for name in sorted(counts)))

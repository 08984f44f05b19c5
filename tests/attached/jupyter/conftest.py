"""The applications of these modules have folders of their own for their sockets."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def folder() -> None:
    """Replace that of each test: the applications of a module have one."""

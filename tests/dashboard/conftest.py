"""One browser for all pages: it takes longer to start than most tests of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.browser_help import Browser, opened_browser


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    yield from opened_browser()

"""Fixtures for the tests of the Fly backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.fly.stage import sleeping_python
from tests.backends.fly.world import ADDRESS, SPEED, inside, settings
from tests.fakes.fly import FakeFly
from tests.support.waiting import wait_for


@pytest.fixture
def fly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeFly]:
    """A fake Fly, and this process in one of its machines. At the end no machine may be left."""
    for name in ("FLY_API_TOKEN", "FLY_API_HOSTNAME", "FLY_FLAPS_BASE_URL", "FLY_MACHINE_ID"):
        monkeypatch.delenv(name, raising=False)
    pythons = sleeping_python(tmp_path)
    with FakeFly(speed=SPEED, private_ip=ADDRESS, pythons=pythons, limit=None) as fake:
        inside(fake, monkeypatch)
        with settings(fake):
            yield fake
        wait_for(lambda: not fake.left(), what=f"nothing is left: {fake.left()}")
        assert fake.violations == []

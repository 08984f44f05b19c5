"""The Fly backend passes the tests of every backend, on the fake Fly."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dask_flame.backends import Backend
from dask_flame.backends.fly import FlyBackend
from dask_flame.backends.fly.api import client
from dask_flame.testing.conformance import BackendConformance
from tests.fakes.fly import FakeFly

pytestmark = pytest.mark.process


class TestFly(BackendConformance):
    @pytest.fixture
    def factory(self, fly: FakeFly) -> Any:
        return FlyBackend

    @pytest.fixture
    def driver(self) -> str:
        return "dask_flame.backends.fly:FlyBackend"

    @pytest.fixture
    def processes_here(self) -> bool:
        return True

    @pytest.fixture
    def outage(self, fly: FakeFly, monkeypatch: pytest.MonkeyPatch) -> Callable[[Backend], Any]:
        @contextlib.asynccontextmanager
        async def cut(backend: Backend) -> AsyncIterator[None]:
            with monkeypatch.context() as patch:
                patch.setattr(client, "LIST_PATIENCE", 0.5)
                fly.down()
                try:
                    yield
                finally:
                    fly.up()

        return cut

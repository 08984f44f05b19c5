"""The Fly backend passes the tests of every backend, on the fake Fly."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest

from dask_flame.backends import Backend, BackendContext
from dask_flame.backends.fly import FlyBackend
from dask_flame.backends.fly.api import client
from dask_flame.testing.conformance import BackendConformance
from tests.backends.fly.stage import connection_of
from tests.fakes.fly import FakeFly
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


class SoonGone(FlyBackend):
    """Machines that do not outlive a lost driver for long."""

    def __init__(self, context: BackendContext) -> None:
        super().__init__(replace(context, disconnect_grace=1.0))


def watchdogs() -> list[psutil.Process]:
    """Return the processes beside this one that end what is left after its death."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "dask_flame.backends.fly.watchdog" in child.cmdline():
                found.append(child)
    return found


class TestFly(BackendConformance):
    @pytest.fixture
    def factory(self, fly: FakeFly) -> Iterator[Any]:
        yield SoonGone
        # One that outlives its driver needs an answer of the fake's to end.
        wait_for(lambda: not watchdogs(), what="no watchdog is left")

    @pytest.fixture
    def driver(self) -> str:
        return "tests.backends.fly.test_conformance:SoonGone"

    @pytest.fixture
    def processes_here(self) -> bool:
        return True

    @pytest.fixture
    def outage(self, fly: FakeFly, monkeypatch: pytest.MonkeyPatch) -> Callable[[Backend], Any]:
        @contextlib.asynccontextmanager
        async def cut(backend: Any) -> AsyncIterator[None]:
            with monkeypatch.context() as patch:
                patch.setattr(client, "LIST_PATIENCE", 0.5)
                patch.setattr(connection_of(backend).api._transport, "patience", 0.5)
                fly.down()
                try:
                    yield
                finally:
                    fly.up()

        return cut

"""The Slurm backend passes the tests of every backend, on real daemons."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dask_flame.backends import Backend
from dask_flame.backends.slurm import SlurmBackend
from dask_flame.testing.conformance import BackendConformance
from tests.support.slurm_world import SlurmWorld

pytestmark = pytest.mark.process


class TestSlurm(BackendConformance):
    @pytest.fixture
    def factory(self, slurm: SlurmWorld) -> Any:
        return SlurmBackend

    @pytest.fixture
    def driver(self) -> str:
        return "dask_flame.backends.slurm:SlurmBackend"

    @pytest.fixture
    def processes_here(self) -> bool:
        return True

    @pytest.fixture
    def outage(self, slurm: SlurmWorld, monkeypatch: pytest.MonkeyPatch) -> Any:
        @contextlib.asynccontextmanager
        async def cut(backend: Backend) -> AsyncIterator[None]:
            with monkeypatch.context() as patch:
                patch.setenv("SLURM_CONF", slurm.unreachable())
                yield

        return cut

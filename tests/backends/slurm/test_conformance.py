"""The Slurm backend passes the tests of every backend, on real daemons."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dask_flame.backends import Backend
from dask_flame.backends.slurm import SlurmBackend
from dask_flame.backends.slurm import backend as slurm_backend
from dask_flame.testing.conformance import BackendConformance, Stage
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

    # What is ended by force ends with processes in other sessions only where Slurm has cgroups, as
    # it has not here.
    @pytest.mark.asyncio
    @pytest.mark.parametrize("grace", [10])
    async def test_a_runner_ends_with_what_its_calls_have_started(
        self, stage: Stage, processes_here: bool, grace: float
    ) -> None:
        await super().test_a_runner_ends_with_what_its_calls_have_started(
            stage, processes_here, grace
        )

    @pytest.fixture
    def outage(self, slurm: SlurmWorld, monkeypatch: pytest.MonkeyPatch) -> Any:
        @contextlib.asynccontextmanager
        async def cut(backend: Backend) -> AsyncIterator[None]:
            with monkeypatch.context() as patch:
                patch.setenv("SLURM_CONF", slurm.unreachable())
                patch.setattr(slurm_backend, "_CLOSE_WITHIN", 1.0)
                yield

        return cut

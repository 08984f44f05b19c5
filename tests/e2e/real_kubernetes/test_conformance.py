"""What every backend has to pass, passed by the Kubernetes backend."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from dask_flame.backends import BackendContext
from dask_flame.backends.kubernetes import KubernetesBackend, runner_pods
from dask_flame.testing.conformance import BackendConformance, Stage
from tests.e2e.real_kubernetes.ground import Ground

pytestmark = pytest.mark.process


class TestConformance(BackendConformance):
    @pytest.fixture
    def factory(self, ground: Ground) -> type[KubernetesBackend]:
        class OnTheGround(KubernetesBackend):
            def __init__(self, context: BackendContext) -> None:
                super().__init__(replace(context, cluster=f"{ground.token}-{context.cluster}"))

        return OnTheGround

    @pytest.fixture
    def driver(self, ground: Ground) -> str | None:
        on_the_fake = ground.fake is not None
        return "dask_flame.backends.kubernetes:KubernetesBackend" if on_the_fake else None

    @pytest.fixture
    def processes_here(self, ground: Ground) -> bool:
        return ground.fake is not None

    @pytest.fixture
    def outage(self, ground: Ground, monkeypatch: pytest.MonkeyPatch) -> Any:
        fake = ground.fake
        if fake is None:
            pytest.skip("a real API server is not taken away")

        @contextlib.asynccontextmanager
        async def outage(backend: Any) -> AsyncIterator[None]:
            backend._api._transport.patience = 1.0
            await asyncio.to_thread(fake.down)
            try:
                with monkeypatch.context() as patch:
                    # An end would wait for an answer for a minute.
                    patch.setattr(runner_pods, "_OVERDUE", 1.0)
                    patch.setattr(runner_pods, "_FORCED_WITHIN", 1.0)
                    yield
            finally:
                await asyncio.to_thread(fake.up)

        return outage

    @pytest.mark.asyncio
    async def test_a_shorter_grace_holds(
        self, stage: Stage, ground: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if ground.fake is not None:
            # The kubelet of the fake waits for the first grace: the pod is deleted by force.
            monkeypatch.setattr(runner_pods, "_OVERDUE", 1.0)
        await super().test_a_shorter_grace_holds(stage)

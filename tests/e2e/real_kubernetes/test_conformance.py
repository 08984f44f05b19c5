"""What every backend has to pass, passed by the Kubernetes backend."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from dask_flame.backends import BackendContext
from dask_flame.backends.kubernetes import KubernetesBackend
from dask_flame.testing.conformance import BackendConformance
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
    def outage(self, ground: Ground) -> Any:
        fake = ground.fake
        if fake is None:
            pytest.skip("a real API server is not taken away")

        @contextlib.asynccontextmanager
        async def outage(backend: Any) -> AsyncIterator[None]:
            backend._api.patience = 1.0
            await asyncio.to_thread(fake.down)
            try:
                yield
            finally:
                await asyncio.to_thread(fake.up)

        return outage

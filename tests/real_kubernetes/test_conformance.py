"""What every backend has to pass, passed by the Kubernetes backend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dask_flame.backends import BackendContext
from dask_flame.backends.kubernetes import KubernetesBackend
from dask_flame.testing.conformance import BackendConformance
from real_kubernetes.ground import Ground


class TestConformance(BackendConformance):
    @pytest.fixture
    def factory(self, ground: Ground) -> Any:
        def made(context: BackendContext) -> KubernetesBackend:
            return KubernetesBackend(replace(context, cluster=f"{ground.token}-{context.cluster}"))

        return made

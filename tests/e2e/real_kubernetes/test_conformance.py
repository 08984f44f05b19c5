"""What every backend has to pass, passed by the Kubernetes backend."""

from __future__ import annotations

from typing import Any

import pytest

from dask_flame.backends.kubernetes import KubernetesBackend
from dask_flame.testing.conformance import BackendConformance
from tests.e2e.real_kubernetes.ground import Ground

pytestmark = pytest.mark.process


class TestConformance(BackendConformance):
    @pytest.fixture
    def factory(self, ground: Ground) -> Any:
        return lambda owner, ended: KubernetesBackend(f"{ground.token}-{owner}", ended)

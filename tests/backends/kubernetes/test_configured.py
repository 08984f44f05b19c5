"""Settings of the configuration reach what is sent: for one pool and several, in both places."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

from dask_flame import FlameCluster, Pool
from dask_flame.backends.kubernetes import KubernetesBackend
from dask_flame.errors import PoolError
from tests.backends.kubernetes.test_backend import Start, kubernetes
from tests.fakes.kubernetes import FakeKubernetes
from tests.fakes.kubernetes.access import EVERYTHING
from tests.support.paths import free_port

pytestmark = pytest.mark.process

__all__ = ["kubernetes"]

PORT, PAGE = free_port(), free_port()
CONFIGURED: dict[str, Any] = {
    "flame.kubernetes.image": "configured/image:7",
    "flame.kubernetes.read-only-root": True,
    "flame.kubernetes.gpu-kinds": {"t4": {"node-selector": {"gpu": "t4"}}},
    "flame.kubernetes.gpu-label": "example.org/gpu",
    "flame.kubernetes.network-policy": False,
    "flame.kubernetes.pod-template": {"metadata": {"labels": {"team": "vision"}}},
    "flame.scheduler.cpus": 0.25,
    "flame.scheduler.memory": "300 MiB",
    "flame.scheduler.port": PORT,
    "flame.scheduler.dashboard-port": PAGE,
    "flame.scheduler.pod-template": {"spec": {"hostname": "boss"}},
    "flame.home.limit": "3 GiB",
}


@pytest.fixture
def fake(kubernetes: Start) -> FakeKubernetes:
    made = kubernetes()
    made.grant("driver", EVERYTHING)
    return made


@pytest.fixture(params=["driver", "pod"])
def where(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def _configured() -> Iterator[None]:
    with dask.config.set(CONFIGURED):
        yield


def named(pod: dict[str, Any], name: str = "worker") -> dict[str, Any]:
    (container,) = [c for c in pod["spec"]["containers"] if c["name"] == name]
    return dict(container)


def make(where: str, *, several: bool = False, **more: Any) -> FlameCluster:
    gpus = {"t4": {"gpu_kind": "t4"}, "other": {"gpu_kind": "L4"}}
    options: dict[str, Any] = {"max": 1, "gpus": 1, **gpus["t4"]}
    if several:
        options = {"pools": {name: Pool(max=1, gpus=1, **own) for name, own in gpus.items()}}
    options = {"dashboard_address": None, **options, **more}
    return FlameCluster(backend=KubernetesBackend, scheduler=where, **options)


def runners(cluster: FlameCluster) -> dict[str, dict[str, Any]]:
    """The pods that would be sent, by pool."""
    found = [item for item in cluster.manifest() if item["kind"] == "Pod"]
    return {pod["metadata"]["labels"]["dask-flame/pool"]: dict(pod) for pod in found}


@pytest.mark.usefixtures("_configured")
@pytest.mark.parametrize("several", [False, True])
def test_settings_reach_the_pods_of_runners(
    fake: FakeKubernetes, where: str, several: bool
) -> None:
    with make(where, several=several) as cluster:
        sent = runners(cluster)
        assert set(sent) == ({"t4", "other"} if several else {"default"})
        for pod in sent.values():
            assert named(pod)["image"] == "configured/image:7"
            assert named(pod)["securityContext"]["readOnlyRootFilesystem"] is True
            assert pod["metadata"]["labels"]["team"] == "vision"
        first = sent["t4" if several else "default"]
        assert first["spec"]["nodeSelector"] == {"gpu": "t4"}
        if several:
            assert sent["other"]["spec"]["nodeSelector"] == {"example.org/gpu": "L4"}
        assert "NetworkPolicy" not in {item["kind"] for item in cluster.manifest()}
        assert cluster.home_limit == 3 << 30


@pytest.mark.usefixtures("_configured")
def test_settings_reach_the_watchdogs_pod(fake: FakeKubernetes) -> None:
    with make("driver") as cluster:
        (job,) = [item for item in cluster.manifest() if item["kind"] == "Job"]
        pod = job["spec"]["template"]
        assert named(pod)["image"] == "configured/image:7"
        assert named(pod)["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod["metadata"]["labels"]["team"] == "vision"


@pytest.mark.usefixtures("_configured")
def test_settings_reach_the_schedulers_pod(fake: FakeKubernetes) -> None:
    with make("pod") as cluster:
        (job,) = fake.objects("jobs")
        pod = job["spec"]["template"]
        container = named(pod, "scheduler")
        assert container["image"] == "configured/image:7"
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["resources"]["limits"] == {"cpu": "250m", "memory": "300Mi"}
        assert pod["metadata"]["labels"]["team"] == "vision"
        assert pod["spec"]["hostname"] == "boss"
        (secret,) = [s for s in fake.objects("secrets") if "connection" in s["data"]]
        info = json.loads(base64.b64decode(secret["data"]["connection"]))
        assert (info["port"], info["dashboard_port"]) == (PORT, PAGE)
        assert cluster.status.name == "running"


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("flame.kubernetes.pod-template", {"kind": "Deployment"}, "its kind is Deployment"),
        ("flame.scheduler.pod-template", {"kind": "Deployment"}, "its kind is Deployment"),
        ("flame.kubernetes.pod-template", "no/such.yaml", "a file that is there"),
        (
            "flame.scheduler.pod-template",
            {"metadata": {"labels": {"dask.org/component": "worker"}}},
            "dask-flame sets itself",
        ),
    ],
)
def test_templates_that_are_none_are_refused_at_once(
    fake: FakeKubernetes, setting: str, value: Any, says: str
) -> None:
    with dask.config.set({setting: value}), pytest.raises(PoolError, match=says) as error:
        make("driver")
    assert f'write dask.config.set({{"{setting}": ' in str(error.value)


def test_a_template_of_the_configuration_may_be_a_file(
    fake: FakeKubernetes, tmp_path: Path
) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text("spec:\n  priorityClassName: research\n")
    with dask.config.set({"flame.kubernetes.pod-template": str(file)}), make("driver") as cluster:
        file.unlink()  # it is read once
        assert runners(cluster)["default"]["spec"]["priorityClassName"] == "research"

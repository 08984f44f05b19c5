"""The API server takes what is made of every option, read strictly, in a restricted namespace."""

from __future__ import annotations

from typing import Any

import pytest

from dask_flame import Pool
from tests.e2e.real_kubernetes.asking import Refused
from tests.e2e.real_kubernetes.ground import Ground

pytestmark = pytest.mark.process

_POD: dict[str, Any] = {
    "metadata": {"labels": {"a": "b"}},
    "spec": {
        "containers": [{"name": "helper", "image": "helper:1", "args": ["x"]}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/managed-by": "dask-flame"}},
            }
        ],
    },
}
_HARD = {
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "fraction": {"cpus": "250m", "memory": "300 MiB"},
    "resources": {"cpus": 2, "memory": "1.5 GiB", "shm_size": "64 MiB"},
    "gpu": {"cpus": 4, "memory": "16 GiB", "gpus": 2, "gpu_kind": "NVIDIA-A100-SXM4-40GB"},
    "mig": {"gpus": 1, "gpu_resource": "nvidia.com/mig-1g.10gb"},
    "amd": {"gpus": 1, "gpu_resource": "amd.com/gpu"},
    "nodes": {
        "node_selector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [
            {"key": "a", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "b", "operator": "Equal", "value": "c"},
        ],
        "spot": True,
    },
    "images": {
        "image": "ghcr.io/me/train@sha256:" + "0" * 64,
        "image_pull_secrets": ["one", "two"],
        "service_account": "default",
    },
    "volumes": {
        "volumes": {
            "/data": "a-claim",
            "/scratch": {"emptyDir": {"sizeLimit": "1Gi"}},
            "/config": {"configMap": {"name": "config"}, "readOnly": True},
        }
    },
    "env": {
        "env": {"A": "b", "WITH_DOLLAR": "$(A)"},
        "secrets": {"TOKEN": "xyzzy", "OTHER": {"name": "secret", "key": "key"}},
    },
    "named": {"labels": {"team": "science"}, "annotations": {"note": "ü" * 300}},
    "template": {
        "pod_template": {
            **_POD,
            "spec": {
                **_POD["spec"],
                "containers": [{"name": "worker"}, {**_POD["spec"]["containers"][0], **_HARD}],
            },
        }
    },
    "function": {"pod_template": lambda pod: {**pod, "spec": {**pod["spec"], "hostname": "h"}}},
    "slow-to-go": {"shutdown_timeout": "10m", "idle_timeout": "1h", "concurrency": 8},
}


def _sent(cluster: Any, options: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What would be sent for a runner of a pool with each of these options."""
    pools = {f"Pool-{name}": Pool(max=1, **given) for name, given in options.items()}
    flame, _ = cluster(max=None, pools=pools)
    specs = flame.specs({f"Pool-{name}-1": "" for name in options})
    return {name: flame.backend.manifest(s) for name, s in zip(options, specs, strict=True)}


def test_what_comes_of_options(ground: Ground, cluster: Any) -> None:
    refused = {}
    for name, manifests in _sent(cluster, OPTIONS).items():
        assert manifests
        for manifest in manifests:
            try:
                ground.ask.create(manifest, dryRun="All", fieldValidation="Strict")
            except Refused as error:
                refused[name] = str(error)
    assert refused == {}


def test_what_is_not_restricted_is_refused(ground: Ground, cluster: Any) -> None:
    sent = _sent(cluster, {"bold": {"pod_template": {"spec": {"hostNetwork": True}}}})
    pod = next(item for item in sent["bold"] if item["kind"] == "Pod")
    with pytest.raises(Refused, match=r"violates PodSecurity \"restricted"):
        ground.ask.create(pod, dryRun="All", fieldValidation="Strict")

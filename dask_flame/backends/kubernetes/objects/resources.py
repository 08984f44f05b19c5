"""Translate a pool's options into fields of a pod; pure (driver)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from dask_flame.backends.kubernetes.objects.context import ObjectContext
from dask_flame.backends.kubernetes.objects.quantities import cpu_quantity, memory_quantity
from dask_flame.backends.kubernetes.options import KubernetesOptions
from dask_flame.backends.kubernetes.pod_template import CONTAINER as CONTAINER
from dask_flame.backends.specs import RunnerSpec

#: Folder and file of a runner's launch configuration.
LAUNCH_FOLDER = "/etc/dask-flame"
LAUNCH_FILE = "launch.json"
#: The writable folder of a runner, deleted with its pod.
SCRATCH = "/var/run/dask-flame"

_GPU = "nvidia.com/gpu"
#: Labels, and taints, of nodes that a cloud may reclaim.
#: GKE: cloud.google.com/kubernetes-engine/docs/concepts/spot-vms. EKS: docs.aws.amazon.com/eks,
#: "Managed node groups". AKS: learn.microsoft.com/azure/aks/spot-node-pool. Karpenter:
#: karpenter.sh/docs/concepts/scheduling.
_SPOT = {
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "kubernetes.azure.com/scalesetpriority": "spot",
    "karpenter.sh/capacity-type": "spot",
}


def asked_for(
    spec: RunnerSpec, options: KubernetesOptions, site: ObjectContext, launch_secret: str
) -> dict[str, Any]:
    """Return the fields of a pod for the options of a pool.

    Parameters
    ----------
    spec : RunnerSpec
    options : PodOptions
        Options of the runner's pool.
    site : ObjectContext
    launch_secret : str
        Name of the Secret with the launch configuration and the variables.
    """
    container: dict[str, Any] = {"name": CONTAINER, "env": [], "volumeMounts": []}
    asked: dict[str, Any] = {"containers": [container], "volumes": [], "tolerations": []}
    if options.image is not None:
        container["image"] = options.image
    amounts: dict[str, str] = {}
    if spec.cpus is not None:
        amounts["cpu"] = cpu_quantity(spec.cpus)
    if spec.memory is not None:
        amounts["memory"] = memory_quantity(spec.memory)
    if spec.gpus:
        _ask_for_gpus(asked, amounts, spec.gpus, options, site)
    if amounts:
        container["resources"] = {"limits": amounts, "requests": dict(amounts)}
    if options.shm_size is not None or spec.gpus:
        memory: dict[str, Any] = {"medium": "Memory"}
        if options.shm_size is not None:
            memory["sizeLimit"] = memory_quantity(options.shm_size)
        asked["volumes"].append({"name": "dask-flame-shm", "emptyDir": memory})
        container["volumeMounts"].append({"name": "dask-flame-shm", "mountPath": "/dev/shm"})
    if options.read_only_root:
        container["securityContext"] = {"readOnlyRootFilesystem": True}
        container["workingDir"] = SCRATCH  # calls write to relative paths
        if "/tmp" not in (options.volumes or {}):
            asked["volumes"].append({"name": "dask-flame-tmp", "emptyDir": {}})
            container["volumeMounts"].append({"name": "dask-flame-tmp", "mountPath": "/tmp"})
    for number, (path, source) in enumerate((options.volumes or {}).items()):
        name = f"dask-flame-volume-{number}"
        beside = {key: source[key] for key in ("readOnly", "subPath") if key in source}
        what = {key: value for key, value in source.items() if key not in beside}
        asked["volumes"].append({"name": name, **what})
        container["volumeMounts"].append({"name": name, "mountPath": path, **beside})
    for name, value in variables(spec).items():
        inside = {"name": launch_secret, "key": secret_key(name)}
        where = inside if isinstance(value, str) else dict(value)
        container["env"].append({"name": name, "valueFrom": {"secretKeyRef": where}})
    if options.node_selector is not None:
        asked["nodeSelector"] = {**asked.get("nodeSelector", {}), **options.node_selector}
    asked["tolerations"] += [dict(t) for t in options.tolerations or ()]
    if options.spot:
        _ask_for_spot(asked)
    for name, key in (
        ("priority_class", "priorityClassName"),
        ("runtime_class", "runtimeClassName"),
        ("service_account", "serviceAccountName"),
    ):
        if (value := getattr(options, name)) is not None:
            asked[key] = value
    if options.image_pull_secrets is not None:
        asked["imagePullSecrets"] = [{"name": name} for name in options.image_pull_secrets]
    metadata = {"labels": options.labels or {}, "annotations": options.annotations or {}}
    return {"metadata": metadata, "spec": {k: v for k, v in asked.items() if v != []}}


def variables(spec: RunnerSpec) -> dict[str, str | Mapping[str, str]]:
    """Return a pool's variables, all of which may be secret: see :func:`secret`."""
    return {**spec.env, **spec.secrets}


def _ask_for_gpus(
    asked: dict[str, Any],
    amounts: dict[str, str],
    gpus: int,
    options: KubernetesOptions,
    site: ObjectContext,
) -> None:
    kind: Mapping[str, Any] = {}
    if options.gpu_kind is not None:
        kind = site.gpu_kinds.get(options.gpu_kind) or {
            "node-selector": {site.gpu_label: options.gpu_kind}
        }
    resource = options.gpu_resource or kind.get("resource") or _GPU
    amounts[resource] = str(gpus)
    if selector := kind.get("node-selector"):
        asked["nodeSelector"] = dict(selector)
    asked["tolerations"] += [dict(t) for t in kind.get("tolerations", ())]
    # Clouds keep other pods off their GPU nodes by a taint with the resource's name. Kubernetes'
    # ExtendedResourceToleration may add the same toleration again, which does no harm.
    asked["tolerations"].append({"key": resource, "operator": "Exists", "effect": "NoSchedule"})


def _ask_for_spot(asked: dict[str, Any]) -> None:
    # The terms are alternatives, one for each cloud.
    terms = [
        {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}
        for key, value in _SPOT.items()
    ]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    asked["affinity"] = {"nodeAffinity": required}
    asked["tolerations"] += [
        {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
        for key, value in _SPOT.items()
    ]


def plain(name: str, value: str) -> dict[str, Any]:
    # Escaped, because Kubernetes expands "$(NAME)".
    return {"name": name, "value": value.replace("$", "$$")}


def secret_key(name: str) -> str:
    """Return the key of a variable in a Secret: its name, unless no key may be like it.

    A key is the name of a file, so it must be no path out of the folder.
    """
    fits = re.fullmatch(r"(?!\.\.|\.$)[-._a-zA-Z0-9]{1,253}", name)
    if fits is not None and name != LAUNCH_FILE:
        return name
    return f"variable-{hashlib.sha256(name.encode()).hexdigest()[:16]}"

"""What is sent to Kubernetes: a runner's pod, and what it is told; pure (driver)."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from dask_kubernetes.operator import make_worker_spec

from dask_flame.backends.base import RunnerSpec
from dask_flame.backends.kubernetes.merging import merge
from dask_flame.errors import PoolError
from dask_flame.pods import OURS, PodOptions

#: The container of a pod that is the runner, as dask-kubernetes calls it.
CONTAINER = "worker"
#: Where a runner finds its orders, and the file of them.
ORDERS = "/etc/dask-flame"
ORDERS_FILE = "orders.json"
#: Where a runner may write; it goes with the pod.
SCRATCH = "/var/run/dask-flame"
#: Labels of all that a cluster makes.
MANAGED = {"app.kubernetes.io/managed-by": "dask-flame"}
#: Seconds beyond `shutdown_timeout` for a runner's results to leave it.
SEE_OFF = 10

_GPU = "nvidia.com/gpu"
_USER = 1000
#: The labels by which clouds mark nodes that they may take away, and the taints they put on them.
#: GKE: cloud.google.com/kubernetes-engine/docs/concepts/spot-vms. EKS: docs.aws.amazon.com/eks,
#: "Managed node groups". AKS: learn.microsoft.com/azure/aks/spot-node-pool. Karpenter:
#: karpenter.sh/docs/concepts/scheduling.
_SPOT = {
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "kubernetes.azure.com/scalesetpriority": "spot",
    "karpenter.sh/capacity-type": "spot",
}


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a cluster's pods go, and what they have in common.

    Attributes
    ----------
    cluster : str
        The cluster's name.
    namespace : str
    image : str or None
        Of pods that name none.
    owner : mapping or None
        The owner reference of all that is made: what Kubernetes deletes it with.
    keeper : int
        How many keepers there have been, with the one that is there.
    nodes : mapping
        The fields of the driver's pod that say which nodes it may be on.
    pull_secrets : sequence of str
        Names of Secrets to pull `image` with.
    user, group : int
        Whom containers run as, where neither an option nor the template says so.
    gpu_kinds : mapping
        By kind: ``node-selector``, ``tolerations`` and ``resource``.
    gpu_label : str
        The node label that says which GPU a node has, for other kinds.
    """

    cluster: str
    namespace: str
    image: str | None = None
    owner: Mapping[str, Any] | None = None
    keeper: int = 0
    nodes: Mapping[str, Any] = field(default_factory=dict)
    pull_secrets: Sequence[str] = ()
    user: int = _USER
    group: int = _USER
    gpu_kinds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gpu_label: str = "nvidia.com/gpu.product"


def object_name(*parts: str) -> str:
    """A name for an object, such as Kubernetes takes: another one for other parts.

    Examples
    --------
    >>> object_name("my-cluster", "runner-1")
    'flame-my-cluster-runner-1'
    """
    plain = "-".join(("flame", *parts))
    lower = re.sub(r"[^a-z0-9-]+", "-", plain.lower()).strip("-")
    if lower == plain and len(plain) <= 63:
        return plain
    return f"{lower[:52].rstrip('-')}-{hashlib.sha256(plain.encode()).hexdigest()[:10]}"


def labels(site: Site, component: str, **more: str) -> dict[str, str]:
    """The labels of an object of a cluster; `more` are dask-flame's own."""
    return {
        **MANAGED,
        "dask.org/cluster-name": site.cluster,
        "dask.org/component": component,
        **{f"dask-flame/{key}": value for key, value in more.items()},
    }


def secret(site: Site, orders: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    """A Secret with what runners are told, and with variables of theirs.

    Its name is another one for other contents, as it cannot be changed, and for another keeper:
    what the one before owned may be about to be deleted.
    """
    contents = {
        ORDERS_FILE: json.dumps(orders, sort_keys=True),
        **{name: v for name, v in variables.items() if isinstance(v, str) and _fits(name)},
    }
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:10]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(
            site, object_name(site.cluster, "orders", str(site.keeper), digest), "orders"
        ),
        "type": "Opaque",
        "immutable": True,
        "stringData": contents,
    }


def keeper(site: Site, options: PodOptions, host: str, port: int, grace: float) -> dict[str, Any]:
    """The Job that owns all that a driver in the cluster makes, see :mod:`dask_flame.keeper`.

    Its pod is as safe as a runner's, and small. It has the driver's image and may be on the
    driver's nodes, whatever the pools say.

    Parameters
    ----------
    site : Site
        Its owner becomes the Job's.
    options : PodOptions
        Of a pool; for the image where `site` has none.
    host, port, grace
        What the keeper is told.
    """
    given = {"image": site.image or options.image, "service_account": options.service_account}
    spec = RunnerSpec(name="keeper", scheduler="", concurrency=1, boot_timeout=0)
    made = pod(spec, PodOptions(**given), site, {}, "none")["spec"]
    (container,) = made["containers"]
    container["args"] = ["python", "-m", "dask_flame.keeper", host, str(port), f"{grace:g}"]
    container["resources"] = {
        "requests": {"cpu": "10m", "memory": "32Mi"},
        "limits": {"cpu": "500m", "memory": "128Mi"},
    }
    del container["env"], container["volumeMounts"], made["volumes"]
    made |= {**site.nodes, "terminationGracePeriodSeconds": 1}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(
            site, object_name(site.cluster, "keeper", str(site.keeper)), "keeper"
        ),
        "spec": {
            "ttlSecondsAfterFinished": 0,
            # A keeper that is evicted, or crashes, is not the driver's end.
            "backoffLimit": 20,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    }
                ]
            },
            "template": {"metadata": {"labels": labels(site, "keeper")}, "spec": made},
        },
    }


def pod(
    spec: RunnerSpec, options: PodOptions, site: Site, environment: Mapping[str, str], orders: str
) -> dict[str, Any]:
    """The pod of a runner.

    Defaults, then ``pod_template`` where it is a mapping or a file, then the pool's options are
    laid over each other, see :func:`merge`; a template that is a function has the result. What
    makes a pod a runner of this cluster is set at the end.

    Parameters
    ----------
    spec : RunnerSpec
    options : PodOptions
        Of the runner's pool.
    site : Site
    environment : mapping of str to str
        Variables that are usual for runners; the template's and the pool's come before them.
    orders : str
        Name of the Secret that its orders are in.

    Raises
    ------
    PoolError
        If there is no image, or what the template gives is not a pod.
    """
    template = options.pod_template
    built = merge(_defaults(site), {"spec": {"containers": [_container(environment)]}})
    if template is not None and not callable(template):
        built = merge(built, _read(template))
    built = merge(built, _asked(spec, options, site, orders))
    if template is not None and callable(template):
        made = template(copy.deepcopy(built))
        if not isinstance(made, Mapping):
            raise _no_pod(f"the function returned a {type(made).__name__}")
        built = merge({}, made)
    return _ours(built, spec, options, site, orders)


def _defaults(site: Site) -> dict[str, Any]:
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    # dask-kubernetes' own, so that its users find what they know.
    spec: dict[str, Any] = make_worker_spec(image=site.image, n_workers=1, env=[])["spec"]
    (container,) = spec["containers"]
    # No page of a single worker: the dashboard is the scheduler's.
    del container["ports"], container["resources"], container["env"], container["args"]
    container["securityContext"] = security
    if site.image is None:
        del container["image"]
    if site.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in site.pull_secrets]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {},
        "spec": {
            **spec,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            # The pause process is its PID 1, which takes leave of what calls leave behind, and the
            # runner is one that signals end as usual.
            "shareProcessNamespace": True,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": site.user,
                "runAsGroup": site.group,
                "fsGroup": site.group,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        },
    }


def _container(environment: Mapping[str, str]) -> dict[str, Any]:
    return {"name": CONTAINER, "env": [_plain(k, v) for k, v in environment.items()]}


def _plain(name: str, value: str) -> dict[str, Any]:
    # Or else Kubernetes would put other variables in the place of "$(NAME)".
    return {"name": name, "value": value.replace("$", "$$")}


def _fits(name: str) -> bool:
    """Whether a variable's name may be a key of a Secret."""
    return re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", name) is not None and name != ORDERS_FILE


def _read(template: Any) -> dict[str, Any]:
    """A template that is a mapping, or a file of one."""
    if isinstance(template, Mapping):
        given: Any = template
    else:
        try:
            given = yaml.safe_load(Path(template).read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise PoolError(f"pod_template={str(template)!r} cannot be read: {error}") from None
    if not isinstance(given, Mapping) or not isinstance(given.get("spec", {}), Mapping):
        raise _no_pod(f"it is a {type(given).__name__}")
    if given.get("kind", "Pod") != "Pod":
        raise _no_pod(f"its kind is {given['kind']}")
    pod = merge({}, given)
    containers = pod.get("spec", {}).get("containers")
    if containers is not None:
        if not isinstance(containers, list) or not all(isinstance(c, dict) for c in containers):
            raise _no_pod("its containers are not a list of mappings")
        # The one without a name, or the only one, is the runner.
        if not any(c.get("name") == CONTAINER for c in containers):
            plain = [c for c in containers if "name" not in c] or containers[:1]
            if len(containers) == 1 or "name" not in plain[0]:
                plain[0]["name"] = CONTAINER
    return pod


def _no_pod(why: str) -> PoolError:
    return PoolError(
        f"pod_template is not a pod: {why}; write "
        'pod_template={"spec": {"nodeSelector": {"disk": "ssd"}}}'
    )


def _asked(spec: RunnerSpec, options: PodOptions, site: Site, orders: str) -> dict[str, Any]:
    """What the options of the pool say."""
    container: dict[str, Any] = {"name": CONTAINER, "env": [], "volumeMounts": []}
    asked: dict[str, Any] = {"containers": [container], "volumes": [], "tolerations": []}
    if options.image is not None:
        container["image"] = options.image
    amounts: dict[str, str] = {}
    if spec.cpus is not None:
        amounts["cpu"] = str(spec.cpus)
    if spec.memory is not None:
        amounts["memory"] = str(spec.memory)
    if spec.gpus:
        _ask_for_gpus(asked, amounts, spec.gpus, options, site)
    if amounts:
        container["resources"] = {"limits": amounts, "requests": dict(amounts)}
    if options.shm_size is not None or spec.gpus:
        memory: dict[str, Any] = {"medium": "Memory"}
        if options.shm_size is not None:
            memory["sizeLimit"] = str(options.shm_size)
        asked["volumes"].append({"name": "dask-flame-shm", "emptyDir": memory})
        container["volumeMounts"].append({"name": "dask-flame-shm", "mountPath": "/dev/shm"})
    for number, (path, source) in enumerate((options.volumes or {}).items()):
        name = f"dask-flame-volume-{number}"
        beside = {key: source[key] for key in ("readOnly", "subPath") if key in source}
        what = {key: value for key, value in source.items() if key not in beside}
        asked["volumes"].append({"name": name, **what})
        container["volumeMounts"].append({"name": name, "mountPath": path, **beside})
    for key, value in variables(spec, options).items():
        if isinstance(value, str) and not _fits(key):
            container["env"].append(_plain(key, value))
        else:
            where = {"name": orders, "key": key} if isinstance(value, str) else dict(value)
            container["env"].append({"name": key, "valueFrom": {"secretKeyRef": where}})
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


def variables(spec: RunnerSpec, options: PodOptions) -> dict[str, Any]:
    """The variables that a pool gives, all of which may be secret: see :func:`secret`."""
    return {**spec.env, **(options.secrets or {})}


def _ask_for_gpus(
    asked: dict[str, Any], amounts: dict[str, str], gpus: int, options: PodOptions, site: Site
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
    # Clouds keep others off their GPU nodes by a taint of the resource's name; where Kubernetes'
    # ExtendedResourceToleration adds the same, twice is as good as once.
    asked["tolerations"].append({"key": resource, "operator": "Exists", "effect": "NoSchedule"})


def _ask_for_spot(asked: dict[str, Any]) -> None:
    # Terms are alternatives: whichever cloud it is.
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


def _ours(
    built: dict[str, Any], spec: RunnerSpec, options: PodOptions, site: Site, orders: str
) -> dict[str, Any]:
    """The pod with what makes it a runner of this cluster, whatever was asked for."""
    containers = built.get("spec", {}).get("containers") or []
    container = next((c for c in containers if c.get("name") == CONTAINER), None)
    if container is None:
        raise _no_pod(f"it has no container {CONTAINER!r}")
    if not container.get("image"):
        raise PoolError(
            "a pod needs an image: this driver is not in a pod whose image it could take; write "
            'image="ghcr.io/me/runner:1.0", with Python, dask-flame and what your calls import'
        )
    metadata = built.setdefault("metadata", {})
    own = {k: v for k, v in (metadata.get("labels") or {}).items() if not k.startswith(OURS)}
    more = _metadata(
        site, object_name(site.cluster, spec.name), "worker", pool=spec.pool, runner=spec.name
    )
    built["metadata"] = {
        **{k: v for k, v in metadata.items() if k in ("annotations", "finalizers") and v},
        **more,
        "labels": {**own, **more["labels"]},
    }
    built["spec"]["restartPolicy"] = "Never"
    built["spec"]["terminationGracePeriodSeconds"] = math.ceil(spec.shutdown_timeout) + SEE_OFF
    container["args"] = ["python", "-m", "dask_flame.runner.pod", f"{ORDERS}/{ORDERS_FILE}"]
    ours: dict[str, list[dict[str, Any]]] = {
        "volumes": [
            {
                "name": "dask-flame-orders",
                "secret": {
                    "secretName": orders,
                    "items": [{"key": ORDERS_FILE, "path": ORDERS_FILE}],
                },
            },
            {"name": "dask-flame-scratch", "emptyDir": {}},
        ],
    }
    mine: dict[str, list[dict[str, Any]]] = {
        "env": [
            {"name": "DASK_WORKER_NAME", "value": spec.name},
            {
                "name": "DASK_FLAME_POD_IP",
                "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
            },
            {"name": "TMPDIR", "value": SCRATCH},
        ],
        "volumeMounts": [
            {"name": "dask-flame-orders", "mountPath": ORDERS, "readOnly": True},
            {"name": "dask-flame-scratch", "mountPath": SCRATCH},
        ],
    }
    for name, items in ours.items():
        built["spec"][name] = merge({name: built["spec"].get(name) or []}, {name: items})[name]
    for name, items in mine.items():
        container[name] = merge({name: container.get(name) or []}, {name: items})[name]
    return built


def _metadata(site: Site, name: str, component: str, **more: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": site.namespace,
        "labels": labels(site, component, **more),
    }
    if site.owner is not None:
        metadata["ownerReferences"] = [dict(site.owner)]
    return metadata

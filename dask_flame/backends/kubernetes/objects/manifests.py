"""What is sent to Kubernetes: a runner's pod, and what it is told; pure (driver)."""

from __future__ import annotations

import copy
import hashlib
import ipaddress
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from dask_kubernetes.operator import make_worker_spec

from dask_flame.backends.base import RunnerSpec, SchedulerSpec
from dask_flame.backends.kubernetes.objects.context import (
    ObjectContext,
    labels,
    metadata,
    object_name,
)
from dask_flame.backends.kubernetes.objects.merge import merge
from dask_flame.backends.kubernetes.objects.pod_status import SCHEDULER
from dask_flame.backends.kubernetes.objects.quantities import cpu_quantity, memory_quantity
from dask_flame.backends.kubernetes.objects.resources import (
    CONTAINER,
    ORDERS,
    ORDERS_FILE,
    asked_for,
    fits,
    plain,
)
from dask_flame.backends.kubernetes.options import OURS, KubernetesOptions
from dask_flame.errors import PoolError

#: Where a runner may write; it goes with the pod.
SCRATCH = "/var/run/dask-flame"
#: Seconds beyond `shutdown_timeout` for a runner's results to leave it.
SEE_OFF = 10


def secret(
    site: ObjectContext, orders: Mapping[str, Any], variables: Mapping[str, Any]
) -> dict[str, Any]:
    """A Secret with what runners are told, and with variables of theirs.

    Its name is another one for other contents, as it cannot be changed, and for another keeper:
    what the one before owned may be about to be deleted.
    """
    contents = {
        ORDERS_FILE: json.dumps(orders, sort_keys=True),
        **{name: v for name, v in variables.items() if isinstance(v, str) and fits(name)},
    }
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:10]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(
            site, object_name(site.cluster, "orders", str(site.keeper), digest), "orders"
        ),
        "type": "Opaque",
        "immutable": True,
        "stringData": contents,
    }


def keeper(
    site: ObjectContext, options: KubernetesOptions, host: str, port: int, grace: float
) -> dict[str, Any]:
    """Return the Job that owns all that a driver in the cluster makes.

    It runs :mod:`dask_flame.backends.kubernetes.watchdog`.

    Its pod is as safe as a runner's, and small. It has the driver's image and may be on the
    driver's nodes, whatever the pools say.

    Parameters
    ----------
    site : ObjectContext
        Its owner becomes the Job's.
    options : KubernetesOptions
        Of a pool; for the image where `site` has none.
    host, port, grace
        What the keeper is told.
    """
    given = {"image": site.image or options.image, "service_account": options.service_account}
    spec = RunnerSpec(name="keeper", scheduler="", concurrency=1, boot_timeout=0)
    made = pod(spec, KubernetesOptions(**given), replace(site, template=None), {}, "none")["spec"]
    (container,) = made["containers"]
    module = "dask_flame.backends.kubernetes.watchdog"
    container["args"] = ["python", "-m", module, host, str(port), f"{grace:g}"]
    container["resources"] = {
        "requests": {"cpu": "10m", "memory": "32Mi"},
        "limits": {"cpu": "500m", "memory": "128Mi"},
    }
    del container["env"], container["volumeMounts"], made["volumes"]
    made |= {**site.nodes, "terminationGracePeriodSeconds": 1}
    # A keeper that is evicted, or crashes, is not the driver's end.
    ignored = {"type": "DisruptionTarget", "status": "True"}
    rules = {"rules": [{"action": "Ignore", "onPodConditions": [ignored]}]}
    name = object_name(site.cluster, "keeper", str(site.keeper))
    return _job(site, name, "keeper", made, backoffLimit=20, podFailurePolicy=rules)


def scheduler(
    site: ObjectContext,
    spec: SchedulerSpec,
    options: KubernetesOptions,
    orders: str,
    *,
    deadline: int,
) -> dict[str, Any]:
    """The Job of a scheduler apart from its driver, see :mod:`dask_flame.remote`; it owns all else.

    Its pod has no GPU, and none of what the pool asks of its own nodes.

    Parameters
    ----------
    site : ObjectContext
    spec : SchedulerSpec
    options : KubernetesOptions
        Of the first pool: for the image where `site` has none, and for what it is pulled with.
    orders : str
        Name of the Secret with its orders, which is made after the Job.
    deadline : int
        Seconds that the Job may last, unless the driver moves or lifts that.
    """
    given = {
        "image": site.image or options.image,
        "service_account": options.service_account,
        "image_pull_secrets": options.image_pull_secrets,
        "pod_template": spec.template,
        # What scales a cluster down must not take the pod that all others need.
        "annotations": {
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            "karpenter.sh/do-not-disrupt": "true",
        },
    }
    runner = RunnerSpec(name="scheduler", scheduler="", concurrency=1, boot_timeout=0)
    built = pod(runner, KubernetesOptions(**given), replace(site, template=None), {}, orders)
    made = built["spec"]
    container = next(c for c in made["containers"] if c["name"] == CONTAINER)
    container["name"] = SCHEDULER
    container["args"] = ["python", "-m", "dask_flame.remote.server", f"{ORDERS}/{ORDERS_FILE}"]
    container["env"] = [item for item in container["env"] if item["name"] != "DASK_WORKER_NAME"]
    amounts = {"cpu": cpu_quantity(spec.cpus), "memory": memory_quantity(spec.memory)}
    container["resources"] = {"requests": amounts, "limits": dict(amounts)}
    for volume in made["volumes"]:
        if "secret" in volume:
            # A driver may die between the two; the pod ends then by itself.
            volume["secret"]["optional"] = True
    made |= {**site.nodes, "terminationGracePeriodSeconds": SEE_OFF}
    return _job(
        site,
        object_name(site.cluster, "scheduler"),
        "scheduler",
        made,
        annotations=built["metadata"]["annotations"],
        activeDeadlineSeconds=deadline,
        backoffLimit=0,
    )


def service(site: ObjectContext, kind: str, port: int) -> dict[str, Any]:
    """The Service of this type by which drivers elsewhere reach a scheduler apart."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(site, object_name(site.cluster, "scheduler"), "scheduler"),
        "spec": {
            "type": kind,
            "selector": _of_scheduler(site),
            "ports": [{"name": "tls", "protocol": "TCP", "port": port, "targetPort": port}],
        },
    }


def open_port(site: ObjectContext, port: int) -> dict[str, Any]:
    """A NetworkPolicy that lets all in to the scheduler's port, which asks for a certificate."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(site, object_name(site.cluster, "drivers"), "scheduler"),
        "spec": {
            "podSelector": {"matchLabels": _of_scheduler(site)},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"protocol": "TCP", "port": port}]}],
        },
    }


def _of_scheduler(site: ObjectContext) -> dict[str, str]:
    return {"dask.org/cluster-name": site.cluster, "dask.org/component": "scheduler"}


def _job(
    site: ObjectContext,
    name: str,
    component: str,
    spec: Mapping[str, Any],
    *,
    annotations: Mapping[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A Job of one pod, that goes as soon as this has ended, and all that it owns with it."""
    template: dict[str, Any] = {"labels": labels(site, component)}
    if annotations:
        template["annotations"] = dict(annotations)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(site, name, component),
        "spec": {
            "ttlSecondsAfterFinished": 0,
            **more,
            "template": {"metadata": template, "spec": dict(spec)},
        },
    }


def network_policy(site: ObjectContext, driver: Mapping[str, str], address: str) -> dict[str, Any]:
    """The NetworkPolicy that lets nobody in but a cluster's own pods, and its driver.

    It holds for all pods of the cluster, runners or not: nobody else's bears their label, which a
    pool's ``labels`` and ``pod_template`` cannot set. What goes out is free: data have to come from
    somewhere. Like a Secret's, its name is another one for another keeper.

    Parameters
    ----------
    site : ObjectContext
    driver : mapping of str to str
        Labels of the driver's pod. Empty: it is known by its address alone.
    address : str
        The driver's address; empty where it is in no pod, and reaches the cluster's pods otherwise.
    """
    peers = {"matchLabels": {"dask.org/cluster-name": site.cluster}}
    admitted: list[dict[str, Any]] = [{"podSelector": peers}]
    if driver:
        admitted.append({"podSelector": {"matchLabels": dict(driver)}})
    elif address:
        # Meant for addresses outside of the cluster. Calico and others that filter by address let a
        # pod's match as well; Cilium and its kin (GKE Dataplane V2, Terway) do not: there the
        # driver's pod needs a label. https://github.com/projectcalico/calico/issues/6634,
        # https://github.com/cilium/cilium/issues/9209
        admitted.append({"ipBlock": {"cidr": str(ipaddress.ip_network(address))}})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(site, object_name(site.cluster, "peers", str(site.keeper)), "peers"),
        "spec": {
            "podSelector": peers,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": admitted}],
        },
    }


def pod(
    spec: RunnerSpec,
    options: KubernetesOptions,
    site: ObjectContext,
    environment: Mapping[str, str],
    orders: str,
) -> dict[str, Any]:
    """The pod of a runner.

    Defaults, then ``pod_template`` where it is a mapping or a file, then the pool's options are
    laid over each other, see :func:`merge`; a template that is a function has the result. What
    makes a pod a runner of this cluster is set at the end.

    Parameters
    ----------
    spec : RunnerSpec
    options : KubernetesOptions
        Of the runner's pool.
    site : ObjectContext
    environment : mapping of str to str
        Variables that are usual for runners; the template's and the pool's come before them.
    orders : str
        Name of the Secret that its orders are in.

    Raises
    ------
    PoolError
        If there is no image, or what the template gives is not a pod.
    """
    template = site.template if options.pod_template is None else options.pod_template
    built = merge(_defaults(site), {"spec": {"containers": [_container(environment)]}})
    if template is not None and not callable(template):
        built = merge(built, _read(template))
    built = merge(built, asked_for(spec, options, site, orders))
    if template is not None and callable(template):
        made = template(copy.deepcopy(built))
        if not isinstance(made, Mapping):
            raise _no_pod(f"the function returned a {type(made).__name__}")
        built = merge({}, made)
    return _ours(built, spec, options, site, orders)


def _defaults(site: ObjectContext) -> dict[str, Any]:
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
    return {"name": CONTAINER, "env": [plain(k, v) for k, v in environment.items()]}


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


def _ours(
    built: dict[str, Any],
    spec: RunnerSpec,
    options: KubernetesOptions,
    site: ObjectContext,
    orders: str,
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
    given = built.setdefault("metadata", {})
    own = {k: v for k, v in (given.get("labels") or {}).items() if not k.startswith(OURS)}
    more = metadata(
        site, object_name(site.cluster, spec.name), "worker", pool=spec.pool, runner=spec.name
    )
    built["metadata"] = {
        **{k: v for k, v in given.items() if k in ("annotations", "finalizers") and v},
        **more,
        "labels": {**own, **more["labels"]},
    }
    built["spec"]["restartPolicy"] = "Never"
    built["spec"]["terminationGracePeriodSeconds"] = math.ceil(spec.shutdown_timeout) + SEE_OFF
    program = ["-m", "dask_flame.runner.from_file", f"{ORDERS}/{ORDERS_FILE}"]
    container["args"] = ["python", *spec.flags, *program]
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

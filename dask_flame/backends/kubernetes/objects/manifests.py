"""Manifests of pods, Jobs, Secrets, Services and network policies; pure (driver)."""

from __future__ import annotations

import copy
import hashlib
import ipaddress
import json
import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dask_kubernetes.operator import make_worker_spec

from dask_flame.backends.kubernetes.objects.context import (
    KIND,
    MADE_BY,
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
    LAUNCH_FILE,
    LAUNCH_FOLDER,
    SCRATCH,
    asked_for,
    plain,
    secret_key,
)
from dask_flame.backends.kubernetes.options import KubernetesOptions
from dask_flame.backends.kubernetes.pod_template import (
    MANAGED,
    PREFIXES,
    check_metadata,
    for_a_job,
    no_pod,
    read_template,
)
from dask_flame.backends.specs import RunnerSpec, SchedulerSpec
from dask_flame.core.connection import ConnectionInfo, this_user
from dask_flame.core.text import function_name
from dask_flame.errors import PoolError

#: Prefix of the names of volumes that are not a template's, and the one with the launch file.
OWN_VOLUMES = "dask-flame-"
LAUNCH_VOLUME = f"{OWN_VOLUMES}launch"
#: Variables of a runner's container that are not a template's.
RUNNER_VARIABLES = frozenset({"DASK_WORKER_NAME", "DASK_FLAME_POD_IP", "TMPDIR"})
#: Seconds to fetch a runner's results, in addition to `shutdown_timeout`.
SEE_OFF = 10


def secret(
    site: ObjectContext, launch_config: Mapping[str, Any], variables: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a Secret with the launch configuration of runners, and with their variables.

    Its name depends on the contents, because it is immutable, and on the number of the watchdog's
    Job, because objects of an earlier Job may be about to be deleted.

    Parameters
    ----------
    site : ObjectContext
    launch_config : mapping
        The launch configuration.
    variables : mapping
        Only those with text values are included.
    """
    contents = {
        LAUNCH_FILE: json.dumps(launch_config, sort_keys=True),
        **{secret_key(name): v for name, v in variables.items() if isinstance(v, str)},
    }
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:10]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(
            site, object_name(site.cluster, "launch", str(site.watchdog), digest), "launch"
        ),
        "type": "Opaque",
        "immutable": True,
        "stringData": contents,
    }


#: Key of the Secret of :func:`connection`.
CONNECTION = "connection"


def connection(site: ObjectContext, info: ConnectionInfo) -> dict[str, Any]:
    """Return the Secret for other processes that connect to a scheduler; no pod mounts it."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(site, connection_name(site.cluster), "connection"),
        "type": "Opaque",
        "immutable": True,
        "stringData": {CONNECTION: info.dumps()},
    }


def connection_name(cluster: str) -> str:
    """Return the name of the Secret of :func:`connection`."""
    return object_name(cluster, "connection")


def watchdog(
    site: ObjectContext, options: KubernetesOptions, host: str, port: int, grace: float
) -> dict[str, Any]:
    """Return the Job that owns all objects of a driver in the cluster.

    It runs :mod:`dask_flame.backends.kubernetes.watchdog`. Its pod is small, and as restricted as a
    runner's. It has the driver's image, and may run on the driver's nodes, whatever the pools say.
    The template of all pods applies to it, except for nodes and further containers.

    Parameters
    ----------
    site : ObjectContext
        Its owner becomes the Job's.
    options : KubernetesOptions
        Options of a pool, for the image if `site` has none.
    host : str
    port : int
    grace : float
        Arguments of the watchdog.
    """
    given = {
        "image": site.image or options.image,
        "service_account": options.service_account,
        "image_pull_secrets": options.image_pull_secrets,
        "read_only_root": options.read_only_root,
    }
    spec = RunnerSpec(name="watchdog", scheduler="", concurrency=1, boot_timeout=0, pool="")
    inside = replace(site, template=for_a_job(site.template))
    built = pod(spec, KubernetesOptions(**given), inside, {}, "none")
    made = built["spec"]
    container = next(c for c in made["containers"] if c["name"] == CONTAINER)
    module = "dask_flame.backends.kubernetes.watchdog"
    container["args"] = ["python", "-m", module, host, str(port), f"{grace:g}"]
    requests, limits = {"cpu": "10m", "memory": "32Mi"}, {"cpu": "500m", "memory": "128Mi"}
    container["resources"] = _resources(container, requests, limits)
    # It reads and writes nothing: only what a template adds stays.
    _keep(container, "env", lambda item: item["name"] not in RUNNER_VARIABLES)
    _keep(container, "volumeMounts", lambda item: not item["name"].startswith(OWN_VOLUMES))
    _keep(made, "volumes", lambda item: not item["name"].startswith(OWN_VOLUMES))
    container.pop("workingDir", None)
    # It is where the driver is: no node may stay for it alone.
    for key in ("nodeSelector", "nodeName", "affinity", "topologySpreadConstraints"):
        made.pop(key, None)
    made = merge(made, {**site.nodes, "terminationGracePeriodSeconds": 1})
    # An evicted or crashed watchdog does not mean that the driver is gone.
    ignored = {"type": "DisruptionTarget", "status": "True"}
    rules = {"rules": [{"action": "Ignore", "onPodConditions": [ignored]}]}
    name = object_name(site.cluster, "watchdog", str(site.watchdog))
    built["spec"] = made
    return _job(site, name, "watchdog", built, backoffLimit=20, podFailurePolicy=rules)


def scheduler(
    site: ObjectContext,
    spec: SchedulerSpec,
    options: KubernetesOptions,
    launch_secret: str,
    *,
    deadline: int,
) -> dict[str, Any]:
    """Return the Job of a remote scheduler, see :mod:`dask_flame.remote`; it owns all else.

    Its pod has no GPU, and none of the pool's requirements for nodes. The template of all pods
    applies to it, except for further containers, and then its own.

    Parameters
    ----------
    site : ObjectContext
    spec : SchedulerSpec
    options : KubernetesOptions
        Options of the first pool, for the image if `site` has none, and its pull secrets.
    launch_secret : str
        Name of the Secret with the launch configuration, which is created after the Job.
    deadline : int
        Maximum duration of the Job in seconds, unless the driver changes it.
    """
    given = {
        "image": site.image or options.image,
        "service_account": options.service_account,
        "image_pull_secrets": options.image_pull_secrets,
        "read_only_root": options.read_only_root,
        "pod_template": _template_of(spec),
    }
    runner = RunnerSpec(name="scheduler", scheduler="", concurrency=1, boot_timeout=0, pool="")
    inside = replace(site, template=for_a_job(site.template))
    built = pod(runner, KubernetesOptions(**given), inside, {}, launch_secret)
    made = built["spec"]
    container = next(c for c in made["containers"] if c["name"] == CONTAINER)
    container["name"] = SCHEDULER
    container["args"] = [
        "python",
        "-m",
        "dask_flame.remote.server",
        f"{LAUNCH_FOLDER}/{LAUNCH_FILE}",
    ]
    container["env"] = [item for item in container["env"] if item["name"] != "DASK_WORKER_NAME"]
    amounts = {"cpu": cpu_quantity(spec.cpus), "memory": memory_quantity(spec.memory)}
    container["resources"] = _resources(container, amounts, dict(amounts))
    for volume in made["volumes"]:
        if volume["name"] == LAUNCH_VOLUME:
            # If the driver dies between the two, the pod must start, to end by itself.
            volume["secret"]["optional"] = True
    # Where templates name nodes, they know better than the driver's pod.
    named = {"nodeSelector", "affinity"} & made.keys()
    nodes = {key: value for key, value in site.nodes.items() if key == "tolerations" or not named}
    built["spec"] = merge(made, {**nodes, "terminationGracePeriodSeconds": SEE_OFF})
    return _job(
        site,
        object_name(site.cluster, "scheduler"),
        "scheduler",
        built,
        annotations={**_STAYS, MADE_BY: this_user()},
        activeDeadlineSeconds=deadline,
        backoffLimit=0,
    )


#: Annotations of the pod that all others need, and which must not be removed when a cluster is
#: scaled down.
_STAYS = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}


def _template_of(spec: SchedulerSpec) -> dict[str, Any] | None:
    if spec.template is None:
        return None
    return read_template("flame.scheduler.pod-template", spec.template)


def _resources(
    container: Mapping[str, Any], requests: Mapping[str, str], limits: Mapping[str, str]
) -> dict[str, Any]:
    """Return resources of a pod of a Job, with the disk that a template wants for all pods."""
    given = container.get("resources") or {}
    made: dict[str, Any] = {}
    for part, amounts in (("requests", requests), ("limits", limits)):
        disk = (given.get(part) or {}).get(_DISK)
        made[part] = {**amounts, **({_DISK: disk} if disk is not None else {})}
    return made


_DISK = "ephemeral-storage"


def _keep(of: dict[str, Any], name: str, which: Callable[[Any], bool]) -> None:
    """Keep some items of a list; remove a list that becomes empty."""
    if kept := [item for item in of.pop(name, ()) if which(item)]:
        of[name] = kept


def service(site: ObjectContext, kind: str, port: int) -> dict[str, Any]:
    """Return the Service of this type, through which drivers elsewhere reach the scheduler.

    Parameters
    ----------
    site : ObjectContext
    kind : str
        Type of the Service.
    port : int
    """
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
    """Return a NetworkPolicy that opens the scheduler's port, which requires a certificate."""
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
    pod: Mapping[str, Any],
    *,
    annotations: Mapping[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return a Job with one pod, deleted with all that it owns as soon as the pod has ended.

    The labels and annotations that templates give its pod are the Job's as well: a rule of a
    platform may demand them of either.
    """
    given = pod["metadata"]
    ours = {*PREFIXES, *MANAGED}
    own = {k: v for k, v in given["labels"].items() if not k.startswith(tuple(ours))}
    noted = given.get("annotations") or {}
    made = metadata(site, name, component)
    made["labels"] = {**own, **made["labels"]}
    template: dict[str, Any] = {"labels": {**own, **labels(site, component)}}
    if noted:
        made["annotations"] = dict(noted)
    if noted or annotations:
        template["annotations"] = {**(annotations or {}), **noted}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": made,
        "spec": {
            "ttlSecondsAfterFinished": 0,
            **more,
            "template": {"metadata": template, "spec": dict(pod["spec"])},
        },
    }


def network_policy(site: ObjectContext, driver: Mapping[str, str], address: str) -> dict[str, Any]:
    """Return the NetworkPolicy that admits only a cluster's own pods, and its driver.

    It applies to all pods of the cluster. No other pods have their label, which a pool's ``labels``
    and ``pod_template`` cannot set. Outgoing connections are unrestricted, because runners load
    data. As with a Secret, its name depends on the number of the watchdog's Job.

    Parameters
    ----------
    site : ObjectContext
    driver : mapping of str to str
        Labels of the driver's pod. Empty: it is recognized by its address alone.
    address : str
        The driver's address; empty if it is in no pod, and reaches the pods in another way.
    """
    peers = {"matchLabels": {"dask.org/cluster-name": site.cluster}}
    admitted: list[dict[str, Any]] = [{"podSelector": peers}]
    if driver:
        admitted.append({"podSelector": {"matchLabels": dict(driver)}})
    elif address:
        # Intended for addresses outside of the cluster. Calico and others that filter by address
        # also match pods; Cilium and its derivatives (GKE Dataplane V2, Terway) do not: there the
        # driver's pod needs a label. https://github.com/projectcalico/calico/issues/6634,
        # https://github.com/cilium/cilium/issues/9209
        admitted.append({"ipBlock": {"cidr": str(ipaddress.ip_network(address))}})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(site, object_name(site.cluster, "peers", str(site.watchdog)), "peers"),
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
    launch_secret: str,
) -> dict[str, Any]:
    """Return the pod of a runner.

    Defaults, the template of all pods, a ``pod_template`` that is a mapping or a file, and the
    pool's options are merged in this order, see :func:`merge`; a template that is a function is
    applied to the result. The properties that make a pod a runner of this cluster are set last.

    Parameters
    ----------
    spec : RunnerSpec
    options : KubernetesOptions
        Options of the runner's pool.
    site : ObjectContext
    environment : mapping of str to str
        Default variables; those of the template and the pool take precedence.
    launch_secret : str
        Name of the Secret with its launch configuration.

    Raises
    ------
    PoolError
        If there is no image, or the template is not a pod.
    """
    template = options.pod_template
    built = merge(_defaults(site), {"spec": {"containers": [_container(environment)]}})
    if site.template is not None:
        built = merge(built, site.template)
    if template is not None and not callable(template):
        built = merge(built, read_template("pod_template", template))
    built = merge(built, asked_for(spec, options, site, launch_secret))
    if template is not None and callable(template):
        built = _called(template, built)
    return _ours(built, spec, options, site, launch_secret)


def _called(template: Callable[[dict[str, Any]], Any], built: dict[str, Any]) -> dict[str, Any]:
    try:
        made = template(copy.deepcopy(built))
    except Exception as error:
        raise PoolError(
            f"pod_template={function_name(template)} has raised {_raised(error)}"
        ) from error
    if not isinstance(made, Mapping):
        raise no_pod("pod_template", f"the function returned a {type(made).__name__}")
    check_metadata("pod_template", made.get("metadata") or {})
    return merge({}, made)


def _raised(error: Exception) -> str:
    """Return an error with the line that it comes from."""
    said = f"{type(error).__name__}: {error}".removesuffix(": ")
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{said} (line {last.lineno} of {last.filename}: {last.line})"


def _defaults(site: ObjectContext) -> dict[str, Any]:
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    # dask-kubernetes' defaults, which its users are familiar with.
    spec: dict[str, Any] = make_worker_spec(image=site.image, n_workers=1, env=[])["spec"]
    (container,) = spec["containers"]
    # Without the page of a single worker: the scheduler's dashboard shows all of them.
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
            # The pause process becomes PID 1, and reaps orphans of calls; signals then end the
            # runner as usual.
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


def _ours(
    built: dict[str, Any],
    spec: RunnerSpec,
    options: KubernetesOptions,
    site: ObjectContext,
    launch_secret: str,
) -> dict[str, Any]:
    """Set the properties that make the pod a runner of this cluster, and cannot be overridden."""
    containers = built.get("spec", {}).get("containers") or []
    container = next((c for c in containers if c.get("name") == CONTAINER), None)
    if container is None:
        raise no_pod("pod_template", f"it has no container {CONTAINER!r}")
    if not container.get("image"):
        whose = f" of the pool {spec.pool!r}" if spec.pool else ""
        raise PoolError(
            f"a pod{whose} needs an image: this driver is not in a pod whose image it could take, "
            "and neither the pool nor the configuration names one; write "
            'image="ghcr.io/me/runner:1.0", or set flame.kubernetes.image in Dask\'s '
            "configuration; the image needs Python, dask-flame and what your calls import"
        )
    given = built.setdefault("metadata", {})
    own = {k: v for k, v in (given.get("labels") or {}).items() if not k.startswith(PREFIXES)}
    more = metadata(
        site, object_name(site.cluster, spec.name), "worker", pool=spec.pool, runner=spec.name
    )
    built["metadata"] = {
        **{k: v for k, v in given.items() if k in ("annotations", "finalizers") and v},
        **more,
        "labels": {**own, **more["labels"]},
    }
    if spec.kind:
        built["metadata"].setdefault("annotations", {})[KIND] = spec.kind
    built["spec"]["restartPolicy"] = "Never"
    built["spec"]["terminationGracePeriodSeconds"] = math.ceil(spec.shutdown_timeout) + SEE_OFF
    program = ["-m", "dask_flame.runner.from_file", f"{LAUNCH_FOLDER}/{LAUNCH_FILE}"]
    container["args"] = ["python", *spec.flags, *program]
    ours: dict[str, list[dict[str, Any]]] = {
        "volumes": [
            {
                "name": LAUNCH_VOLUME,
                "secret": {
                    "secretName": launch_secret,
                    "items": [{"key": LAUNCH_FILE, "path": LAUNCH_FILE}],
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
            {"name": LAUNCH_VOLUME, "mountPath": LAUNCH_FOLDER, "readOnly": True},
            {"name": "dask-flame-scratch", "mountPath": SCRATCH},
        ],
    }
    for name, items in ours.items():
        built["spec"][name] = merge({name: built["spec"].get(name) or []}, {name: items})[name]
    for name, items in mine.items():
        container[name] = merge({name: container.get(name) or []}, {name: items})[name]
    return built

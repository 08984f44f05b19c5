"""What the fake API server fills in where an object says nothing (test process)."""

from __future__ import annotations

import base64
from typing import Any

from tests.fakes.kubernetes.kinds import (
    EVENTS,
    JOBS,
    NAMESPACES,
    PODS,
    SECRETS,
    SERVICES,
    Kind,
)
from tests.fakes.kubernetes.quantities import quality

Object = dict[str, Any]


def fill(kind: Kind, obj: Object, *, service_ip: str) -> None:
    """Write the defaults into a new object."""
    if kind == PODS:
        _pod_spec(obj["spec"])
        obj["status"] = {"phase": "Pending", "qosClass": quality(obj["spec"])}
    elif kind == JOBS:
        _job(obj)
    elif kind == SERVICES:
        _service(obj, service_ip)
    elif kind == SECRETS:
        obj.setdefault("type", "Opaque")
    elif kind == NAMESPACES:
        obj["spec"] = {"finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}
        labels = obj["metadata"].setdefault("labels", {})
        labels["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
    elif kind == EVENTS:
        obj.setdefault("type", "Normal")


def fold(kind: Kind, obj: Object) -> None:
    """Lay what a Secret says in clear text over its data, as every write of one does."""
    if kind == SECRETS:
        for key, text in (obj.pop("stringData", None) or {}).items():
            obj.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()


def _pod_spec(spec: Object) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("securityContext", {})
    spec.setdefault("enableServiceLinks", True)
    for container in [*spec.get("containers", []), *spec.get("initContainers", [])]:
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        latest = ":" not in container.get("image", "").rpartition("/")[2]
        latest = latest or container["image"].endswith(":latest")
        container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
        resources = container.setdefault("resources", {})
        if resources.get("limits"):
            # Whoever only limits a resource asks for as much.
            resources["requests"] = {**resources["limits"], **(resources.get("requests") or {})}


def _job(job: Object) -> None:
    spec = job["spec"]
    spec.setdefault("backoffLimit", 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("completions", 1)
    spec.setdefault("parallelism", 1)
    spec.setdefault("suspend", False)
    _pod_spec(spec["template"]["spec"])
    job["status"] = {}


def label_job(job: Object) -> None:
    """Give a Job that has its uid the labels by which its pods are told."""
    uid = job["metadata"]["uid"]
    template = job["spec"]["template"]
    template["metadata"] = {**(template.get("metadata") or {})}
    template["metadata"]["labels"] = {
        **(template["metadata"].get("labels") or {}),
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": job["metadata"]["name"],
        "controller-uid": uid,
        "job-name": job["metadata"]["name"],
    }
    job["spec"]["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}


def _service(service: Object, ip: str) -> None:
    spec = service["spec"]
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    spec.setdefault("internalTrafficPolicy", "Cluster")
    if spec["type"] != "ExternalName":
        spec.setdefault("clusterIP", ip)
        spec.setdefault("clusterIPs", [spec["clusterIP"]])
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port["port"])
    service.setdefault("status", {"loadBalancer": {}})

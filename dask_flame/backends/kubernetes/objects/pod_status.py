"""Read the status of a runner's pod: progress, obstacles, and the reason of its end.

Pure (driver). The input is a Pod as the API server returns it, see
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from dask_flame.backends.kubernetes.objects.quantities import memory_text
from dask_flame.backends.kubernetes.objects.resources import CONTAINER
from dask_flame.core.text import with_advice

#: The container of a scheduler's pod.
SCHEDULER = "scheduler"
#: Reasons for which a container will never start, with the setting behind each.
_HOPELESS = {
    "ErrImageNeverPull": "image",
    "ImagePullBackOff": "image",
    "InvalidImageName": "image",
    "RegistryUnavailable": "image",
    "CreateContainerConfigError": "secrets, volumes and pod_template",
    "CreateContainerError": "pod_template",
    "RunContainerError": "pod_template",
    "ContainerCannotRun": "image",
}
#: Parts of messages of temporary causes: an overloaded node.
_PASSING = ("failed to sync", "deadline exceeded")
#: Messages of registries and container runtimes for a missing or inaccessible image.
_NO_IMAGE = (
    "not found",
    "manifest unknown",
    "no such host",
    "denied",
    "unauthorized",
    "authorization failed",
    "403 Forbidden",
)
#: Reasons of the kubelet for a pod that it rejected or ended.
_TAKEN = {
    "Evicted": "memory and volumes",
    "Preempting": "priority_class",
    "Terminated": "spot",
    "NodeShutdown": "spot",
    "NodeLost": "",
    "UnexpectedAdmissionError": "gpus",
    "OutOfcpu": "cpus",
    "OutOfmemory": "memory",
    "DeadlineExceeded": "pod_template",
}
_MOST = 600


def step(pod: Mapping[str, Any]) -> str:
    """Return the progress of a pod's boot: ``""``, ``"scheduled"`` or ``"started"``."""
    status = pod.get("status") or {}
    container = _container(status)
    if container.get("state", {}).get("running") or container.get("state", {}).get("terminated"):
        return "started"
    return "scheduled" if (_condition(status, "PodScheduled").get("status") == "True") else ""


def held_up(pod: Mapping[str, Any]) -> str:
    """Return what keeps a pod from running for now, in Kubernetes' words; may be empty."""
    status = pod.get("status") or {}
    if status.get("phase", "Pending") != "Pending":
        return ""
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return _cut(f"{scheduled.get('reason')}: {scheduled.get('message')}")
    reason, message = _waiting(status)
    if reason in ("", "ContainerCreating", "PodInitializing"):
        return ""
    return _cut(f"{reason}: {message}" if message else reason)


def unschedulable(pod: Mapping[str, Any]) -> str:
    """Return why no node has room for a pod, in Kubernetes' words; empty if one may have it.

    A node that is named already makes room for it.
    """
    status = pod.get("status") or {}
    reason = _condition(status, "PodScheduled").get("reason")
    if reason != "Unschedulable" or status.get("nominatedNodeName"):
        return ""
    return held_up(pod)


def hopeless(pod: Mapping[str, Any]) -> str:
    """Return why a pod will never run, with the setting to change; empty if it may run."""
    status = pod.get("status") or {}
    reason, message = _waiting(status)
    if reason not in _HOPELESS or any(sign in message for sign in _PASSING):
        return ""
    said = f"{reason}: {message}" if message else reason
    return with_advice(_cut(said), _HOPELESS[reason])


def final(pod: Mapping[str, Any]) -> bool:
    """Return whether another pod like a hopeless one would fail for the same reason."""
    reason, message = _waiting(pod.get("status") or {})
    if reason in ("InvalidImageName", "ErrImageNeverPull"):
        return True
    return _HOPELESS.get(reason) == "image" and any(sign in message for sign in _NO_IMAGE)


def ended(pod: Mapping[str, Any], *, gone: bool = False) -> str:
    """Return why a pod ended; empty if it has not, or if it is `gone` and the reason unknown."""
    status = pod.get("status") or {}
    container = _container(status)
    terminated = container.get("state", {}).get("terminated")
    over = status.get("phase") in ("Succeeded", "Failed")
    disruption = _condition(status, "DisruptionTarget")
    if not over and not terminated and not (gone and disruption):
        return ""
    reason, message = status.get("reason") or "", status.get("message") or ""
    if disruption.get("reason") == "TerminationByKubelet":
        # The condition may be set before the reason.
        reason, message = reason or "Evicted", message or disruption.get("message") or ""
    elif disruption:
        # Preemption, a drain, or a taint: the condition names the cause, unlike the reason.
        why = disruption.get("reason") or reason
        return _cut(f"preempted: {why}: {disruption.get('message') or message}".removesuffix(": "))
    if reason:
        advice = _TAKEN.get(reason)
        said = _cut(f"{reason}: {message}" if message else reason)
        return with_advice(said, advice) if advice else said
    return _code(terminated or {}, pod)


def no_package(output: str) -> str:
    """Return the setting to change, if a container could not import dask-flame; else ""."""
    if "No module named 'dask_flame'" not in output:
        return ""
    return "; its image has no dask-flame: install it there; relevant settings: image"


def watchdog_problem(pod: Mapping[str, Any]) -> str:
    """Return why a watchdog's pod does not run; empty if it runs, or is being deleted.

    A pod that was evicted is replaced, and does not count.
    """
    if "deletionTimestamp" in pod["metadata"] or evicted(pod):
        return ""
    failed = (pod.get("status") or {}).get("phase") == "Failed"
    return held_up(pod) or (ended(pod) if failed else "")


def evicted(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod was evicted, for another pod or because of its node."""
    return bool(_condition(pod.get("status") or {}, "DisruptionTarget"))


def _code(terminated: Mapping[str, Any], pod: Mapping[str, Any]) -> str:
    code = terminated.get("exitCode")
    reason = terminated.get("reason") or ""
    if code is None:
        return "ended for a reason that Kubernetes does not tell"
    if reason == "OOMKilled":
        return f"ran out of memory (OOMKilled, limit {_limit(pod)}); relevant settings: memory"
    if code > 128:
        try:
            name = signal.Signals(code - 128).name
        except ValueError:
            name = f"signal {code - 128}"
        return f"killed by {name}"
    message = terminated.get("message")
    said = f"exit code {code}"
    if reason not in ("", "Error", "Completed"):
        said += f" ({reason})"
    return _cut(f"{said}: {message}") if message else said


def _limit(pod: Mapping[str, Any]) -> str:
    for container in pod.get("spec", {}).get("containers", []):
        if container.get("name") in (CONTAINER, SCHEDULER):
            limits = (container.get("resources") or {}).get("limits") or {}
            return memory_text(str(limits["memory"])) if "memory" in limits else "none of its own"
    return "unknown"


def _container(status: Mapping[str, Any]) -> Mapping[str, Any]:
    for container in status.get("containerStatuses") or []:
        if container.get("name") in (CONTAINER, SCHEDULER):
            found: Mapping[str, Any] = container
            return found
    return {}


def _waiting(status: Mapping[str, Any]) -> tuple[str, str]:
    """Return reason and message of the first waiting container, init containers included."""
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or []:
            waiting = (container.get("state") or {}).get("waiting")
            if waiting and waiting.get("reason") not in ("PodInitializing", None):
                return waiting["reason"], waiting.get("message") or ""
    return "", ""


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    for condition in status.get("conditions") or []:
        if condition.get("type") == kind:
            found: Mapping[str, Any] = condition
            return found
    return {}


def _cut(text: str) -> str:
    return text if len(text) <= _MOST else text[:_MOST] + "…"

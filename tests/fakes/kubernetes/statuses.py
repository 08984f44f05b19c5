"""The status of a pod, as a kubelet writes it (test process)."""

from __future__ import annotations

from tests.fakes.kubernetes import conditions
from tests.fakes.kubernetes.store import Object, now


def creating(pod: Object) -> None:
    """A pod that has come to its node, and has no container yet."""
    spec, status = pod["spec"], pod["status"]
    reason = "PodInitializing" if spec.get("initContainers") else "ContainerCreating"
    status |= {
        "startTime": now(),
        "hostIP": "127.0.0.1",
        "containerStatuses": [_waiting(c, reason) for c in spec["containers"]],
    }
    if spec.get("initContainers"):
        status["initContainerStatuses"] = [_waiting(c, reason) for c in spec["initContainers"]]
    names = " ".join(c["name"] for c in spec["containers"])
    unready = f"containers with unready status: [{names}]"
    conditions.put(pod, "PodReadyToStartContainers", False)
    conditions.put(pod, "Initialized", not spec.get("initContainers"))
    conditions.put(pod, "Ready", False, "ContainersNotReady", unready)
    conditions.put(pod, "ContainersReady", False, "ContainersNotReady", unready)
    conditions.put(pod, "PodScheduled", True)


def running(pod: Object, name: str, started: str, address: str) -> None:
    """One of its containers runs."""
    status = of(pod, name)
    init = _is_init(pod, name)
    status |= {"state": {"running": {"startedAt": started}}, "started": True, "ready": not init}
    conditions.put(pod, "PodReadyToStartContainers", True)
    pod["status"] |= {"podIP": address, "podIPs": [{"ip": address}]}
    if init:
        return
    pod["status"]["phase"] = "Running"
    if all(s["ready"] for s in pod["status"]["containerStatuses"]):
        conditions.put(pod, "Ready", True)
        conditions.put(pod, "ContainersReady", True)


def ended(pod: Object, name: str, state: Object, *, started: bool) -> None:
    """One of its containers has ended, or could not be started."""
    status = of(pod, name)
    status |= {"state": {"terminated": state}, "ready": False, "started": False}
    if _is_init(pod, name):
        status["ready"] = state["exitCode"] == 0
    elif started:
        conditions.put(pod, "Ready", False, "ContainersNotReady")
        conditions.put(pod, "ContainersReady", False, "ContainersNotReady")


def over(pod: Object, verdict: tuple[str, str] | None) -> None:
    """All have ended; `verdict` is why the pod was ended, if it was: a reason and a message."""
    status = pod["status"]
    states = [s["state"].get("terminated") for s in all_of(pod)]
    if verdict is None and not any(states):
        return  # deleted before anything ran
    fine = verdict is None and all(state and state["exitCode"] == 0 for state in states)
    status["phase"] = "Succeeded" if fine else "Failed"
    for type in ("Ready", "ContainersReady"):
        conditions.put(pod, type, False, "PodCompleted" if fine else "PodFailed")
    conditions.put(pod, "PodReadyToStartContainers", False)
    if verdict is not None:
        status["reason"], status["message"] = verdict


def all_of(pod: Object) -> list[Object]:
    """The statuses of all its containers."""
    status = pod["status"]
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def of(pod: Object, name: str) -> Object:
    return next(status for status in all_of(pod) if status["name"] == name)


def _is_init(pod: Object, name: str) -> bool:
    return any(s["name"] == name for s in pod["status"].get("initContainerStatuses", []))


def _waiting(container: Object, reason: str) -> Object:
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": False,
        "started": False,
        "restartCount": 0,
        "state": {"waiting": {"reason": reason}},
        "lastState": {},
    }

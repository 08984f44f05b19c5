"""What is read from a pod's status. The statuses are as Kubernetes writes them."""

from __future__ import annotations

from typing import Any

import pytest

from dask_flame.backends.kubernetes.objects.pod_status import (
    ended,
    held_up,
    hopeless,
    step,
    unschedulable,
    watchdog_problem,
)

pytestmark = pytest.mark.unit


def pod(phase: str = "Pending", limit: str = "", **status: Any) -> dict[str, Any]:
    resources = {"limits": {"memory": limit}} if limit else {}
    return {
        "spec": {"containers": [{"name": "worker", "resources": resources}]},
        "status": {"phase": phase, **status},
    }


def worker(state: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "side", "state": {}}, {"name": "worker", "state": {state: more}}]


SCHEDULED = [{"type": "PodScheduled", "status": "True"}]
NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: not helpful."


def test_a_boot_without_trouble() -> None:
    steps = [
        pod(),
        pod(conditions=SCHEDULED),
        pod(
            conditions=SCHEDULED,
            containerStatuses=worker("waiting", reason="ContainerCreating"),
        ),
        pod("Running", conditions=SCHEDULED, containerStatuses=worker("running", startedAt="now")),
    ]
    assert [step(p) for p in steps] == ["", "scheduled", "scheduled", "started"]
    assert all(held_up(p) == hopeless(p) == ended(p) == "" for p in steps)
    assert step({"spec": {}}) == ended({"spec": {}}) == held_up({"spec": {}}) == ""


def test_no_room() -> None:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": NO_GPU,
    }
    waits = pod(conditions=[condition])
    assert held_up(waits) == f"Unschedulable: {NO_GPU}"
    # There may be room later: somebody else's pod ends, or a node is added.
    assert hopeless(waits) == ended(waits) == step(waits) == ""
    assert unschedulable(waits) == held_up(waits)
    # A node is being cleared for it.
    assert unschedulable(pod(conditions=[condition], nominatedNodeName="node-1")) == ""
    for other in ("SchedulingGated", "SchedulerError"):
        assert unschedulable(pod(conditions=[{**condition, "reason": other}])) == ""
    pulling = worker("waiting", reason="ErrImagePull", message="not found")
    assert unschedulable(pod(conditions=SCHEDULED, containerStatuses=pulling)) == ""
    assert unschedulable(pod("Running", conditions=SCHEDULED)) == unschedulable({}) == ""


@pytest.mark.parametrize(
    ("reason", "message", "never", "advice"),
    [
        ("ErrImagePull", "not found", False, ""),
        ("ImagePullBackOff", 'Back-off pulling image "x:1"', True, "image"),
        ("InvalidImageName", "couldn't parse image name", True, "image"),
        ("CreateContainerConfigError", 'secret "hf" not found', True, "secrets"),
        ("CreateContainerError", "no such file", True, "pod_template"),
        ("CreateContainerError", "context deadline exceeded", False, ""),
        ("CreateContainerConfigError", "failed to sync secret cache: timed out", False, ""),
    ],
)
def test_containers_that_do_not_start(reason: str, message: str, never: bool, advice: str) -> None:
    waits = pod(
        conditions=SCHEDULED,
        containerStatuses=worker("waiting", reason=reason, message=message),
    )
    assert held_up(waits) == f"{reason}: {message}"
    assert bool(hopeless(waits)) is never
    if never:
        assert message in hopeless(waits)
        assert f"relevant settings: {advice}" in hopeless(waits)


def test_an_init_container_that_does_not_start() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no"}}
    waits = pod(
        initContainerStatuses=[{"name": "init", "state": waiting}],
        containerStatuses=worker("waiting", reason="PodInitializing"),
    )
    assert hopeless(waits).startswith("ImagePullBackOff: no")


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ({"exitCode": 0, "reason": "Completed"}, "exit code 0"),
        ({"exitCode": 3, "reason": "Error"}, "exit code 3"),
        ({"exitCode": 1, "reason": "Error", "message": "lost"}, "exit code 1: lost"),
        ({"exitCode": 139, "reason": "Error"}, "killed by SIGSEGV"),
        ({"exitCode": 137, "reason": "Error"}, "killed by SIGKILL"),
        (
            {"exitCode": 137, "reason": "OOMKilled"},
            "ran out of memory (OOMKilled, limit 2 GiB); relevant settings: memory",
        ),
        ({"exitCode": 128, "reason": "StartError", "message": "no such file"}, "exit code 128"),
    ],
)
def test_why_a_runner_has_ended(status: dict[str, Any], why: str) -> None:
    over = pod("Failed", limit="2Gi", containerStatuses=worker("terminated", **status))
    assert ended(over).startswith(why)
    # The container has ended, and the pod's phase is not written yet.
    assert ended(pod("Running", "2Gi", containerStatuses=worker("terminated", **status)))


def test_why_a_pod_was_taken() -> None:
    evicted = pod(
        "Failed",
        reason="Evicted",
        message="The node was low on resource: memory.",
        containerStatuses=worker("terminated", exitCode=137, reason="Error"),
    )
    said = "Evicted: The node was low on resource: memory; relevant settings: memory and volumes"
    assert ended(evicted) == said
    by = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    evicted["status"]["conditions"] = [by]
    assert ended(evicted) == said
    evicted["status"]["message"] = "The node was low on resource: memory. "
    assert ended(evicted) == said
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": "default-scheduler: preempting to accommodate a higher priority pod",
    }
    preempted = pod(
        "Failed",
        conditions=[condition],
        containerStatuses=worker("terminated", exitCode=143, reason="Error"),
    )
    assert ended(preempted).startswith("preempted: PreemptionByScheduler: default-scheduler")
    # Taken away, and still running its grace out: not ended yet.
    assert ended(pod("Running", conditions=[condition])) == ""
    assert ended(pod("Running", conditions=[condition]), gone=True).startswith("preempted: Pre")
    assert ended(pod("Running"), gone=True) == ""
    # The node is gone; nobody knows of the container.
    assert ended(pod("Failed", reason="NodeLost")) == "NodeLost"
    assert ended(pod("Failed")).startswith("ended for a reason")


def test_long_messages_are_cut() -> None:
    waits = pod(containerStatuses=worker("waiting", reason="ErrImagePull", message="x" * 5000))
    assert len(held_up(waits)) < 700


def test_a_watchdogs_pod() -> None:
    def watchdog(made: dict[str, Any], **meta: Any) -> dict[str, Any]:
        return {**made, "metadata": {"name": "watchdog", **meta}}

    crashed = pod("Failed", containerStatuses=worker("terminated", exitCode=1, reason="Error"))
    assert watchdog_problem(watchdog(crashed)) == "exit code 1"
    assert watchdog_problem(watchdog(crashed, deletionTimestamp="now")) == ""
    crashed["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
    assert watchdog_problem(watchdog(crashed)) == ""
    no_room = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    waits = pod(conditions=[{**no_room, "message": NO_GPU}])
    assert watchdog_problem(watchdog(waits)) == f"Unschedulable: {NO_GPU}"
    for fine in (pod(), pod("Running"), pod("Succeeded")):
        assert watchdog_problem(watchdog(fine)) == ""

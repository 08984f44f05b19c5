"""What the fake Kubernetes cluster refuses, or has no room for, in Kubernetes' words."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("aiohttp")

from tests.fakes.kubernetes import FakeKubernetes
from tests.support.kubernetes_help import (
    SLEEP,
    TEAM,
    Caller,
    condition,
    events,
    gone,
    pod,
    reaches,
    secret,
    seen,
)
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

REVIEWS = "/apis/authorization.k8s.io/v1"
GPU = "nvidia.com/gpu"


def test_users_do_what_they_may() -> None:
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"], "namespaces": ["team"]}
    ]
    with FakeKubernetes(users={"driver": rules}).in_thread() as cluster, Caller(cluster) as api:
        assert api.ok("GET", f"{TEAM}/pods")["items"] == []
        status = api.no(403, "POST", f"{TEAM}/pods", json=pod())
        assert status["reason"] == "Forbidden"
        assert status["message"] == (
            'pods is forbidden: User "driver" cannot create resource "pods" in API group "" in the '
            'namespace "team"'
        )
        status = api.no(403, "GET", f"{TEAM}/pods/one/log")
        assert status["message"] == (
            'pods "one" is forbidden: User "driver" cannot get resource "pods/log" in API group "" '
            'in the namespace "team"'
        )
        status = api.no(403, "GET", "/apis/batch/v1/jobs")
        assert status["message"] == (
            'jobs.batch is forbidden: User "driver" cannot list resource "jobs" in API group '
            '"batch" at the cluster scope'
        )
        attributes = {"verb": "create", "resource": "pods", "namespace": "team"}
        path = f"{REVIEWS}/selfsubjectaccessreviews"
        body: dict[str, Any] = {"spec": {"resourceAttributes": attributes}}
        assert api.ok("POST", path, json=body)["status"]["allowed"] is False
        attributes["verb"] = "list"
        assert api.ok("POST", path, json=body)["status"]["allowed"] is True
        path = f"{REVIEWS}/selfsubjectrulesreviews"
        said = api.ok("POST", path, json={"spec": {"namespace": "team"}})["status"]
        assert said["resourceRules"] == [
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}
        ]
        everything = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
        cluster.grant("driver", everything)
        api.make(secret())


def test_nobody_gets_in() -> None:
    with FakeKubernetes().in_thread() as cluster:
        with Caller(cluster, user=None) as nobody:
            assert nobody.ok("GET", "/version")
            message = nobody.no(403, "GET", f"{TEAM}/pods")["message"]
            assert 'User "system:anonymous" cannot list resource "pods"' in message
            message = nobody.no(403, "GET", "/api")["message"]
            assert message == 'forbidden: User "system:anonymous" cannot get path "/api"'
        with Caller(cluster) as stranger:
            stranger.headers["Authorization"] = "Bearer stolen"
            status = stranger.no(401, "GET", f"{TEAM}/pods")
            assert (status["message"], status["reason"]) == ("Unauthorized", "Unauthorized")


def test_quotas() -> None:
    hard = {"pods": "2", "limits.cpu": "3", f"requests.{GPU}": "1", "count/secrets": "1"}
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "ours", "namespace": "team"},
        "spec": {"hard": hard},
    }
    nodes = [{"cpu": 8, "memory": "8Gi", GPU: 8}]
    with FakeKubernetes(nodes=nodes).in_thread() as cluster, Caller(cluster) as api:
        cluster.create(quota)
        status = api.no(403, "POST", f"{TEAM}/pods", json=pod())
        assert status["message"] == (
            'pods "one" is forbidden: failed quota: ours: must specify limits.cpu for: c'
        )
        half = {"limits": {"cpu": "1500m", "memory": "1Gi"}}
        api.make(pod("one", SLEEP, resources=half))
        api.make(pod("two", resources={"limits": {"cpu": "500m", GPU: "1"}}))
        wait_for(lambda: seen(cluster, "ours", "quota").get("status", {}).get("used"))
        status = api.no(403, "POST", f"{TEAM}/pods", json=pod("three", resources=half))
        assert status["reason"] == "Forbidden"
        assert "exceeded quota: ours, requested: limits.cpu=1500m" in status["message"]
        reaches(cluster, "Succeeded", "two")
        # What has ended leaves its room.
        wait_for(lambda: seen(cluster, "ours", "quota")["status"]["used"]["pods"] == "1")
        used = seen(cluster, "ours", "quota")["status"]["used"]
        assert used["limits.cpu"] == "1500m"
        assert used[f"requests.{GPU}"] == "0"
        big = {"limits": {"cpu": "1", GPU: "2"}}
        status = api.no(403, "POST", f"{TEAM}/pods", json=pod("three", resources=big))
        assert status["message"] == (
            'pods "three" is forbidden: exceeded quota: ours, requested: requests.nvidia.com/gpu=2,'
            " used: requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=1"
        )
        api.make(secret("a"))
        message = api.no(403, "POST", f"{TEAM}/secrets", json=secret("b"))["message"]
        assert message.endswith(
            "requested: count/secrets=1, used: count/secrets=1, limited: count/secrets=1"
        )


def test_pod_security() -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    with (
        FakeKubernetes(namespaces={"team": labels}).in_thread() as cluster,
        Caller(cluster) as api,
    ):
        status = api.no(403, "POST", f"{TEAM}/pods", json=pod())
        assert status["message"] == (
            'pods "one" is forbidden: violates PodSecurity "restricted:latest": '
            'allowPrivilegeEscalation != false (container "c" must set '
            "securityContext.allowPrivilegeEscalation=false), unrestricted capabilities "
            '(container "c" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != '
            'true (pod or container "c" must set securityContext.runAsNonRoot=true), '
            'seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to '
            '"RuntimeDefault" or "Localhost")'
        )
        of_container = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        of_pod = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        spec = {"securityContext": of_pod}
        api.make(pod("fine", securityContext=of_container, spec=spec))
        odd = {"name": "h", "hostPath": {"path": "/"}}
        bad = pod("odd", securityContext=of_container, spec={**spec, "volumes": [odd]})
        message = api.no(403, "POST", f"{TEAM}/pods", json=bad)["message"]
        assert 'hostPath volumes (volume "h")' in message
        assert 'restricted volume types (volumes "h" have restricted types)' in message


def test_a_webhook_refuses() -> None:
    def admission(operation: str, obj: dict[str, Any]) -> str | None:
        return "no latest" if obj["kind"] == "Pod" and operation == "CREATE" else None

    with FakeKubernetes(admission=admission).in_thread() as cluster, Caller(cluster) as api:
        status = api.no(403, "POST", f"{TEAM}/pods", json=pod())
        assert status["message"] == (
            'admission webhook "policy.fake.test" denied the request: no latest'
        )
        cluster.admit(None)
        api.make(pod())


def test_pods_for_which_there_is_no_room_wait() -> None:
    taint = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
    nodes = [
        {"cpu": 2, "memory": "4Gi", "name": "small"},
        {"cpu": 8, "memory": "4Gi", GPU: 1, "taints": [taint], "labels": {"disk": "ssd"}},
    ]
    with FakeKubernetes(nodes=nodes).in_thread() as cluster, Caller(cluster) as api:
        limits = {"limits": {"cpu": "1", GPU: "1"}}
        tolerations = [{"key": "gpu", "operator": "Exists"}]
        api.make(pod(code=SLEEP, resources=limits))
        wait_for(lambda: condition(seen(cluster), "PodScheduled"))
        unschedulable = condition(seen(cluster), "PodScheduled")
        assert seen(cluster)["status"]["phase"] == "Pending"
        assert (unschedulable["status"], unschedulable["reason"]) == ("False", "Unschedulable")
        assert unschedulable["message"] == (
            "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated "
            "taint {gpu: yes}. preemption: 0/2 nodes are available: 2 Preemption is not helpful "
            "for scheduling."
        )
        assert events(cluster)["FailedScheduling"] == unschedulable["message"]
        api.ok("DELETE", f"{TEAM}/pods/one")
        gone(cluster)
        tolerating = {"tolerations": tolerations, "nodeSelector": {"disk": "ssd"}}
        api.make(pod("first", SLEEP, resources=limits, spec=tolerating))
        assert reaches(cluster, "Running", "first")["spec"]["nodeName"] == "node-1"
        api.make(pod("second", SLEEP, resources=limits, spec=tolerating))
        wait_for(lambda: condition(seen(cluster, "second"), "PodScheduled"))
        assert condition(seen(cluster, "second"), "PodScheduled")["message"] == (
            "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) didn't match Pod's "
            "node affinity/selector. preemption: 0/2 nodes are available: 1 No preemption victims "
            "found for incoming pod, 1 Preemption is not helpful for scheduling."
        )
        # Room that is made, or a node that comes, is taken.
        api.ok("DELETE", f"{TEAM}/pods/first", params={"gracePeriodSeconds": "0"})
        reaches(cluster, "Running", "second")
        api.make(pod("third", SLEEP, resources=limits))
        wait_for(lambda: condition(seen(cluster, "third"), "PodScheduled"))
        cluster.add_node({"cpu": 2, "memory": "1Gi", GPU: 1, "name": "new"})
        assert reaches(cluster, "Running", "third")["spec"]["nodeName"] == "new"


def test_affinities_choose_nodes() -> None:
    nodes = [
        {"cpu": 1, "memory": "1Gi", "labels": {"gpu": kind}, "name": kind} for kind in ("a", "b")
    ]

    def affinity(operator: str, *values: str) -> dict[str, Any]:
        expression = {"key": "gpu", "operator": operator, "values": [*values]}
        terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
        return {"affinity": {"nodeAffinity": required}}

    with FakeKubernetes(nodes=nodes).in_thread() as cluster, Caller(cluster) as api:
        api.make(pod("in", spec=affinity("In", "b", "c")))
        api.make(pod("not", spec=affinity("NotIn", "a")))
        for name in ("in", "not"):
            assert reaches(cluster, "Succeeded", name)["spec"]["nodeName"] == "b"


def test_scheduling_takes_its_time_and_can_be_held() -> None:
    with FakeKubernetes(scheduling_delay=0.2, pull_delay=0.2).in_thread() as cluster:
        cluster.hold_scheduling()
        with Caller(cluster) as api:
            api.make(pod(code=SLEEP))
            api.make(secret())
        assert "nodeName" not in seen(cluster)["spec"]
        cluster.release_scheduling()
        wait_for(lambda: seen(cluster)["status"].get("containerStatuses"))
        waiting = seen(cluster)["status"]["containerStatuses"][0]["state"]["waiting"]
        assert waiting == {"reason": "ContainerCreating"}
        reaches(cluster, "Running")

"""Jobs of the fake Kubernetes cluster, and what goes with its owner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from tests.fakes.kubernetes import FakeKubernetes
from tests.support.kubernetes_help import (
    JOBS,
    SLEEP,
    TEAM,
    Caller,
    Object,
    condition,
    events,
    gone,
    job,
    pod,
    secret,
    seen,
)
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


@pytest.fixture
def cluster() -> Iterator[FakeKubernetes]:
    with FakeKubernetes(back_off=0.05).in_thread() as cluster:
        yield cluster


@pytest.fixture
def api(cluster: FakeKubernetes) -> Iterator[Caller]:
    with Caller(cluster) as api:
        yield api


def finishes(cluster: FakeKubernetes, type: str) -> Object:
    wait_for(lambda: condition(seen(cluster, "work", "job"), type), what=type)
    return seen(cluster, "work", "job")


def pods_run(cluster: FakeKubernetes, count: int = 1) -> None:
    def run() -> bool:
        phases = [p["status"]["phase"] for p in cluster.objects("pods")]
        return phases.count("Running") == count

    wait_for(run, what="pods run")


def test_a_job_completes_and_goes(cluster: FakeKubernetes, api: Caller) -> None:
    made = api.make(job(ttlSecondsAfterFinished=1))
    done = finishes(cluster, "Complete")
    (found,) = cluster.objects("pods")
    assert done["status"]["succeeded"] == 1
    assert done["status"]["completionTime"]
    assert "active" not in done["status"]
    assert found["metadata"]["name"].startswith("work-")
    assert found["metadata"]["labels"]["job-name"] == "work"
    (owner,) = found["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == (made["metadata"]["uid"], True)
    assert events(cluster, "work")["SuccessfulCreate"].startswith("Created pod: work-")
    wait_for(cluster.at_rest)


def test_a_job_tries_again_and_fails(cluster: FakeKubernetes, api: Caller) -> None:
    api.make(job(code="raise SystemExit(1)", backoffLimit=1))
    failed = finishes(cluster, "Failed")
    assert condition(failed, "Failed")["reason"] == "BackoffLimitExceeded"
    assert condition(failed, "Failed")["message"] == "Job has reached the specified backoff limit"
    assert failed["status"]["failed"] == 2
    assert len(cluster.objects("pods")) == 2
    assert not any(p["metadata"].get("finalizers") for p in cluster.objects("pods"))


def test_a_job_that_is_late_or_gets_no_pod(cluster: FakeKubernetes, api: Caller) -> None:
    def admission(operation: str, obj: dict[str, Any]) -> str | None:
        return "not now" if obj["kind"] == "Pod" else None

    cluster.admit(admission)
    api.make(job(code=SLEEP, activeDeadlineSeconds=1))
    wait_for(lambda: "FailedCreate" in events(cluster, "work"))
    assert events(cluster, "work")["FailedCreate"].startswith("Error creating: admission webhook")
    cluster.admit(None)
    pods_run(cluster)
    failed = finishes(cluster, "Failed")
    assert condition(failed, "Failed")["reason"] == "DeadlineExceeded"
    wait_for(lambda: not cluster.objects("pods"))


def test_a_deadline_may_be_moved_and_lifted(cluster: FakeKubernetes, api: Caller) -> None:
    patch = {"headers": {"Content-Type": "application/merge-patch+json"}}

    def move(seconds: int | None) -> None:
        json = {"spec": {"activeDeadlineSeconds": seconds}}
        api.ok("PATCH", f"{JOBS}/work", json=json, **patch)

    api.make(job(code=SLEEP, activeDeadlineSeconds=3600, ttlSecondsAfterFinished=0))
    pods_run(cluster)
    move(None)
    assert "activeDeadlineSeconds" not in seen(cluster, "work", "job")["spec"]
    status = api.no(
        422, "PATCH", f"{JOBS}/work", json={"spec": {"activeDeadlineSeconds": -1}}, **patch
    )
    assert "must be greater than or equal to 0" in status["message"]
    for field, value in (("completions", 2), ("podFailurePolicy", {"rules": []})):
        status = api.no(422, "PATCH", f"{JOBS}/work", json={"spec": {field: value}}, **patch)
        assert f"spec.{field}: Invalid value" in status["message"]
    move(1)
    wait_for(lambda: "DeadlineExceeded" in events(cluster, "work"))
    gone(cluster, "work", "job")
    assert not cluster.objects("pods")


def test_a_job_has_failed_when_its_pods_have_ended(cluster: FakeKubernetes, api: Caller) -> None:
    stays = f"import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); {SLEEP}"
    made = job(code=stays, activeDeadlineSeconds=3600)
    made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 2
    api.make(made)
    pods_run(cluster)
    (pod,) = cluster.objects("pods")
    wait_for(lambda: api.get(f"{TEAM}/pods/{pod['metadata']['name']}/log").text == "up\n")
    patch = {"Content-Type": "application/merge-patch+json"}
    spec = {"spec": {"activeDeadlineSeconds": 0}}
    api.ok("PATCH", f"{JOBS}/work", json=spec, headers=patch)
    target = wait_for(lambda: condition(seen(cluster, "work", "job"), "FailureTarget"))
    assert target["reason"] == "DeadlineExceeded"
    assert not condition(seen(cluster, "work", "job"), "Failed")
    assert cluster.objects("pods")
    finishes(cluster, "Failed")
    assert not cluster.objects("pods")


def test_what_the_administrator_made_is_no_remainder(cluster: FakeKubernetes) -> None:
    made = cluster.create(pod(code=SLEEP, metadata={"namespace": "team"}))
    pods_run(cluster)
    assert cluster.pids
    assert cluster.at_rest()
    cluster.delete(made, grace=0)
    gone(cluster)


def test_a_lost_pod_is_made_again(cluster: FakeKubernetes, api: Caller) -> None:
    api.make(job(code=SLEEP))
    pods_run(cluster)
    (first,) = cluster.objects("pods")
    api.ok("DELETE", f"{TEAM}/pods/{first['metadata']['name']}")
    gone(cluster, first["metadata"]["name"])
    pods_run(cluster)
    assert seen(cluster, "work", "job")["status"]["failed"] == 1


def test_by_default_pods_outlive_their_job(cluster: FakeKubernetes, api: Caller) -> None:
    api.make(job(code=SLEEP))
    pods_run(cluster)
    response = api.delete(f"{JOBS}/work")
    assert "child pods are preserved by default" in response.headers["Warning"]
    gone(cluster, "work", "job")
    (orphan,) = cluster.objects("pods")
    assert not orphan["metadata"].get("ownerReferences")
    assert orphan["status"]["phase"] == "Running"


def test_in_the_background_the_owner_goes_first(cluster: FakeKubernetes, api: Caller) -> None:
    api.make(job(code=SLEEP))
    pods_run(cluster)
    api.ok("DELETE", f"{JOBS}/work", params={"propagationPolicy": "Background"})
    assert not seen(cluster, "work", "job")
    wait_for(cluster.at_rest)


def test_in_the_foreground_the_owner_goes_last(cluster: FakeKubernetes, api: Caller) -> None:
    owner = api.make(secret("owner"))
    since = owner["metadata"]["resourceVersion"]
    reference = {"apiVersion": "v1", "kind": "Secret", "name": "owner", "blockOwnerDeletion": True}
    reference["uid"] = owner["metadata"]["uid"]
    api.make(pod(code=SLEEP, metadata={"ownerReferences": [reference]}))
    pods_run(cluster)
    body = json.dumps({"propagationPolicy": "Foreground"})
    left = api.request("DELETE", f"{TEAM}/secrets/owner", content=body).json()
    assert left["metadata"]["finalizers"] == ["foregroundDeletion"]
    for event in api.watch(f"{TEAM}/secrets", resourceVersion=since):
        if event["type"] == "DELETED":
            break
    assert not cluster.objects("pods")
    status = api.no(422, "DELETE", f"{TEAM}/secrets/x", params={"propagationPolicy": "Sideways"})
    assert 'Unsupported value: "Sideways"' in status["message"]


def test_what_has_no_owner_left_goes(cluster: FakeKubernetes, api: Caller) -> None:
    owners = [api.make(pod(name, SLEEP)) for name in ("first", "second")]
    references = [
        {"apiVersion": "v1", "kind": "Pod"} | {k: o["metadata"][k] for k in ("name", "uid")}
        for o in owners
    ]
    api.make({**secret(), "metadata": {"name": "key", "ownerReferences": references}})
    for name in ("first", "second"):
        assert seen(cluster, "key", "secret")
        api.ok("DELETE", f"{TEAM}/pods/{name}", params={"gracePeriodSeconds": 0})
    gone(cluster, "key", "secret")
    # One that names an owner which never was goes as well.
    references[0]["uid"] = "never"
    api.make({**secret(), "metadata": {"name": "key", "ownerReferences": references[:1]}})
    gone(cluster, "key", "secret")


def test_a_namespace_takes_all_with_it(cluster: FakeKubernetes, api: Caller) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}}
    api.ok("POST", "/api/v1/namespaces", json=namespace)
    api.ok("POST", "/api/v1/namespaces/other/pods", json=pod(code=SLEEP))
    pods_run(cluster)
    left = api.ok("DELETE", "/api/v1/namespaces/other")
    assert left["status"]["phase"] == "Terminating"
    status = api.no(403, "POST", "/api/v1/namespaces/other/secrets", json=secret())
    assert status["message"] == (
        'secrets "key" is forbidden: unable to create new content in namespace other because it is '
        "being terminated"
    )
    wait_for(cluster.at_rest)


def test_a_pod_that_a_job_only_owns_is_not_its_own(cluster: FakeKubernetes, api: Caller) -> None:
    made = api.make(job(code=SLEEP))
    pods_run(cluster)
    (own,) = cluster.objects("pods")
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "work"}
    owner["uid"] = made["metadata"]["uid"]
    api.make(pod("other", SLEEP, metadata={"ownerReferences": [owner]}))
    pods_run(cluster, 2)
    assert seen(cluster, "work", "job")["status"]["active"] == 1
    cluster.kill(own)
    name = own["metadata"]["name"]
    wait_for(lambda: seen(cluster, name)["status"]["phase"] == "Failed")
    # There is one in its place, whatever the other does.
    pods_run(cluster, 2)

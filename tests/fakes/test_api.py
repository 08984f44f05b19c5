"""The fake Kubernetes API server: objects, lists, watches and faults, over real HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")
kr8s = pytest.importorskip("kr8s")

import httpx  # noqa: E402

from tests.fakes.kubernetes import FakeKubernetes  # noqa: E402
from tests.support.kubernetes_help import JOBS, SLEEP, TEAM, Caller, job, pod, reaches, secret  # noqa: E402
from tests.support.waiting import wait_for  # noqa: E402

pytestmark = pytest.mark.process


@pytest.fixture
def cluster() -> Iterator[FakeKubernetes]:
    with FakeKubernetes(bookmarks=0.1).in_thread() as cluster:
        yield cluster


@pytest.fixture
def api(cluster: FakeKubernetes) -> Iterator[Caller]:
    with Caller(cluster) as api:
        yield api


@pytest.mark.asyncio
async def test_kr8s_finds_its_way(tmp_path: Path) -> None:
    async with FakeKubernetes() as cluster:
        api = await kr8s.asyncio.api(kubeconfig=cluster.kubeconfig(tmp_path / "config"))
        assert api.namespace == "team"
        assert (await api.async_version())["gitVersion"].startswith("v1.")
        assert await api.async_lookup_kind("po", skip_cache=True) == ("pod/v1", "pods", True)
        name = ("job.batch/v1", "jobs", True)
        assert await api.async_lookup_kind("jobs.batch", skip_cache=True) == name
        for number in range(3):
            body = json.dumps(pod(f"p{number}", "print('hello')"))
            async with api.call_api("POST", namespace="team", url="pods", content=body) as response:
                assert response.status_code == 201
        names = [p.name async for p in api.get("pods", namespace="team")]
        assert names == ["p0", "p1", "p2"]
        with pytest.raises(kr8s.ServerError, match='pods "p9" not found') as caught:
            async with api.call_api("GET", namespace="team", url="pods/p9"):
                pass
        assert caught.value.response.status_code == 404
        async for type, found in api.watch("pods", namespace="team"):
            assert type in ("ADDED", "MODIFIED")
            if found.raw["status"]["phase"] == "Succeeded":
                break
        await api._session.aclose()


def test_an_object_is_made_read_and_deleted(cluster: FakeKubernetes, api: Caller) -> None:
    made = api.make(secret(token="s3"))
    assert made["data"] == {"token": "czM="}
    assert made["type"] == "Opaque"
    assert "stringData" not in made
    assert {"uid", "creationTimestamp", "resourceVersion"} <= set(made["metadata"])
    assert not cluster.at_rest()
    assert api.ok("GET", f"{TEAM}/secrets/key") == made
    status = api.no(409, "POST", f"{TEAM}/secrets", json=secret(token="s4"))
    assert status["message"] == 'secrets "key" already exists'
    assert status["reason"] == "AlreadyExists"
    assert status["details"] == {"name": "key", "kind": "secrets"}
    assert api.ok("DELETE", f"{TEAM}/secrets/key")["status"] == "Success"
    status = api.no(404, "GET", f"{TEAM}/secrets/key")
    assert (status["message"], status["reason"]) == ('secrets "key" not found', "NotFound")
    assert cluster.at_rest()


def test_what_the_server_has(cluster: FakeKubernetes, api: Caller) -> None:
    groups = [group["name"] for group in api.ok("GET", "/apis")["groups"]]
    rest = ["networking.k8s.io", "rbac.authorization.k8s.io"]
    assert groups == ["authorization.k8s.io", "batch", *rest]
    found = {}
    for base in ("/api/v1", *(f"/apis/{group}/v1" for group in groups)):
        for entry in api.ok("GET", base)["resources"]:
            found[entry["kind"], entry["name"]] = base, entry["verbs"]
    assert found["Pod", "pods/log"] == ("/api/v1", ["get"])
    name = ("SelfSubjectAccessReview", "selfsubjectaccessreviews")
    assert found[name] == ("/apis/authorization.k8s.io/v1", ["create"])
    api.no(405, "GET", f"{found[name][0]}/{name[1]}")
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "closed"},
        "spec": {"podSelector": {"matchLabels": {"app": "x"}}, "policyTypes": ["Ingress"]},
    }
    path = "/apis/networking.k8s.io/v1/namespaces/team/networkpolicies"
    strict = {"fieldValidation": "Strict"}
    made = api.ok("POST", path, json=policy, params=strict)
    listed = api.ok("GET", "/apis/networking.k8s.io/v1/networkpolicies")
    assert (listed["kind"], listed["items"]) == ("NetworkPolicyList", [made])
    assert cluster.left() == ["networkpolicies team/closed"]
    cluster.delete(made)
    assert cluster.at_rest()


def test_versions_count_across_kinds_and_names_are_generated(api: Caller) -> None:
    first = api.make(secret("a"))
    config: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}}
    config["metadata"] = {"generateName": "conf-"}
    second, third = api.make(config), api.make(config)
    versions = [int(obj["metadata"]["resourceVersion"]) for obj in (first, second, third)]
    assert versions == [versions[0], versions[0] + 1, versions[0] + 2]
    assert second["metadata"]["name"] != third["metadata"]["name"]
    assert second["metadata"]["name"].startswith("conf-")
    assert int(api.ok("GET", f"{TEAM}/pods")["metadata"]["resourceVersion"]) == versions[-1]


def test_updates_are_refused_if_they_come_too_late(api: Caller) -> None:
    made = api.make(secret(a="1"))
    path = f"{TEAM}/secrets/key"
    changed = api.ok("PUT", path, json={**made, "data": {"a": "Mg=="}})
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    status = api.no(409, "PUT", path, json=made)
    assert status["message"] == (
        'Operation cannot be fulfilled on secrets "key": the object has been modified; please '
        "apply your changes to the latest version and try again"
    )
    assert status["reason"] == "Conflict"
    # What changes nothing is not written.
    again = api.ok("PUT", path, json=changed)
    assert again["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]
    other = json.dumps({"preconditions": {"uid": "another"}})
    assert "UID in precondition: another" in api.no(409, "DELETE", path, content=other)["message"]


@pytest.mark.parametrize("kind", ["merge", "strategic-merge"])
def test_patches_merge(api: Caller, kind: str) -> None:
    api.make({**secret(a="1", b="2"), "metadata": {"name": "key", "labels": {"x": "1", "y": "2"}}})
    patch = {"metadata": {"labels": {"x": None, "z": "3"}}, "data": {"b": None}}
    headers = {"Content-Type": f"application/{kind}-patch+json"}
    path = f"{TEAM}/secrets/key"
    new = api.ok("PATCH", path, content=json.dumps(patch), headers=headers)
    assert new["metadata"]["labels"] == {"y": "2", "z": "3"}
    assert new["data"] == {"a": "MQ=="}
    operations = [{"op": "add", "path": "/metadata/labels/q", "value": "4"}]
    headers = {"Content-Type": "application/json-patch+json"}
    new = api.ok("PATCH", path, content=json.dumps(operations), headers=headers)
    assert new["metadata"]["labels"]["q"] == "4"
    api.no(415, "PATCH", path, content="{}", headers={"Content-Type": "application/json"})


def test_selectors(api: Caller) -> None:
    for name, labels in (("a", {"app": "x"}), ("b", {"app": "y", "old": "1"}), ("c", {})):
        api.make({**secret(name), "metadata": {"name": name, "labels": labels}})

    def names(**params: str) -> str:
        items = api.ok("GET", f"{TEAM}/secrets", params=params)["items"]
        return "".join(item["metadata"]["name"] for item in items)

    assert names(labelSelector="app=x") == "a"
    assert names(labelSelector="app!=x") == "bc"
    assert names(labelSelector="app in (x, y),!old") == "a"
    assert names(labelSelector="app notin (x)") == "bc"
    assert names(labelSelector="app,old=1") == "b"
    assert names(fieldSelector="metadata.name=b") == "b"
    assert names(fieldSelector="metadata.name!=b,type=Opaque") == "ac"
    query = {"fieldSelector": "spec.nothing=1"}
    status = api.no(400, "GET", f"{TEAM}/secrets", params=query)
    assert status["message"] == "field label not supported: spec.nothing"
    deleted = api.ok("DELETE", f"{TEAM}/secrets", params={"labelSelector": "app"})
    assert len(deleted["items"]) == 2
    assert names() == "c"


def test_lists_come_in_pages_of_one_moment(cluster: FakeKubernetes, api: Caller) -> None:
    for name in "abc":
        api.make(secret(name))
    page = api.ok("GET", f"{TEAM}/secrets", params={"limit": 2})
    assert page["metadata"]["remainingItemCount"] == 1
    api.make(secret("d"))
    following = {"limit": 2, "continue": page["metadata"]["continue"]}
    rest = api.ok("GET", f"{TEAM}/secrets", params=following)
    assert [item["metadata"]["name"] for item in rest["items"]] == ["c"]
    assert rest["metadata"]["resourceVersion"] == page["metadata"]["resourceVersion"]
    cluster.compact()
    status = api.no(410, "GET", f"{TEAM}/secrets", params=following)
    assert status["reason"] == "Expired"


def test_a_watch_tells_what_happens_to_what_it_chooses(api: Caller) -> None:
    made = api.make({**secret("a"), "metadata": {"name": "a", "labels": {"app": "x"}}})
    since = made["metadata"]["resourceVersion"]
    path = f"{TEAM}/secrets/a"
    headers = {"Content-Type": "application/merge-patch+json"}
    for labels in ({"n": "1"}, {"app": "y"}, {"app": "x"}):
        body = json.dumps({"metadata": {"labels": labels}})
        api.ok("PATCH", path, content=body, headers=headers)
    api.ok("DELETE", path)
    told = list(
        api.watch(
            f"{TEAM}/secrets",
            resourceVersion=since,
            labelSelector="app=x",
            timeoutSeconds=1,
            allowWatchBookmarks="true",
        )
    )
    types = [event["type"] for event in told]
    assert types[:4] == ["MODIFIED", "DELETED", "ADDED", "DELETED"]
    assert set(types[4:]) == {"BOOKMARK"}
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in told]
    assert versions == sorted(versions)
    assert told[-1]["object"]["kind"] == "Secret"


def test_a_watch_begins_with_what_there_is(cluster: FakeKubernetes, api: Caller) -> None:
    api.make(secret("a"))
    told = api.watch(f"{TEAM}/secrets", sendInitialEvents="true", allowWatchBookmarks="true")
    assert next(told)["type"] == "ADDED"
    mark = next(told)["object"]["metadata"]
    assert mark["annotations"] == {"k8s.io/initial-events-end": "true"}
    with Caller(cluster) as other:
        other.make(secret("b"))
    while (event := next(told))["type"] == "BOOKMARK":
        pass
    assert event["object"]["metadata"]["name"] == "b"
    cluster.drop_watches()
    with pytest.raises(httpx.RemoteProtocolError):
        list(told)
    wait_for(lambda: cluster.watches == 0)


def test_a_version_that_is_forgotten_is_gone(cluster: FakeKubernetes, api: Caller) -> None:
    since = api.make(secret("a"))["metadata"]["resourceVersion"]
    running = api.watch(f"{TEAM}/secrets", resourceVersion=since)
    thread = threading.Thread(target=lambda: told.extend(running))
    told: list[Any] = []
    thread.start()
    wait_for(lambda: cluster.watches == 1)
    cluster.compact(open_watches=True)
    thread.join(40)
    assert [event["object"]["code"] for event in told] == [410]
    with Caller(cluster) as other:
        (event,) = other.watch(f"{TEAM}/secrets", resourceVersion=since)
        assert event["type"] == "ERROR"
        assert event["object"]["reason"] == "Expired"
        assert event["object"]["message"].startswith(f"too old resource version: {since} (")
        cluster.compact(http=True)
        query = {"watch": "1", "resourceVersion": since}
        other.no(410, "GET", f"{TEAM}/secrets", params=query)


def test_what_is_not_valid_is_refused(api: Caller) -> None:
    pods = f"{TEAM}/pods"
    status = api.no(422, "POST", pods, json=pod("Big_Name"))
    assert status["reason"] == "Invalid"
    assert status["message"].startswith(
        'Pod "Big_Name" is invalid: metadata.name: Invalid value: "Big_Name": a lowercase RFC 1123 '
        "subdomain must consist of"
    )
    assert status["details"]["causes"][0]["field"] == "metadata.name"
    status = api.no(422, "POST", pods, json=pod(metadata={"labels": {"a": "not so"}}))
    assert 'metadata.labels: Invalid value: "not so": a valid label must be' in status["message"]
    status = api.no(422, "POST", pods, json=pod(image=""))
    assert status["message"] == 'Pod "one" is invalid: spec.containers[0].image: Required value'
    mounts = [{"name": "nowhere", "mountPath": "/x"}]
    status = api.no(422, "POST", pods, json=pod(volumeMounts=mounts))
    assert status["message"].endswith('volumeMounts[0].name: Not found: "nowhere"')
    status = api.no(422, "POST", pods, json={"apiVersion": "v1", "kind": "Pod", "spec": {}})
    assert "name or generateName is required" in status["message"]
    status = api.no(400, "POST", pods, json=pod(resources={"limits": {"cpu": "much"}}))
    assert "quantities must match the regular expression" in status["message"]
    status = api.no(400, "POST", pods, json=job())
    assert status["message"] == (
        "the API version in the data (batch/v1) does not match the expected API version (v1)"
    )
    always = job()
    del always["spec"]["template"]["spec"]["restartPolicy"]
    status = api.no(422, "POST", JOBS, json=always)
    assert (
        'Unsupported value: "Always": supported values: "OnFailure", "Never"' in status["message"]
    )
    api.no(404, "POST", "/api/v1/namespaces/nowhere/pods", json=pod())
    api.no(404, "GET", "/api/v1/namespaces/team/widgets")


def test_secrets_and_policies_that_are_not_valid_are_refused(api: Caller) -> None:
    for key in (".", "..", "..x"):
        wrong = {**secret(), "stringData": {key: "1"}}
        assert f"data[{key}]" in api.no(422, "POST", f"{TEAM}/secrets", json=wrong)["message"]
    path = "/apis/networking.k8s.io/v1/namespaces/team/networkpolicies"

    def policy(*peers: Any, **chosen: str) -> Any:
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "peers"},
            "spec": {"podSelector": {"matchLabels": chosen}, "ingress": [{"from": list(peers)}]},
        }

    block = {"ipBlock": {"cidr": "10.0.0.9/32"}}
    for made, why in (
        (policy(a="not so"), "spec.podSelector.matchLabels"),
        (policy({}), "spec.ingress[0].from[0]: Required value: must specify a peer"),
        (policy({**block, "podSelector": {}}), "may not specify both ipBlock and another peer"),
        (policy({"ipBlock": {"cidr": "10.0.0.9/8"}}), "must be a valid CIDR value"),
        (policy({"ipBlock": {}}), "cidr: Required value"),
    ):
        assert why in api.no(422, "POST", path, json=made)["message"]
    api.ok("POST", path, json=policy(block, {"podSelector": {}}, app="hub"))


def test_what_is_null_is_not_there(cluster: FakeKubernetes, api: Caller) -> None:
    made = api.make(pod(resources=None, env=None, spec={"nodeSelector": None}))
    assert "nodeSelector" not in made["spec"]
    assert "env" not in made["spec"]["containers"][0]


def test_unknown_fields(cluster: FakeKubernetes, api: Caller) -> None:
    cluster.hold_scheduling()
    odd = pod(spec={"restart": "Never"})
    status = api.no(400, "POST", f"{TEAM}/pods", json=odd, params={"fieldValidation": "Strict"})
    assert status["message"] == (
        'Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field '
        '"spec.restart"'
    )
    response = api.post(f"{TEAM}/pods", json=odd)
    assert response.headers["Warning"] == r'299 - "unknown field \"spec.restart\""'
    assert "restart" not in response.json()["spec"]


def test_what_a_pod_is_cannot_be_changed(cluster: FakeKubernetes, api: Caller) -> None:
    made = api.make(pod(code=SLEEP))
    spec = {**made["spec"], "hostname": "other"}
    del made["metadata"]["resourceVersion"]
    status = api.no(422, "PUT", f"{TEAM}/pods/one", json={**made, "spec": spec})
    assert "spec: Forbidden: pod updates may not change fields other than" in status["message"]
    fixed = {**secret(a="1"), "immutable": True}
    api.make(fixed)
    status = api.no(422, "PUT", f"{TEAM}/secrets/key", json=secret(a="2"))
    assert "field is immutable when `immutable` is set" in status["message"]
    reaches(cluster, "Running")


def test_requests_are_logged_and_fail_on_demand(cluster: FakeKubernetes, api: Caller) -> None:
    cluster.fail("create secrets", status=429, times=2, retry_after=1)
    for _ in range(2):
        response = api.post(f"{TEAM}/secrets", json=secret())
        assert response.status_code == 429
        assert response.headers["Retry-After"] == "1"
        assert response.json()["reason"] == "TooManyRequests"
    api.make(secret())
    cluster.fail(lambda request: request.path.endswith("/key"), status=500)
    assert api.no(500, "GET", f"{TEAM}/secrets/key")["reason"] == "InternalError"
    cluster.fail("create *", status=503, after=True)
    api.no(503, "POST", f"{TEAM}/secrets", json=secret("lost"))
    assert api.ok("GET", f"{TEAM}/secrets/lost")
    cluster.fail("get", status=None)
    with pytest.raises(httpx.RemoteProtocolError):
        api.get(f"{TEAM}/secrets/key")
    assert cluster.requests.count("create", "secrets") == 4
    assert cluster.requests.by_verb()["get", "secrets"] == 3
    assert [r.status for r in cluster.requests] == [429, 429, 201, 500, 503, 200, None]
    assert {r.user for r in cluster.requests} == {"driver"}


def test_down_and_up(cluster: FakeKubernetes, api: Caller) -> None:
    api.make(pod(code=SLEEP))
    reaches(cluster, "Running")
    url = cluster.url
    cluster.down()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/version")
    cluster.up()
    assert cluster.url == url
    assert reaches(cluster, "Running")
    assert api.ok("GET", "/version")


def test_a_slow_server(cluster: FakeKubernetes, api: Caller) -> None:
    cluster.slow(0.3)
    before = time.monotonic()
    api.ok("GET", "/version")
    assert time.monotonic() > before + 0.3
    cluster.slow(0)


def test_finalizers_hold_an_object(cluster: FakeKubernetes, api: Caller) -> None:
    held = {**secret(), "metadata": {"name": "key", "finalizers": ["test/hold"]}}
    api.make(held)
    left = api.ok("DELETE", f"{TEAM}/secrets/key")
    assert left["metadata"]["deletionTimestamp"]
    body = json.dumps({"metadata": {"finalizers": None}})
    headers = {"Content-Type": "application/merge-patch+json"}
    api.ok("PATCH", f"{TEAM}/secrets/key", content=body, headers=headers)
    api.no(404, "GET", f"{TEAM}/secrets/key")


def test_nothing_is_left_however_it_ends() -> None:
    ended: list[float] = []

    def fails() -> None:
        with FakeKubernetes().in_thread() as cluster:
            with Caller(cluster) as api:
                # A child that has left its session is found as well.
                api.make(pod(code=f"import os; os.fork() or os.setsid(); {SLEEP}"))
            reaches(cluster, "Running")
            assert cluster.pids
            ended.append(time.monotonic())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    # A pod that is asked to go has 30 s.
    assert time.monotonic() - ended[0] < 15

"""Pods of the fake Kubernetes cluster: real processes, and a status as a kubelet writes it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
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
    state,
)
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


@pytest.fixture
def cluster() -> Iterator[FakeKubernetes]:
    with FakeKubernetes(back_off=0.05, refresh=0.05).in_thread() as cluster:
        yield cluster


@pytest.fixture
def api(cluster: FakeKubernetes) -> Iterator[Caller]:
    with Caller(cluster) as api:
        yield api


def log(api: Caller, name: str = "one", **params: Any) -> str:
    response = api.get(f"{TEAM}/pods/{name}/log", params=params)
    assert response.status_code == 200, response.text
    return response.text


def test_a_pod_runs_and_ends(cluster: FakeKubernetes, api: Caller) -> None:
    since = api.ok("GET", f"{TEAM}/pods")["metadata"]["resourceVersion"]
    api.make(pod(code="import sys; print(sys.executable); print('two')"))
    phases = []
    for event in api.watch(f"{TEAM}/pods", resourceVersion=since):
        phases.append(event["object"]["status"]["phase"])
        if phases[-1] in ("Succeeded", "Failed"):
            break
    assert list(dict.fromkeys(phases)) == ["Pending", "Running", "Succeeded"]
    done = seen(cluster)
    assert state(done)["exitCode"] == 0
    assert state(done)["reason"] == "Completed"
    assert done["status"]["podIP"] == "127.0.0.1"
    assert done["status"]["startTime"]
    assert condition(done, "PodScheduled")["status"] == "True"
    assert condition(done, "Ready")["reason"] == "PodCompleted"
    assert log(api) == f"{sys.executable}\ntwo\n"
    assert log(api, tailLines=1, container="c") == "two\n"
    api.no(400, "GET", f"{TEAM}/pods/one/log", params={"container": "d"})
    assert [*events(cluster)] == ["Scheduled", "Pulling", "Pulled", "Created", "Started"]
    api.ok("DELETE", f"{TEAM}/pods/one")
    wait_for(cluster.at_rest)


def test_a_failure_says_why(cluster: FakeKubernetes, api: Caller) -> None:
    code = "import sys; print('no luck'); sys.exit(3)"
    api.make(pod("exit", code, terminationMessagePolicy="FallbackToLogsOnError"))
    # Two dollars are one, as in a real one.
    words = ["sh", "-c", "echo mine > $F; kill -9 $$$$"]
    env = [{"name": "F", "value": "/dev/termination-log"}]
    api.make(pod("file", command=words, env=env))
    api.make(pod("none", command=["/no/such/program"]))
    ended = state(reaches(cluster, "Failed", "exit"))
    assert (ended["exitCode"], ended["reason"]) == (3, "Error")
    assert ended["message"] == "no luck\n"
    ended = state(reaches(cluster, "Failed", "file"))
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (137, "Error", "mine\n")
    ended = state(reaches(cluster, "Failed", "none"))
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert 'exec: "/no/such/program": executable file not found' in ended["message"]


def test_what_a_container_is_told(cluster: FakeKubernetes, api: Caller) -> None:
    api.make(secret("keys", TOKEN="s3", OTHER="o"))
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "head"},
        "spec": {"ports": [{"port": 8786}], "selector": {"app": "x"}},
    }
    assert api.make(service)["spec"]["clusterIP"] == "127.0.0.1"
    env = [
        {"name": "PLAIN", "value": "p"},
        {"name": "MADE", "value": "$(PLAIN)-$(TOKEN)-$(NOBODY)-$$(PLAIN)"},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "TOKEN"}}},
        {"name": "WHERE", "value": "/etc/keys/sub"},
        {"name": "HEAD", "value": "tcp://head.team.svc.cluster.local:8786"},
        *(
            {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for name, path in {
                "NAME": "metadata.name",
                "NAMESPACE": "metadata.namespace",
                "UID_": "metadata.uid",
                "IP": "status.podIP",
                "LABEL": "metadata.labels['app']",
            }.items()
        ),
    ]
    code = "import os, sys; print(dict(os.environ)); print(sys.argv[1:])"
    made = api.make(
        pod(
            command=["python", "-c", code],
            args=["$(PLAIN)", "/etc/keys/file", "--key=/etc/keys", "/etc/keysandmore"],
            env=env,
            envFrom=[{"secretRef": {"name": n, "optional": n == "no"}} for n in ("keys", "no")],
            volumeMounts=[{"name": "v", "mountPath": "/etc/keys"}],
            metadata={"labels": {"app": "x"}},
            spec={"volumes": [{"name": "v", "emptyDir": {}}]},
        )
    )
    reaches(cluster, "Succeeded")
    first, second = log(api).splitlines()
    told, words = eval(first), eval(second)
    assert (told["PLAIN"], told["MADE"]) == ("p", "p-s3-$(NOBODY)-$(PLAIN)")
    assert (told["KEY"], told["OTHER"]) == ("s3", "o")
    assert told["HEAD"] == "tcp://127.0.0.1:8786"
    assert (told["NAME"], told["NAMESPACE"], told["IP"]) == ("one", "team", "127.0.0.1")
    assert (told["UID_"], told["LABEL"]) == (made["metadata"]["uid"], "x")
    folder = told["WHERE"].removesuffix("/sub")
    assert words == ["p", f"{folder}/file", f"--key={folder}", "/etc/keysandmore"]
    assert "USER" not in told  # nothing of this process' own


def test_volumes_are_folders(cluster: FakeKubernetes, api: Caller) -> None:
    volumes = [
        {"name": "s", "secret": {"secretName": "keys", "defaultMode": 0o400}},
        {"name": "c", "configMap": {"name": "conf", "items": [{"key": "a", "path": "deep/a"}]}},
        {"name": "e", "emptyDir": {}},
        {
            "name": "d",
            "downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]},
        },
    ]
    mounts = [{"name": v["name"], "mountPath": f"/mnt/{v['name']}"} for v in volumes]
    code = (
        "import sys, pathlib as p; s, c, e, d = map(p.Path, sys.argv[1:]);"
        "(e / 'x').write_text('y');"
        "print((s / 'k').read_text(), (c / 'deep/a').read_text(), (d / 'n').read_text())"
    )
    args = [mount["mountPath"] for mount in mounts]
    api.make(
        pod(command=["python", "-c", code, *args], volumeMounts=mounts, spec={"volumes": volumes})
    )
    # It waits for what is not there yet.
    wait_for(lambda: "FailedMount" in events(cluster))
    assert events(cluster)["FailedMount"] == (
        'MountVolume.SetUp failed for volume "s" : secret "keys" not found'
    )
    api.make(secret("keys", k="secret"))
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf"}}
    api.make({**config, "data": {"a": "config", "b": "not"}})
    reaches(cluster, "Succeeded")
    assert log(api) == "secret config one\n"


def test_a_missing_secret_keeps_a_container_from_starting(
    cluster: FakeKubernetes, api: Caller
) -> None:
    api.make(pod(envFrom=[{"secretRef": {"name": "keys"}}]))
    wait_for(lambda: state(seen(cluster), "waiting").get("message"))
    assert state(seen(cluster), "waiting") == {
        "reason": "CreateContainerConfigError",
        "message": 'secret "keys" not found',
    }
    status = api.no(400, "GET", f"{TEAM}/pods/one/log")
    assert status["message"] == (
        'container "c" in pod "one" is waiting to start: CreateContainerConfigError'
    )
    api.make(secret("keys"))
    reaches(cluster, "Succeeded")


def test_a_secret_that_comes_late_or_changes(cluster: FakeKubernetes, api: Caller) -> None:
    volume = {"name": "v", "secret": {"secretName": "keys", "optional": True}}
    code = (
        "import pathlib as p, sys, time; f = p.Path(sys.argv[1])\n"
        "for text in ('none', 'old', 'new'):\n"
        "  while (f.read_text() if f.exists() else 'none') != text: time.sleep(0.01)\n"
        "  print(text, flush=True)"
    )
    mounts = [{"name": "v", "mountPath": "/keys"}]
    command = ["python", "-c", code, "/keys/k"]
    api.make(pod(command=command, volumeMounts=mounts, spec={"volumes": [volume]}))
    reaches(cluster, "Running")
    wait_for(lambda: log(api) == "none\n")
    api.make(secret("keys", k="old"))
    wait_for(lambda: log(api) == "none\nold\n")
    api.ok("PUT", f"{TEAM}/secrets/keys", json=secret("keys", k="new"))
    reaches(cluster, "Succeeded")


def test_images_that_cannot_be_pulled(cluster: FakeKubernetes, api: Caller) -> None:
    image = "registry.test/runner:1"
    cluster.bad_images[image] = f'failed to resolve reference "{image}": not found'
    api.make(pod())
    reasons = set()

    def both() -> bool:
        reasons.add(state(seen(cluster), "waiting").get("reason"))
        return {"ErrImagePull", "ImagePullBackOff"} <= reasons

    wait_for(both)
    assert seen(cluster)["status"]["phase"] == "Pending"
    told = events(cluster)
    assert told["BackOff"] == f'Back-off pulling image "{image}"'
    cluster.bad_images.clear()
    reaches(cluster, "Succeeded")


def test_deleting_a_pod_leaves_it_its_grace(cluster: FakeKubernetes, api: Caller) -> None:
    code = (
        "import signal, sys, time; signal.signal(15, lambda *_: (print('bye'), sys.exit(0)));"
        f"print('up', flush=True); {SLEEP}"
    )
    api.make(pod(code=code))
    wait_for(lambda: api.get(f"{TEAM}/pods/one/log").text == "up\n")
    since = seen(cluster)["metadata"]["resourceVersion"]
    left = api.ok("DELETE", f"{TEAM}/pods/one")
    assert left["metadata"]["deletionGracePeriodSeconds"] == 30
    assert left["metadata"]["deletionTimestamp"]
    told = []
    for event in api.watch(f"{TEAM}/pods", resourceVersion=since):
        told.append(event)
        if event["type"] == "DELETED":
            break
    assert state(told[-1]["object"])["exitCode"] == 0
    assert told[-1]["object"]["status"]["phase"] == "Succeeded"
    assert "Killing" in events(cluster)
    wait_for(cluster.at_rest)


def test_a_pod_that_does_not_listen_is_killed(cluster: FakeKubernetes, api: Caller) -> None:
    code = f"import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); {SLEEP}"
    for name in ("one", "two"):
        api.make(pod(name, code))
        wait_for(lambda name=name: api.get(f"{TEAM}/pods/{name}/log").text == "up\n")
    pids = cluster.pids
    began = time.monotonic()
    api.ok("DELETE", f"{TEAM}/pods/one", params={"gracePeriodSeconds": 1})
    # Without grace it is gone at once, and its process soon after.
    api.ok("DELETE", f"{TEAM}/pods/two?gracePeriodSeconds=0")
    assert not seen(cluster, "two")
    wait_for(lambda: len(cluster.pids) == 1)
    assert seen(cluster)
    gone(cluster)
    # Not the 30 s that a pod has where nothing is said.
    assert 0.9 < time.monotonic() - began < 15
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_shorter_grace_comes_too_late(cluster: FakeKubernetes, api: Caller) -> None:
    """The API server takes it, and the kubelet waits as long as it has said first."""
    code = f"import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); {SLEEP}"
    for name in ("one", "two"):
        api.make(pod(name, code))
        wait_for(lambda name=name: api.get(f"{TEAM}/pods/{name}/log").text == "up\n")
    began = time.monotonic()
    for name in ("one", "two"):
        api.ok("DELETE", f"{TEAM}/pods/{name}", params={"gracePeriodSeconds": 4})
        left = api.ok("DELETE", f"{TEAM}/pods/{name}", params={"gracePeriodSeconds": 1})
        assert left["metadata"]["deletionGracePeriodSeconds"] == 1
    # By force it is gone at once, first or later.
    api.ok("DELETE", f"{TEAM}/pods/two", params={"gracePeriodSeconds": 0})
    wait_for(lambda: len(cluster.pids) == 1)
    assert seen(cluster)
    gone(cluster)
    assert time.monotonic() - began > 3.5


def test_disruptions(cluster: FakeKubernetes, api: Caller) -> None:
    for name in ("oom", "evict", "preempt"):
        api.make(pod(name, SLEEP))
        reaches(cluster, "Running", name)
    cluster.oom("oom")
    ended = state(reaches(cluster, "Failed", "oom"))
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")
    cluster.evict("team/evict")
    evicted = reaches(cluster, "Failed", "evict")
    assert evicted["status"]["reason"] == "Evicted"
    assert evicted["status"]["message"].startswith("The node was low on resource: memory.")
    assert condition(evicted, "DisruptionTarget")["reason"] == "TerminationByKubelet"
    since = seen(cluster, "preempt")["metadata"]["resourceVersion"]
    cluster.preempt(seen(cluster, "preempt"))
    one = {"fieldSelector": "metadata.name=preempt"}
    told = api.watch(f"{TEAM}/pods", resourceVersion=since, **one)
    disruption = condition(next(told)["object"], "DisruptionTarget")
    assert disruption["reason"] == "PreemptionByScheduler"
    gone(cluster, "preempt")


def test_what_a_pod_started_ends_with_it(cluster: FakeKubernetes, api: Caller) -> None:
    code = (
        "import os, subprocess, sys;"
        f"p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True);"
        "print(p.pid, flush=True); os._exit(0)"
    )
    api.make(pod(code=code))
    reaches(cluster, "Succeeded")
    pid = int(log(api))
    # It may be that nobody has waited for it.
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_several_containers_and_a_deadline(cluster: FakeKubernetes, api: Caller) -> None:
    more = pod(code=SLEEP)["spec"]["containers"][0]
    first = {**more, "name": "first", "command": ["python", "-c", "print('before')"]}
    quick = {**more, "name": "quick", "command": ["python", "-c", "print('quick')"]}
    spec = {"initContainers": [first], "containers": [quick, more], "activeDeadlineSeconds": 1}
    api.make(pod(spec={**spec, "terminationGracePeriodSeconds": 1}))
    reaches(cluster, "Running")
    assert log(api, container="first") == "before\n"
    message = api.no(400, "GET", f"{TEAM}/pods/one/log")["message"]
    assert message.endswith("choose one of: [quick c first]")
    late = reaches(cluster, "Failed")
    assert late["status"]["reason"] == "DeadlineExceeded"
    assert [s["name"] for s in late["status"]["containerStatuses"]] == ["quick", "c"]


def test_a_log_is_followed(cluster: FakeKubernetes, api: Caller) -> None:
    code = "import time\nfor n in range(3): print(n, flush=True); time.sleep(0.1)"
    api.make(pod(code=code))
    reaches(cluster, "Running")
    assert log(api, follow="true") == "0\n1\n2\n"


@pytest.mark.asyncio
async def test_ports_are_forwarded(tmp_path: Path) -> None:
    kr8s = pytest.importorskip("kr8s")
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 0));"
        "print(s.getsockname()[1], flush=True);"
        "c = s.accept()[0]; c.sendall(c.recv(9).upper()); c.close()"
    )
    async with FakeKubernetes() as cluster:
        with Caller(cluster) as caller:
            caller.make(pod(code=code))
            reaches(cluster, "Running")
            wait_for(lambda: caller.get(f"{TEAM}/pods/one/log").text.endswith("\n"))
            port = int(log(caller))
        api = await kr8s.asyncio.api(kubeconfig=cluster.kubeconfig(tmp_path / "config"))
        found = await kr8s.asyncio.objects.Pod.get("one", namespace="team", api=api)
        async with found.portforward(port, local_port="auto") as local:
            reader, writer = await asyncio.open_connection("127.0.0.1", local)
            writer.write(b"hello")
            assert await reader.read(9) == b"HELLO"
            assert await reader.read(9) == b""
            writer.close()
        await api._session.aclose()
        assert cluster.requests.count("get", "pods/portforward") == 1


def test_addresses_and_variables_of_all_pods() -> None:
    addresses, env = (lambda count: f"127.0.0.{count + 2}"), {"OF_IMAGE": "yes"}
    with FakeKubernetes(pod_address=addresses, env=env).in_thread() as cluster:
        with Caller(cluster) as api:
            for name in ("one", "two"):
                api.make(pod(name, "import os; print(os.environ['OF_IMAGE'])"))
                reaches(cluster, "Succeeded", name)
            assert log(api, "two") == "yes\n"
        assert seen(cluster, "one")["status"]["podIP"] == "127.0.0.2"
        assert seen(cluster, "two")["status"]["podIP"] == "127.0.0.3"


def test_many_pods_at_once(cluster: FakeKubernetes, api: Caller) -> None:
    for number in range(20):
        api.make(pod(f"p{number}", command=["sleep", "60"]))
    wait_for(lambda: all(p["status"]["phase"] == "Running" for p in cluster.objects("pods")))
    assert len(cluster.pids) == 20
    assert all(os.getsid(pid) == pid for pid in cluster.pids)
    api.ok("DELETE", f"{TEAM}/pods")
    wait_for(cluster.at_rest)
    assert cluster.requests.by_verb()["get", "pods"] == 0


def test_a_log_is_followed_to_its_end_though_the_pod_goes(
    cluster: FakeKubernetes, api: Caller
) -> None:
    code = (
        "import signal, sys, time; print('begun', flush=True); "
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('ended')); time.sleep(60)"
    )
    api.make(pod(code=code))
    reaches(cluster, "Running")
    wait_for(lambda: log(api) == "begun\n")
    params = {"follow": "true"}
    with api.stream("GET", f"{TEAM}/pods/one/log", params=params) as response:
        lines = response.iter_lines()
        assert next(lines) == "begun"
        cluster.delete(seen(cluster), grace=5)
        gone(cluster)
        assert list(lines) == ["ended"]

"""The Kubernetes backend, end to end on an API server whose pods are local processes.

What holds on any Kubernetes is in ``real_kubernetes``; here a server misbehaves on demand.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import platform
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask
import kr8s
import kr8s.asyncio
import pytest
import yaml
from dask.distributed import Client, wait

import dask_flame
from dask_flame import FlameCluster, Pool, RunnerLost
from dask_flame.backends import BackendContext
from dask_flame.backends.kubernetes import KubernetesBackend, owner_job, scheduler_pod
from dask_flame.backends.kubernetes.api import client as api
from dask_flame.backends.kubernetes.api import kubeconfig, transport
from dask_flame.backends.kubernetes.api.permissions import NEEDED, rules
from dask_flame.core.setup_function import LARGEST
from dask_flame.errors import BackendError, BootError, BootTimeout
from tests.backends.kubernetes.calls import say, talk, until, use, whoami
from tests.fakes.kubernetes import FakeKubernetes
from tests.fakes.kubernetes.access import EVERYTHING
from tests.support.gates import at_once
from tests.support.other_python import other_python
from tests.support.paths import ROOT, free_port
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

DRIVER = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "jupyter-me", "namespace": "team", "labels": {"app": "jupyterhub"}},
    "spec": {
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "notebook",
                "image": "hub/image:1",
                "command": ["sleep", "3600"],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    },
}
ROLE = next(yaml.safe_load_all((ROOT / "deploy/kubernetes/role.yaml").read_text()))
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}

Start = Callable[..., FakeKubernetes]


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a cluster with a driver's pod in a restricted namespace, and leads the way there."""
    started: list[FakeKubernetes] = []

    def start(**options: Any) -> FakeKubernetes:
        # What calls import is in the image.
        image = {"PYTHONPATH": str(ROOT)}
        fake = FakeKubernetes(**{"namespaces": {"team": RESTRICTED}, "env": image, **options})
        fake.start()
        started.append(fake)
        fake.create(DRIVER)
        fake.grant("driver", ROLE["rules"])
        wait_for(lambda: fake.objects("pods")[0]["status"].get("podIP"))
        monkeypatch.setenv("KUBECONFIG", fake.kubeconfig(tmp_path / "kubeconfig"))
        monkeypatch.setenv("POD_NAME", "jupyter-me")
        return fake

    yield start
    try:
        for fake in started:
            # Kubernetes collects what is owned by what is gone in its own time.
            wait_for(fake.at_rest, what=f"nothing is left: {fake.left()}")
    finally:
        for fake in started:
            fake.close()


@pytest.fixture
def cluster(kubernetes: Start) -> Iterator[Callable[..., tuple[FlameCluster, Client]]]:
    made: list[tuple[FlameCluster, Client]] = []

    def make(**options: Any) -> tuple[FlameCluster, Client]:
        cluster = FlameCluster(
            **{"backend": KubernetesBackend, "dashboard_address": None, "max": 2, **options}
        )
        client = Client(cluster)
        made.append((cluster, client))
        return cluster, client

    yield make
    for cluster, client in made:
        client.close()
        cluster.close()


def pods(fake: FakeKubernetes) -> list[dict[str, Any]]:
    """The runners' pods."""
    of_runners = "dask.org/component"
    return [p for p in fake.objects("pods") if p["metadata"]["labels"].get(of_runners) == "worker"]


def test_calls_run_in_pods_and_nothing_stays(kubernetes: Start, cluster: Any) -> None:
    fake = kubernetes()
    flame, client = cluster(max=3, idle_timeout="3s", secrets={"TOKEN": "xyzzy"})
    assert fake.left() == []
    assert flame.scheduler.address.startswith("tls://")
    named = [(f"runner-{n}", "xyzzy") for n in (1, 2, 3)]
    assert sorted(at_once(flame, client, whoami, 3)) == named
    kept = client.submit(whoami, pure=False)
    wait(kept)
    made = pods(fake)
    assert len(made) == 3
    (job,) = fake.objects("jobs")
    for pod in made:
        assert pod["spec"]["containers"][0]["image"] == "hub/image:1"
        assert pod["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
        assert "app" not in pod["metadata"]["labels"]
    assert job["metadata"]["ownerReferences"][0]["name"] == "jupyter-me"
    (policy,) = fake.objects("networkpolicies")
    assert policy["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    label = policy["spec"]["podSelector"]["matchLabels"].items()
    assert all(label <= pod["metadata"]["labels"].items() for pod in made)
    mates, driver = (peer["podSelector"] for peer in policy["spec"]["ingress"][0]["from"])
    assert mates == policy["spec"]["podSelector"]
    assert driver == {"matchLabels": DRIVER["metadata"]["labels"]}
    private = ("xyzzy", "PRIVATE KEY", flame.security.tls_worker_key)
    for kind in ("pods", "jobs", "events"):
        text = json.dumps(fake.objects(kind))
        assert not any(secret in text for secret in private)
    steps = {"accepted", "scheduled", "started", "registered"}
    wait_for(lambda: {step for step, _ in flame.boots[0].steps} >= steps)
    wait_for(lambda: not pods(fake), what="idle runners have gone")
    assert kept.result()[1] == "xyzzy"
    assert client.submit(whoami).result(timeout=60)[0] == "runner-4"
    flame.close()
    wait_for(fake.at_rest)


def test_a_secret_may_be_one_that_is_there(kubernetes: Start, cluster: Any) -> None:
    fake = kubernetes()
    there = {"metadata": {"name": "there", "namespace": "team"}, "stringData": {"k": "xyzzy"}}
    fake.create({"apiVersion": "v1", "kind": "Secret", **there})
    flame, client = cluster(max=1, secrets={"TOKEN": {"name": "there", "key": "k"}})
    assert client.submit(whoami).result(timeout=60)[1] == "xyzzy"
    assert "name: there" in str(flame.manifest())


def test_a_refusal_that_repeats_a_secret_does_not_show_it(kubernetes: Start, cluster: Any) -> None:
    kubernetes()

    def careless(pod: dict[str, Any]) -> dict[str, Any]:
        pod["metadata"]["labels"] = {"note": "no valid label"}
        return pod

    flame, client = cluster(
        max=1, secrets={"TOKEN": "no valid label"}, pod_template=careless, boot_attempts=1
    )
    with pytest.raises(BootError, match=r"was refused: .*\(hidden\)") as error:
        client.submit(whoami).result(timeout=60)
    assert "no valid label" not in str(error.value) + str(flame.events)


def test_a_wave_is_one_burst_and_nobody_is_asked_for_by_name(
    kubernetes: Start, cluster: Any
) -> None:
    fake = kubernetes()
    _, client = cluster(max=12)
    client.gather(client.map(whoami, [0.2] * 12, pure=False))
    counts = fake.requests.by_verb()
    assert counts["create", "pods"] == 12 + 1  # the trial of the watchdog's
    assert counts["get", "pods"] == 1  # the driver's own
    assert counts["watch", "pods"] <= 2
    assert counts["list", "pods"] == 1
    kinds = ("jobs", "secrets", "networkpolicies")
    assert [counts["create", kind] for kind in kinds] == [1, 1, 1]


def test_closing_says_nothing_of_the_watchdog(
    kubernetes: Start, cluster: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    kubernetes()
    flame, client = cluster(max=1)
    client.submit(whoami).result(timeout=60)
    held = flame.backend._owner_job._presence._held
    wait_for(lambda: held, what="the watchdog has found the driver")
    capfd.readouterr()
    client.close()
    flame.close()
    wait_for(lambda: not held)
    assert capfd.readouterr().err == ""


def test_everything_goes_with_the_drivers_pod(kubernetes: Start, cluster: Any) -> None:
    fake = kubernetes()
    flame, client = cluster(disconnect_grace="7s")
    client.submit(whoami).result(timeout=60)
    assert pods(fake)
    (job,) = fake.objects("jobs")
    assert job["spec"]["template"]["spec"]["containers"][0]["args"][-1] == "7"
    uid = job["metadata"]["ownerReferences"][0]["uid"]
    driver = next(p for p in fake.objects("pods") if p["metadata"]["name"] == "jupyter-me")
    assert driver["metadata"]["uid"] == uid
    assert flame.backend.listening["host"] == driver["status"]["podIP"]


def test_no_room(kubernetes: Start, cluster: Any) -> None:
    fake = kubernetes(nodes=[{"cpu": 8, "memory": "16Gi"}] * 3)
    flame, client = cluster(gpus=1, boot_timeout="3s", boot_attempts=1)
    future = client.submit(whoami)
    held = wait_for(lambda: [e for e in flame.events if e.kind == "held"])
    assert "0/3 nodes are available: 3 Insufficient nvidia.com/gpu" in held[0].reason
    with pytest.raises(BootTimeout, match="3 Insufficient nvidia"):
        future.result(timeout=60)
    wait_for(lambda: not pods(fake))


def test_room_that_comes_later(kubernetes: Start, cluster: Any) -> None:
    fake = kubernetes(nodes=[{"cpu": 8, "memory": "16Gi"}])
    flame, client = cluster(gpus=1)
    future = client.submit(whoami)
    wait_for(lambda: [e for e in flame.events if e.kind == "held"])
    fake.add_node({"cpu": 8, "memory": "16Gi", "nvidia.com/gpu": 1})
    assert future.result(timeout=60)[0] == "runner-1"
    assert "held up" not in repr(flame.boots)


def test_a_quota(kubernetes: Start, cluster: Any, caplog: pytest.LogCaptureFixture) -> None:
    fake = kubernetes()
    fake.create(quota(pods="5"))
    flame, client = cluster(max=8, boot_attempts=2, idle_timeout="1s", single_use=True)
    # The driver's pod and the watchdog's are two of the five.
    futures = client.map(whoami, [0.3] * 8, pure=False)
    assert len({name for name, _ in client.gather(futures)}) == 8
    # Said once. What is refused is asked for again when a runner has gone.
    (refused,) = [e for e in flame.events if e.kind == "failed"]
    assert "exceeded quota: small" in refused.reason
    assert "the others wait until a runner has gone" in refused.reason
    assert [r.levelname for r in caplog.records].count("WARNING") == 1
    assert fake.requests.count("create", "pods") < 5 + 3 * 8


def test_where_a_quota_has_no_room_and_nothing_goes_there_is_a_pause(
    kubernetes: Start, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_flame.scaling.no_room.PAUSE", 1e6)  # longer than this may take
    fake = kubernetes()
    fake.create(quota(pods="5"))
    flame, client = cluster(max=8)
    futures = client.map(whoami, [1.0] * 16, pure=False)
    assert len({name for name, _ in client.gather(futures)}) == 3
    # One was the trial of the watchdog's.
    assert fake.requests.count("create", "pods") == 9
    assert len([e for e in flame.events if e.kind == "failed"]) == 1


def test_a_pool_takes_the_room_that_another_one_leaves(
    kubernetes: Start, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_flame.scaling.no_room.PAUSE", 1e6)  # not by chance
    fake = kubernetes()
    fake.create(quota(pods="4"))
    pools = {"first": Pool(max=1, idle_timeout="0.5s"), "second": Pool(max=2)}
    flame, client = cluster(max=None, pools=pools)
    held = client.submit(until, str(tmp_path / "first"))
    wait_for(lambda: _busy(client))
    with dask.annotate(pool="second"):
        futures = [client.submit(until, str(tmp_path / name)) for name in ("second", "third")]
    wait_for(lambda: [e for e in flame.events if e.kind == "failed"])
    (tmp_path / "first").touch()
    assert held.result(timeout=60) == "first-1"
    # One has come when the first pool's had gone.
    wait_for(lambda: sum(m.busy for n, m in flame.runners.items() if "second" in n) == 2)
    for name in ("second", "third"):
        (tmp_path / name).touch()
    assert len(set(client.gather(futures))) == 2
    assert len([e for e in flame.events if e.kind == "failed"]) == 1


def test_a_quota_without_room_for_one_is_an_error(kubernetes: Start, cluster: Any) -> None:
    fake = kubernetes()
    fake.create(quota(**{"limits.memory": "200Mi"}))
    _, client = cluster(memory="300 MiB", cpus="200m", boot_attempts=2, max=4)
    futures = client.map(whoami, [0.3] * 4, pure=False)
    with pytest.raises(BootError, match=r"requested: limits.memory=300Mi, used.*limited: .*200Mi"):
        client.gather(futures)


def quota(**hard: str) -> dict[str, Any]:
    metadata = {"name": "small", "namespace": "team"}
    spec = {"hard": hard}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": spec}


def test_a_bad_image_is_said_once_and_fails_at_once(
    kubernetes: Start, cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    why = "failed to resolve reference registry.test/no:1: not found"
    fake = kubernetes(bad_images={"registry.test/no:1": why}, back_off=0.5)
    pools = {"good": Pool(max=2), "bad": Pool(max=4, image="registry.test/no:1")}
    flame, client = cluster(max=None, pools=pools)
    with dask.annotate(pool="bad"):
        futures = client.map(whoami, [0.0] * 4, pure=False)
    with pytest.raises(BootError, match=f"1 boot failed, as any other would.*{why}") as error:
        client.gather(futures)
    assert str(error.value).count(why) == 1
    assert client.submit(whoami).result(timeout=60)[0] == "good-1"
    assert repr(flame.events).count(why) == 1
    assert sum(why in r.getMessage() for r in caplog.records) == 1
    made = fake.requests.count("create", "pods")
    assert made <= 6
    # What is submitted later is tried again, and told anew.
    with dask.annotate(pool="bad"), pytest.raises(BootError, match=why):
        client.submit(whoami, pure=False).result(timeout=60)
    assert repr(flame.events).count(why) == 2


def test_an_image_that_may_come_is_tried_again_and_said_once(
    kubernetes: Start, cluster: Any
) -> None:
    why = "failed to do request: read: connection reset by peer"
    fake = kubernetes(bad_images={"registry.test/slow:1": why}, back_off=0.1)
    flame, client = cluster(image="registry.test/slow:1", max=2, on_boot_failure="wait")
    futures = client.map(whoami, [0.1] * 2, pure=False)
    wait_for(lambda: fake.requests.count("create", "pods") >= 5)
    assert repr(flame.events).count(why) == 1
    fake.bad_images.clear()
    assert client.gather(futures)


def test_boots_whose_calls_were_taken_back_end_at_once(kubernetes: Start, cluster: Any) -> None:
    fake = kubernetes(nodes=[{"cpu": 2, "memory": "16Gi"}])
    flame, client = cluster(max=16, min=1, cpus=1, idle_timeout="10m")
    futures = client.map(whoami, [0.0] * 16, pure=False)
    futures += client.map(whoami, [600.0] * 16, pure=False)
    wait_for(lambda: len(pods(fake)) == 16)
    client.cancel(futures)
    wait_for(lambda: len(pods(fake)) <= 2)
    reasons = [e.reason for e in flame.events if e.kind == "retire"]
    assert any("nobody wants the calls any more" in reason for reason in reasons)
    assert len(flame.runners) >= 1
    assert client.submit(whoami).result(timeout=60)


def test_another_python_in_an_image(
    kubernetes: Start, cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program, version = other_python(tmp_path)
    fake = kubernetes(pythons={"registry.test/other:1": program})
    pools = {"good": Pool(max=2), "other": Pool(max=3, image="registry.test/other:1")}
    flame, client = cluster(max=None, pools=pools)
    with dask.annotate(pool="other"):
        futures = client.map(lambda n: n + 1, range(3))
    mine = platform.python_version()
    said = f"has Python {version}, and the driver has Python {mine}: .* write image="
    with pytest.raises(BootError, match=said):
        client.gather(futures)
    assert client.submit(lambda: 3).result(timeout=60) == 3
    (told,) = [e.reason for e in flame.events if version in e.text]
    assert re.match(said, told)
    assert fake.requests.count("create", "pods") <= 5  # tried once
    # What waits for runners by their number is told as well.
    with pytest.raises(BootError, match=said):
        flame.wait_for_workers(1, pool="other", timeout=60)
    wait_for(lambda: {pod["spec"]["containers"][0]["image"] for pod in pods(fake)} == {DRIVEN})


def test_setup_runs_in_pods_and_ends_with_them(
    kubernetes: Start, cluster: Any, tmp_path: Path
) -> None:
    fake = kubernetes()

    def load() -> Iterator[str]:
        print("loading")
        yield os.environ["DASK_WORKER_NAME"]
        (tmp_path / "ended").write_text(os.environ["DASK_WORKER_NAME"])

    token = "s3cret-in-a-closure"
    flame, client = cluster(max=1, setup=load)
    assert client.submit(dask_flame.setup_result).result(timeout=60) == "runner-1"
    steps = {"scheduled", "setting up", "setup", "registered"}
    wait_for(lambda: {step for step, _ in flame.boots[0].steps} >= steps)
    wait_for(lambda: "loading" in str(flame.get_logs()["runner-1"]))
    flame.resize(setup=lambda: token, idle_timeout="0.2s")
    wait_for(lambda: not flame.runners)
    wait_for((tmp_path / "ended").exists)
    wait_for(lambda: (tmp_path / "ended").read_text() == "runner-1")
    assert client.submit(dask_flame.setup_result).result(timeout=60) == token
    # It is a part of the Secret, and nothing else.
    for kind in ("pods", "jobs", "events"):
        assert token not in json.dumps(fake.objects(kind))
    secrets = [base64.b64decode(v) for s in fake.objects("secrets") for v in s["data"].values()]
    functions = [f["function"] for s in secrets if (f := json.loads(s).get("setup"))]
    assert any(token.encode() in base64.b64decode(function) for function in functions)
    assert not any(function in str(flame.manifest()) for function in functions)


def test_a_setup_that_fails_in_a_pod_is_said_with_its_traceback(
    kubernetes: Start, cluster: Any
) -> None:
    kubernetes()

    def load() -> None:
        raise ValueError("no model in this image")

    _, client = cluster(max=1, boot_attempts=1, setup=load)
    with pytest.raises(BootError) as caught:
        client.submit(dask_flame.setup_result).result(timeout=60)
    said = str(caught.value)
    assert "setting up after" in said
    assert "in load\n" in said
    assert "    setup=load has failed: ValueError: no model in this image\n" in said


def test_a_large_setup_fits_into_a_secret(kubernetes: Start, cluster: Any) -> None:
    kubernetes()
    weights = os.urandom(LARGEST - 4_000)
    _, client = cluster(max=1, setup=lambda: sum(weights))
    assert client.submit(dask_flame.setup_result).result(timeout=60) == sum(weights)


def test_another_python_in_an_image_is_not_given_setup(
    kubernetes: Start, cluster: Any, tmp_path: Path
) -> None:
    program, version = other_python(tmp_path)
    kubernetes(pythons={"registry.test/other:1": program})
    _, client = cluster(max=1, image="registry.test/other:1", setup=(tmp_path / "called").touch)
    with pytest.raises(BootError, match=f"1 boot failed, as .* has Python {version}, and the dri"):
        client.submit(abs, 1).result(timeout=60)
    assert not (tmp_path / "called").exists()


DRIVEN = "hub/image:1"


def test_missing_rights_are_named_as_a_role_has_them(kubernetes: Start) -> None:
    fake = kubernetes()
    fake.grant("driver", ROLE["rules"][:2])
    with pytest.raises(BackendError) as error:
        FlameCluster(backend=KubernetesBackend, max=1, dashboard_address=None)
    missing = [(kind, part, verb) for kind, part, verbs in NEEDED[2:] for verb in verbs]
    assert rules(missing) in str(error.value)
    assert 'resources: ["secrets"]' in str(error.value)
    assert 'resources: ["networkpolicies"]' in str(error.value)
    fake.grant("driver", ROLE["rules"])
    flame = FlameCluster(backend=KubernetesBackend, max=1, dashboard_address=None)
    with flame, Client(flame) as client:
        assert client.submit(whoami).result(timeout=60)[0] == "runner-1"
    wait_for(fake.at_rest)


def test_without_a_network_policy_there_is_no_right_to_one(kubernetes: Start, cluster: Any) -> None:
    fake = kubernetes()
    others = [rule for rule in ROLE["rules"] if rule["resources"] != ["networkpolicies"]]
    assert len(others) == len(ROLE["rules"]) - 1
    fake.grant("driver", others)
    with dask.config.set({"flame.kubernetes.network-policy": False}):
        _, client = cluster(max=1)
        assert client.submit(whoami).result(timeout=60)[0] == "runner-1"
    assert fake.objects("networkpolicies") == []


def test_a_driver_that_is_in_no_pod(kubernetes: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    kubernetes()
    monkeypatch.setenv("POD_NAME", "another")
    with pytest.raises(BackendError, match=r'needs a driver in a pod.*write scheduler="pod"'):
        FlameCluster(backend=KubernetesBackend, max=1, dashboard_address=None, scheduler="driver")


def test_a_namespace_that_is_not_there(kubernetes: Start) -> None:
    kubernetes().grant("driver", EVERYTHING)
    make = r'there is no namespace .nope. .*kubectl create namespace nope.*namespace="team"'
    with pytest.raises(BackendError, match=make):
        FlameCluster(backend=KubernetesBackend, namespace="nope", dashboard_address=None)


def test_no_cluster_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(BackendError, match="the Kubernetes API cannot be used"):
        FlameCluster(backend=KubernetesBackend, max=1, dashboard_address=None)


def test_a_scheduler_without_a_node_names_the_settings_of_its_pod(kubernetes: Start) -> None:
    fake = kubernetes(nodes=[{"cpu": "5m", "memory": "16Gi"}])
    fake.grant("driver", EVERYTHING)
    with (
        dask.config.set({"flame.scheduler.timeout": "3s"}),
        pytest.raises(BackendError, match=r"Unsched.*; relevant settings: flame\.scheduler\.cpus"),
    ):
        FlameCluster(backend=KubernetesBackend, max=1, scheduler="pod", dashboard_address=None)


def test_a_server_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "kubeconfig"
    server = "http://127.0.0.1:9"
    context = {"name": "mine", "context": {"cluster": "c", "user": "u"}}
    clusters, users = [{"name": "c", "cluster": {"server": server}}], [{"name": "u", "user": {}}]
    kubeconfig = {"current-context": "mine", "contexts": [context]}
    path.write_text(yaml.safe_dump({**kubeconfig, "clusters": clusters, "users": users}))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setattr(transport, "_SILENT", 0.01)
    monkeypatch.setattr(api.Api, "connect", partial(api.Api.connect, patience=1))
    with pytest.raises(BackendError) as error:
        FlameCluster(backend=KubernetesBackend, max=1, dashboard_address=None)
    said = str(error.value)
    assert f"cannot be used: {server} (context 'mine') cannot be reached: ConnectError" in said
    assert "; type: kubectl --context mine cluster-info" in said
    (waiting,) = [r.getMessage() for r in caplog.records if "waiting" in r.getMessage()]
    assert waiting == f"waiting for an answer of {server} (context 'mine')"


def test_a_token_that_is_refused(tmp_path: Path, kubernetes: Start) -> None:
    kubernetes()
    path = Path(os.environ["KUBECONFIG"])
    kubeconfig = yaml.safe_load(path.read_text())
    kubeconfig["users"][0]["user"] = {"token": "another"}
    path.write_text(yaml.safe_dump(kubeconfig))
    with pytest.raises(BackendError, match=r"; type: kubectl --context \S+ auth whoami"):
        FlameCluster(backend=KubernetesBackend, max=1, dashboard_address=None)


def test_a_misspelt_field_of_a_template_is_refused(kubernetes: Start, cluster: Any) -> None:
    kubernetes()
    template = {"spec": {"nodeSelectr": {"disk": "ssd"}}}
    _, client = cluster(max=1, pod_template=template, boot_attempts=1)
    with pytest.raises(BootError) as error:
        client.submit(whoami).result(timeout=60)
    said = 'unknown field "spec.nodeSelectr"; relevant settings: pod_template and'
    assert said in str(error.value)


@pytest.mark.parametrize("where", ["driver", "pod"])
def test_a_misspelt_field_of_the_platforms_template_is_refused(
    kubernetes: Start, cluster: Any, where: str
) -> None:
    fake = kubernetes()
    fake.grant("driver", EVERYTHING)
    template = {"spec": {"nodeSelectr": {"disk": "ssd"}}}

    def use() -> None:
        _, client = cluster(max=1, scheduler=where, boot_attempts=1)
        client.submit(whoami).result(timeout=60)

    said = r'spec\.nodeSelectr"; relevant settings: .*flame\.kubernetes\.pod-template'
    with (
        dask.config.set({"flame.kubernetes.pod-template": template}),
        pytest.raises((BootError, BackendError), match=said),
    ):
        use()


def test_an_image_without_dask_flame_is_said_to_be_one(kubernetes: Start, cluster: Any) -> None:
    kubernetes()
    program = ["python", "-c", "raise SystemExit(\"No module named 'dask_flame'\")"]
    template = {"spec": {"containers": [{"command": program}]}}
    _, client = cluster(max=1, pod_template=template, boot_attempts=1)
    with pytest.raises(BootError) as error:
        client.submit(whoami).result(timeout=60)
    said = "exit code 1; its image has no dask-flame: install it there; relevant settings: image"
    assert said in str(error.value)


def test_a_server_that_is_busy_or_away(kubernetes: Start, cluster: Any) -> None:
    fake = kubernetes()
    flame, client = cluster(max=3)
    fake.fail("create pods", status=429, times=3, retry_after=0.2)
    fake.fail("create secrets", status=500, times=1)
    # Made, and the answer lost.
    fake.fail("create pods", status=None, times=2, after=True)
    fake.fail("create secrets", status=None, times=1, after=True)
    fake.fail("create jobs", status=None, times=1, after=True)
    fake.fail("create networkpolicies", status=None, times=1, after=True)
    names = {name for name, _ in at_once(flame, client, whoami, 3)}
    assert len(names) == 3
    assert len(pods(fake)) == 3
    fake.down()
    assert client.submit(whoami, pure=False).result(timeout=60)[0] in names
    fake.up()


def test_a_server_that_is_back_and_not_ready(kubernetes: Start, cluster: Any) -> None:
    """What it refuses in its first seconds is asked for again; what it decides is not."""
    fake = kubernetes()
    flame, client = cluster(max=2, boot_attempts=1)
    assert client.submit(whoami, pure=False).result(timeout=60)[0] == "runner-1"
    fake.down()
    futures = client.map(whoami, [1.0] * 2, pure=False)
    wait_for(lambda: len(flame.runners) == 2)
    fake.up(unready=3.0)
    assert {name for name, _ in client.gather(futures)} <= {"runner-1", "runner-2"}
    wait_for(lambda: len(pods(fake)) == 2)
    assert any(r.status == 403 for r in fake.requests)
    assert not [e for e in flame.events if e.kind == "failed"]


def test_rights_that_a_server_does_not_know_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(fake: FakeKubernetes) -> None:
        made = await api.Api.connect()
        try:
            await made.list(api.PODS, "")
            await asyncio.to_thread(fake.down)
            asked = asyncio.create_task(made.list(api.PODS, ""))
            await asyncio.to_thread(wait_for, lambda: made._transport.just_back)
            await asyncio.to_thread(fake.up, unready=2.0)
            await asked
            # It is up: this only has it forget for a moment.
            await asyncio.to_thread(fake.up, unready=2.0)
            assert await made.allowed("create", api.PODS)
            # Of one that has been there for a while, it is the last word.
            monkeypatch.setattr(transport, "_READY_WITHIN", 0.0)
            await asyncio.to_thread(fake.grant, "driver", [])
            assert not await made.allowed("create", api.PODS)
            with pytest.raises(api.KubernetesError, match="cannot list"):
                await made.list(api.PODS, "")
        finally:
            await made.close()

    with FakeKubernetes().in_thread() as fake:
        monkeypatch.setenv("KUBECONFIG", fake.kubeconfig(tmp_path / "kubeconfig"))
        asyncio.run(ask(fake))


def test_watches_that_are_cut_or_too_old(kubernetes: Start, cluster: Any) -> None:
    fake = kubernetes()
    flame, client = cluster(max=1, idle_timeout="0.5s")
    for number, trouble in enumerate(
        (
            fake.drop_watches,
            lambda: fake.compact(open_watches=True),
            lambda: (fake.compact(http=True), fake.drop_watches()),
        ),
        start=1,
    ):
        assert client.submit(whoami, pure=False).result(timeout=60)[0] == f"runner-{number}"
        trouble()
        wait_for(lambda: not pods(fake) and not flame.runners)


def of_the_watchdog(flame: FlameCluster) -> str:
    """What is said of a watchdog that does not run; said once."""
    (event,) = wait_for(lambda: [e for e in flame.events if "the watchdog" in e.reason])
    assert (event.kind, event.runners) == ("held", ())
    return str(event.reason)


def test_a_watchdog_for_which_there_is_no_room_is_told_of_and_holds_nothing_up(
    kubernetes: Start, cluster: Any
) -> None:
    # Room for pods that ask for nothing, as the runners do.
    fake = kubernetes(nodes=[{"cpu": "5m", "memory": "16Gi"}])
    flame, client = cluster(max=1)
    assert client.submit(whoami).result(timeout=60)[0] == "runner-1"
    assert "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu" in of_the_watchdog(flame)
    assert fake.requests.by_verb()["list", "pods"] == 1
    assert fake.requests.by_verb()["get", "jobs"] == 0


def test_a_watchdog_whose_image_cannot_be_pulled(kubernetes: Start, cluster: Any) -> None:
    kubernetes(bad_images={"no/such:1": "not found"}, back_off=600)
    with dask.config.set({"flame.kubernetes.image": "no/such:1"}):
        flame, client = cluster(max=1, image="hub/image:1")
        assert client.submit(whoami).result(timeout=60)[0] == "runner-1"
        assert "does not run: ErrImagePull: not found" in of_the_watchdog(flame)


def test_a_watchdog_that_crashes(kubernetes: Start, cluster: Any) -> None:
    # As in an image without dask-flame.
    broken = {"PYTHONPATH": str(ROOT), "PYTHONHOME": "/nonexistent"}
    kubernetes(env=broken)
    flame, client = cluster(max=1, boot_attempts=1)
    future = client.submit(whoami)
    assert "does not run: exit code 1" in of_the_watchdog(flame)
    with pytest.raises(BootError):
        future.result(timeout=60)


def of_watchdog(obj: dict[str, Any]) -> bool:
    component = obj["metadata"].get("labels", {}).get("dask.org/component")
    return bool(obj["kind"] == "Pod" and component == "watchdog")


def test_a_watchdog_that_is_refused_fails_the_boot_and_leaves_nothing(
    kubernetes: Start, cluster: Any
) -> None:
    fake = kubernetes()
    fake.admit(lambda verb, obj: "not here" if of_watchdog(obj) else None)
    _, client = cluster(max=1, boot_attempts=1)
    with pytest.raises(BootError) as error:
        client.submit(whoami).result(timeout=60)
    said = str(error.value)
    assert "the watchdog's pod, which ends the cluster with its driver: admission webhook" in said
    assert "denied the request: not here; relevant settings: labels, annotations, " in said
    assert "flame.kubernetes.pod-template" in said
    # As the driver is left now, nobody could end what it had made.
    assert fake.left() == []
    fake.admit(None)
    assert client.submit(whoami, pure=False).result(timeout=60)[0].startswith("runner-")


@pytest.mark.parametrize("told", [True, False])
def test_a_cluster_without_a_watchdog_is_given_up_and_leaves_nothing(
    kubernetes: Start, cluster: Any, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    for name in ("_SEEN_WITHIN", "_PATIENCE", "_ASK_AGAIN"):
        monkeypatch.setattr(owner_job, name, 0.5)
    fake = kubernetes()
    trials = 0

    def refuse(verb: str, obj: dict[str, Any]) -> str | None:
        """Refuse it, but not the first trial, nor any if nobody is to be told."""
        nonlocal trials
        trial = obj["metadata"].get("name", "").endswith("-trial")
        trials += trial
        accepted = trial and (trials == 1 or not told)
        return "not here" if of_watchdog(obj) and not accepted else None

    fake.admit(refuse)
    flame, client = cluster(max=1, boot_attempts=1)
    future = client.submit(whoami, 600.0)
    words = "denied the request: not here" if told else "no pod was made for it"
    assert words in of_the_watchdog(flame)
    with pytest.raises(BootError, match=words):
        future.result(timeout=120)
    wait_for(lambda: not fake.left(), what=f"nothing is left: {fake.left()}")


def test_a_watchdog_waits_for_room_in_a_quota(
    kubernetes: Start, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_job, "_SEEN_WITHIN", 0.5)
    fake = kubernetes()

    def refuse(verb: str, obj: dict[str, Any]) -> str | None:
        trial = obj["metadata"].get("name", "").endswith("-trial")
        first = fake.requests.count("create", "jobs") == 0
        return "exceeded quota: small" if of_watchdog(obj) and not (trial and first) else None

    fake.admit(refuse)
    flame, client = cluster(max=1)
    assert client.submit(whoami).result(timeout=60)[0] == "runner-1"
    assert "exceeded quota: small" in of_the_watchdog(flame)
    fake.admit(None)
    wait_for(lambda: [p for p in fake.objects("pods") if of_watchdog({**p, "kind": "Pod"})])
    assert client.submit(whoami, pure=False).result(timeout=60)[0] == "runner-1"


def needs(verb: str, obj: dict[str, Any]) -> str | None:
    """Refuse pods and Jobs without a label and a toleration, as a policy of a platform does."""
    if obj["kind"] not in ("Pod", "Job") or obj["metadata"].get("name") == "jupyter-me":
        return None
    template = obj["spec"].get("template", obj)
    for part in (obj, template):
        if part["metadata"].get("labels", {}).get("cost-center") != "42":
            return "the label cost-center is required"
    if {"key": "team", "operator": "Exists"} not in template["spec"].get("tolerations", []):
        return f"no toleration: {template['spec'].get('tolerations')}"
    return None


DEMANDED = {
    "metadata": {"labels": {"cost-center": "42"}},
    "spec": {"tolerations": [{"key": "team", "operator": "Exists"}]},
}


@pytest.mark.parametrize("where", ["driver", "pod"])
def test_a_policy_of_a_platform_is_met_by_its_template(
    kubernetes: Start, cluster: Any, where: str
) -> None:
    fake = kubernetes()
    if where == "pod":
        fake.grant("driver", EVERYTHING)
    fake.admit(needs)
    with dask.config.set(
        {
            "flame.kubernetes.pod-template": DEMANDED,
            "flame.scheduler.port": free_port(),
            "flame.scheduler.dashboard-port": free_port(),
        }
    ):
        _, client = cluster(max=1, scheduler=where)
        assert client.submit(whoami).result(timeout=120)[0] == "runner-1"
        found = {p["metadata"]["labels"].get("dask.org/component") for p in fake.objects("pods")}
        assert found == {None, "worker", "watchdog" if where == "driver" else "scheduler"}


def test_a_scheduler_that_a_policy_refuses_names_the_settings(
    kubernetes: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_pod, "_PATIENCE", 2.0)
    fake = kubernetes()
    fake.grant("driver", EVERYTHING)
    fake.admit(lambda verb, obj: needs(verb, obj) if obj["kind"] == "Pod" else None)
    with pytest.raises(BackendError, match="cost-center is required") as error:
        FlameCluster(backend=KubernetesBackend, max=1, scheduler="pod")
    assert "relevant settings: flame.kubernetes.pod-template" in str(error.value)
    assert "flame.scheduler.pod-template" in str(error.value)


def test_nothing_is_said_of_a_watchdog_that_nobody_can_ask_for(
    kubernetes: Start, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_job, "_SEEN_WITHIN", 0.5)
    monkeypatch.setattr(owner_job, "_ASK_AGAIN", 0.1)
    fake = kubernetes()
    flame, client = cluster(max=1)

    wait_for(lambda: fake.watches)
    # The watch, and lists in its place, tell nothing.
    fake.fail("watch pods", times=10_000)
    fake.fail("list pods", times=10_000)
    fake.drop_watches()
    future = client.submit(whoami)
    wait_for(lambda: fake.requests.count("list", "pods") > 3)
    assert not [e for e in flame.events if "the watchdog" in e.reason]
    fake.calm()
    assert wait_for(
        lambda: [p for p in fake.objects("pods") if "watchdog" in p["metadata"]["name"]]
    )
    wait_for(flame.backend._owner_job._looking.done)
    assert not [e for e in flame.events if "the watchdog" in e.reason]
    assert future.result(timeout=60)[0] == "runner-1"


def test_slots_share_out_the_gpus_of_a_container(kubernetes: Start, cluster: Any) -> None:
    kubernetes(nodes=[{"cpu": 8, "memory": "64Gi", "nvidia.com/gpu": 2}])
    flame, client = cluster(max=1, gpus=2, concurrency=2)
    used = at_once(flame, client, use, 2)
    # There are no others in it, so that they are numbered from 0, whatever their UUIDs are.
    assert sorted(used, key=str) == [
        ((0,), {"CUDA_VISIBLE_DEVICES": "0"}),
        ((1,), {"CUDA_VISIBLE_DEVICES": "1"}),
    ]


def test_why_a_runner_was_lost(kubernetes: Start, cluster: Any) -> None:
    fake = kubernetes()
    _, client = cluster(max=1, memory="1 GiB", shutdown_timeout="1s")

    def lose(how: Callable[[str], None], number: int) -> str:
        with dask.annotate(rerun=False):
            future = client.submit(whoami, 600, pure=False)
        wait_for(lambda: future.status == "pending" and _busy(client))
        wait_for(lambda: len(pods(fake)) == 1, what="the one that was lost before is gone")
        how(pods(fake)[0]["metadata"]["name"])
        with pytest.raises(RunnerLost) as error:
            future.result(timeout=60)
        return str(error.value)

    assert "ran out of memory (OOMKilled, limit 1 GiB)" in lose(lambda n: fake.oom(f"team/{n}"), 1)
    assert "preempted" in lose(lambda n: fake.preempt(f"team/{n}"), 2)
    assert "Evicted: The node was low on" in lose(lambda n: fake.evict(f"team/{n}"), 3)


@pytest.mark.parametrize("how", ["deleted", "preempted"])
def test_what_a_runner_printed_is_known_though_somebody_else_deletes_its_pod(
    how: str, kubernetes: Start, cluster: Any, tmp_path: Path
) -> None:
    fake = kubernetes()
    _, client = cluster(max=1, shutdown_timeout="2s")
    with dask.annotate(rerun=False):
        future = client.submit(talk, str(tmp_path), pure=False)
    wait_for((tmp_path / "began").exists)
    (pod,) = pods(fake)
    if how == "deleted":
        fake.delete(pod)
    else:
        fake.preempt(pod)
    # It has its grace, and goes on.
    wait_for(lambda: fake.requests.count("get", "pods/log") >= 2)
    (tmp_path / "go on").touch()
    with pytest.raises(RunnerLost) as error:
        future.result(timeout=60)
    why = {"deleted": "deleted by somebody else", "preempted": "PreemptionByScheduler"}
    assert why[how] in str(error.value)
    assert "before\nafter, without a newline" in str(error.value).replace("  ", "")


def test_what_calls_in_pods_print_is_shown_before_their_results_are_known(
    kubernetes: Start, cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    kubernetes()
    flame, client = cluster(max=1)
    seen = ""

    def shown() -> str:
        nonlocal seen
        seen += capsys.readouterr().out
        return seen

    client.submit(say, "hello", key="rate=0.1").result(timeout=60)
    mine = "[runner-1 rate=0.1] "
    lines = f"{mine}hello\n{mine}and an error\n{mine}no end\n"
    # Another thread writes it, which needs a moment.
    wait_for(lambda: shown().count("\n") >= 3)
    assert seen == lines
    # It comes another way.
    line = "hello\nand an error\n"
    log = wait_for(lambda: line in (log := str(flame.get_logs()["runner-1"])) and log)
    assert "rate=0.1" not in log


def _busy(client: Client) -> bool:
    return any(client.processing().values())


def test_the_settings_of_the_documentation_choose_the_nodes(kubernetes: Start) -> None:
    """tests/e2e/test_site.py runs the code of the page."""
    fake = kubernetes()
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    found = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    (settings,) = [each for each in found if "gpu-kinds" in each["flame"].get("kubernetes", {})]
    with dask.config.set(
        {"flame.kubernetes": {**dask.config.get("flame.kubernetes"), **_of(settings)}}
    ):
        flame = FlameCluster(
            backend=KubernetesBackend, max=1, gpus=1, gpu_kind="t4", dashboard_address=None
        )
        with flame:
            made = next(item for item in flame.manifest() if item["kind"] == "Pod")
    selector = {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"}
    assert made["spec"]["nodeSelector"] == selector
    wait_for(fake.at_rest)


def _of(settings: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = settings["flame"]["kubernetes"]
    return found


def test_in_a_pod_the_namespace_is_the_pods_own(
    kubernetes: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = kubernetes()
    account = tmp_path / "serviceaccount"
    account.mkdir()
    (account / "namespace").write_text("team\n")
    (account / "token").write_text(fake.token())
    # As a kubeconfig that names no namespace, where kr8s says "default".
    monkeypatch.setattr(kubeconfig, "ACCOUNT", account)

    async def namespace() -> str:
        found = await api.Api.connect()
        await found.close()
        return found.namespace

    assert asyncio.run(namespace()) == "team"
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    original = kr8s.asyncio.Api

    def in_a_pod(**options: Any) -> Any:
        # Without TLS, which the fake has not: kr8s takes every service account's server for https.
        made = original(url=fake.url, **options)
        made.auth.token = fake.token()
        return made

    monkeypatch.setattr(kr8s.asyncio, "Api", in_a_pod)
    assert asyncio.run(namespace()) == "team"


@pytest.mark.parametrize("moment", ["", "get pods", "list pods", "create selfsubjectaccessreviews"])
def test_closing_while_it_starts_leaves_nothing(kubernetes: Start, moment: str) -> None:
    fake = kubernetes()

    async def begin() -> None:
        backend = KubernetesBackend(BackendContext(cluster="early", ended=lambda end: None))
        starting = asyncio.create_task(backend.start())
        if moment:
            fake.fail(moment, status=503, times=1, retry_after=0.5)
            verb, _, resource = moment.partition(" ")
            await asyncio.to_thread(wait_for, lambda: fake.requests.count(verb, resource))
        else:
            await asyncio.sleep(0)  # it is about to look for the server
        await backend.close()
        with pytest.raises(BackendError):
            await starting
        assert {t for t in asyncio.all_tasks() if not t.done()} == {asyncio.current_task()}

    asyncio.run(begin())
    wait_for(lambda: fake.watches == 0)


def test_what_is_in_conflict_for_a_moment_is_asked_for_again(
    kubernetes: Start, cluster: Any
) -> None:
    fake = kubernetes()
    flame, client = cluster(max=2, boot_attempts=1)
    fake.fail("create pods", status=409, times=4)
    assert len(set(at_once(flame, client, whoami, 2))) == 2
    assert fake.requests.count("create", "pods") == 2 + 1 + 4  # with the trial of the watchdog's

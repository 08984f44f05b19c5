"""What is sent to Kubernetes: valid by its schemas, safe by its rules, and what was asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_flame.backends.kubernetes.objects import manifests
from dask_flame.backends.kubernetes.objects.context import ObjectContext, object_name
from dask_flame.backends.kubernetes.objects.merge import merge
from dask_flame.backends.kubernetes.options import KubernetesOptions
from dask_flame.backends.kubernetes.pod_template import read_template
from dask_flame.backends.specs import RunnerSpec, SchedulerSpec
from dask_flame.errors import PoolError
from tests.support import kubernetes_schemas
from tests.support.examples import examples

pytestmark = pytest.mark.unit

OWNER = {"apiVersion": "batch/v1", "kind": "Job", "name": "owner", "uid": "u-1"}
SITE = ObjectContext(cluster="c1", namespace="team", image="img:1", owner=OWNER)
VERSIONS = ("1.30", "1.36")


def spec(**more: Any) -> RunnerSpec:
    base: dict[str, Any] = {"name": "runner-1", "scheduler": "tls://10.0.0.1:1", "concurrency": 1}
    return RunnerSpec(**{**base, "boot_timeout": 60, **more})


def pod(
    site: ObjectContext = SITE, options: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    made = manifests.pod(
        spec(**more), KubernetesOptions(**(options or {})), site, {"OMP_NUM_THREADS": "1"}, "launch"
    )
    for version in VERSIONS:
        kubernetes_schemas.validate(made, version)
    return made


def worker(made: dict[str, Any]) -> dict[str, Any]:
    (container,) = [c for c in made["spec"]["containers"] if c["name"] == "worker"]
    return dict(container)


def restricted(made: dict[str, Any]) -> list[str]:
    """What the restricted Pod Security standard has against a pod.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    """
    wrong: list[str] = []
    inside = made["spec"]
    context = inside.get("securityContext", {})
    allowed = {
        *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
        *("persistentVolumeClaim", "projected", "secret"),
    }
    wrong += [f"host {k}" for k in ("hostNetwork", "hostPID", "hostIPC") if inside.get(k)]
    wrong += [f"volume {v}" for v in inside.get("volumes", []) if not set(v) - {"name"} <= allowed]
    for container in inside["containers"] + inside.get("initContainers", []):
        own = container.get("securityContext", {})
        name = container["name"]
        if own.get("allowPrivilegeEscalation") is not False:
            wrong.append(f"{name}: privilege escalation")
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own["capabilities"].get("add"):
            wrong.append(f"{name}: capabilities")
        if own.get("privileged") or own.get("procMount", "Default") != "Default":
            wrong.append(f"{name}: privileged")
        if not own.get("runAsNonRoot", context.get("runAsNonRoot")):
            wrong.append(f"{name}: root")
        if own.get("runAsUser", context.get("runAsUser")) == 0:
            wrong.append(f"{name}: user 0")
        seccomp = own.get("seccompProfile", context.get("seccompProfile", {})).get("type")
        if seccomp not in ("RuntimeDefault", "Localhost"):
            wrong.append(f"{name}: seccomp")
        if any("hostPort" in port for port in container.get("ports", [])):
            wrong.append(f"{name}: host port")
    return wrong


def test_a_plain_runner() -> None:
    made = pod()
    assert made["metadata"]["name"] == "flame-c1-runner-1"
    assert made["metadata"]["namespace"] == "team"
    assert made["metadata"]["ownerReferences"] == [OWNER]
    assert made["metadata"]["labels"] == {
        "app.kubernetes.io/managed-by": "dask-flame",
        "dask.org/cluster-name": "c1",
        "dask.org/component": "worker",
        "dask-flame/pool": "default",
        "dask-flame/runner": "runner-1",
    }
    assert made["spec"]["restartPolicy"] == "Never"
    assert made["spec"]["automountServiceAccountToken"] is False
    assert made["spec"]["terminationGracePeriodSeconds"] == 40
    container = worker(made)
    assert container["image"] == "img:1"
    assert "resources" not in container
    assert "ports" not in container
    assert container["args"][-1] == "/etc/dask-flame/launch.json"
    env = {e["name"]: e.get("value") for e in container["env"]}
    assert env["OMP_NUM_THREADS"] == "1"
    assert env["DASK_WORKER_NAME"] == "runner-1"
    assert restricted(made) == []


def writable(made: dict[str, Any], container: dict[str, Any]) -> dict[str, Any]:
    """The mounts of a container that are its pod's own, by path."""
    own = {v["name"] for v in made["spec"].get("volumes", []) if "emptyDir" in v}
    mounts = container.get("volumeMounts", [])
    return {m["mountPath"]: m["name"] for m in mounts if m["name"] in own}


def test_a_read_only_root() -> None:
    plain = worker(pod())
    assert "readOnlyRootFilesystem" not in plain["securityContext"]
    assert "workingDir" not in plain
    made = pod(options={"read_only_root": True})
    container = worker(made)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    own = writable(made, container)
    assert set(own) == {"/tmp", container["workingDir"]}
    env = {e["name"]: e.get("value") for e in container["env"]}
    assert env["TMPDIR"] == container["workingDir"]
    assert restricted(made) == []
    mine = pod(options={"read_only_root": True, "volumes": {"/tmp": {"emptyDir": {}}}})
    assert set(writable(mine, worker(mine))) == set(own)


def test_the_other_pods_have_a_read_only_root_too() -> None:
    options = KubernetesOptions(read_only_root=True)
    spec = SchedulerSpec(launch_config={}, cpus=1, memory=1 << 30)
    made = manifests.scheduler(SITE, spec, options, "launch", deadline=60)
    watchdog = manifests.watchdog(SITE, options, "10.0.0.1", 1, 5)
    for job in (made, watchdog):
        inside = job["spec"]["template"]
        (container,) = inside["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        expected = set(writable(inside, container)) or {None}
        assert container.get("workingDir") in expected


def test_what_is_asked_for_is_requested_and_is_the_limit() -> None:
    made = pod(cpus=4, memory=8_000_000_000, gpus=2)
    amounts = {"cpu": "4", "memory": "8G", "nvidia.com/gpu": "2"}
    assert worker(made)["resources"] == {"limits": amounts, "requests": amounts}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in made["spec"][
        "tolerations"
    ]
    (shm,) = [v for v in made["spec"]["volumes"] if v["name"] == "dask-flame-shm"]
    assert shm["emptyDir"] == {"medium": "Memory"}
    assert "nodeSelector" not in made["spec"]


def test_kinds_of_gpus() -> None:
    made = pod(gpus=1, options={"gpu_kind": "NVIDIA-A100-SXM4-40GB", "shm_size": "2 GiB"})
    assert made["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}
    (shm,) = [v for v in made["spec"]["volumes"] if v["name"] == "dask-flame-shm"]
    assert shm["emptyDir"]["sizeLimit"] == "2Gi"
    known = ObjectContext(
        cluster="c1",
        namespace="team",
        image="img",
        gpu_kinds={
            "mi300": {
                "node-selector": {"gpu": "mi300"},
                "tolerations": [{"key": "amd", "operator": "Exists"}],
                "resource": "amd.com/gpu",
            }
        },
    )
    made = pod(known, gpus=1, options={"gpu_kind": "mi300", "node_selector": {"zone": "a"}})
    assert made["spec"]["nodeSelector"] == {"gpu": "mi300", "zone": "a"}
    assert worker(made)["resources"]["limits"] == {"amd.com/gpu": "1"}
    assert [t["key"] for t in made["spec"]["tolerations"]] == ["amd", "amd.com/gpu"]
    made = pod(gpus=1, options={"gpu_resource": "nvidia.com/mig-1g.10gb"})
    assert worker(made)["resources"]["limits"] == {"nvidia.com/mig-1g.10gb": "1"}


def test_spot_nodes_of_any_cloud() -> None:
    made = pod(options={"spot": True})
    affinity = made["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    labels = {term["matchExpressions"][0]["key"] for term in terms}
    assert len(labels) == len(terms) == 4
    assert {t["key"] for t in made["spec"]["tolerations"]} == labels


def test_a_pod_bears_its_kind() -> None:
    made = pod(kind="A100, spot", options={"gpu_kind": "A100", "annotations": {"owner": "me"}})
    assert made["metadata"]["annotations"] == {"owner": "me", "dask-flame/kind": "A100, spot"}
    assert "annotations" not in pod()["metadata"]
    # It is not put into the template.
    own = {"metadata": {"annotations": {"a": "b"}}}
    made = pod(kind="A100", options={"pod_template": own})
    assert made["metadata"]["annotations"] == {"a": "b", "dask-flame/kind": "A100"}
    assert own["metadata"]["annotations"] == {"a": "b"}


def test_volumes_and_variables() -> None:
    options = {
        "volumes": {
            "/data": "claim",
            "/cfg/": {"configMap": {"name": "cfg"}, "readOnly": True, "subPath": "a"},
        },
    }
    env = {"A": "1", "OMP_NUM_THREADS": "8"}
    secrets = {"TOKEN": "xyzzy", "KEY": {"name": "there", "key": "k"}}
    made = pod(options=options, env=env, secrets=secrets)
    container = worker(made)
    mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
    assert mounts["/cfg"]["subPath"] == "a"
    assert mounts["/cfg"]["readOnly"] is True
    sources = {v["name"]: v for v in made["spec"]["volumes"]}
    claim = sources[mounts["/data"]["name"]]["persistentVolumeClaim"]
    assert claim == {"claimName": "claim"}
    env = {e["name"]: e for e in container["env"]}
    assert env["A"]["valueFrom"]["secretKeyRef"] == {"name": "launch", "key": "A"}
    assert "value" not in env["OMP_NUM_THREADS"]
    assert env["TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "launch", "key": "TOKEN"}
    assert env["KEY"]["valueFrom"]["secretKeyRef"] == {"name": "there", "key": "k"}
    assert "xyzzy" not in json.dumps(made)
    kept = manifests.secret(SITE, {"scheduler": "tls://"}, secrets)
    for version in VERSIONS:
        kubernetes_schemas.validate(kept, version)
    assert kept["stringData"] == {"launch.json": '{"scheduler": "tls://"}', "TOKEN": "xyzzy"}
    assert kept["metadata"]["ownerReferences"] == [OWNER]
    other = manifests.secret(SITE, {"scheduler": "tls://"}, {"TOKEN": "another"})
    later = manifests.secret(replace(SITE, watchdog=2), {"scheduler": "tls://"}, secrets)
    assert len({item["metadata"]["name"] for item in (kept, other, later)}) == 3


@pytest.mark.parametrize("name", [".", "..", "..A", "odd name", "launch.json", "n" * 254, "ä"])
def test_variables_that_may_be_no_key_of_a_secret_have_another(name: str) -> None:
    made = pod(env={name: "1", ".A": "2"})
    env = {
        e["name"]: e["valueFrom"]["secretKeyRef"]
        for e in worker(made)["env"]
        if e["name"] in (name, ".A")
    }
    assert env[".A"] == {"name": "launch", "key": ".A"}
    secret = manifests.secret(SITE, {}, {name: "1", ".A": "2"})
    for version in VERSIONS:
        kubernetes_schemas.validate(secret, version)
    kept = secret["stringData"]
    assert kept.keys() == {"launch.json", ".A", env[name]["key"]}
    assert kept[env[name]["key"]] == "1"
    assert len(env[name]["key"]) <= 253


def test_the_watchdog_is_safe_and_small_and_may_be_where_the_driver_is() -> None:
    options = KubernetesOptions(
        image="gpu:2", gpu_kind="a", shm_size="1 GiB", priority_class="high"
    )
    nodes = {"tolerations": [{"key": "user", "operator": "Exists"}], "nodeSelector": {"a": "b"}}
    site = replace(SITE, pull_secrets=["reg"], nodes=nodes, watchdog=2)
    made = manifests.watchdog(site, options, "10.0.0.1", 8786, 10.0)
    for version in VERSIONS:
        kubernetes_schemas.validate(made, version)
    template = made["spec"]["template"]
    assert restricted(template) == []
    container = worker(template)
    assert container["image"] == "img:1"
    program = "dask_flame.backends.kubernetes.watchdog"
    assert container["args"] == ["python", "-m", program, "10.0.0.1", "8786", "10"]
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert template["spec"]["imagePullSecrets"] == [{"name": "reg"}]
    assert template["spec"]["tolerations"] == nodes["tolerations"]
    assert "priorityClassName" not in template["spec"]
    assert "nvidia.com/gpu" not in json.dumps(made)
    assert made["metadata"]["name"] == "flame-c1-watchdog-2"
    assert made["metadata"]["ownerReferences"] == [OWNER]
    assert made["spec"]["ttlSecondsAfterFinished"] == 0
    assert template["metadata"]["labels"]["dask.org/component"] == "watchdog"


@pytest.mark.parametrize("kind", ["LoadBalancer", "NodePort", "ClusterIP"])
def test_a_service_for_the_scheduler_and_the_hole_for_it(kind: str) -> None:
    service = manifests.service(SITE, kind, 8786)
    hole = manifests.open_port(SITE, 8786)
    job = manifests.scheduler(
        SITE, SchedulerSpec(launch_config={}), KubernetesOptions(), "the-secret", deadline=15
    )
    for version in VERSIONS:
        kubernetes_schemas.validate(service, version)
        kubernetes_schemas.validate(hole, version)
    labels = job["spec"]["template"]["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= labels
    assert hole["spec"]["podSelector"]["matchLabels"].items() <= labels
    # Only the scheduler's, and only its port.
    runner = pod()["metadata"]["labels"].items()
    assert not service["spec"]["selector"].items() <= runner
    assert not hole["spec"]["podSelector"]["matchLabels"].items() <= runner
    assert hole["spec"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8786}]}]
    assert service["metadata"]["ownerReferences"] == hole["metadata"]["ownerReferences"] == [OWNER]


@settings(max_examples=examples(15))
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "image": st.just("gpu:2"),
            "gpu_kind": st.just("a"),
            "shm_size": st.just("1 GiB"),
            "service_account": st.just("me"),
            "image_pull_secrets": st.just(["reg"]),
            "priority_class": st.just("high"),
            "pod_template": st.just({"spec": {"hostname": "h"}}),
        },
    ),
    st.sampled_from([None, {"spec": {"nodeSelector": {"a": "b"}, "hostname": "boss"}}]),
    st.sampled_from([SITE, replace(SITE, image=None), replace(SITE, owner=None)]),
)
def test_the_schedulers_pod_is_safe_and_has_no_gpu(
    options: dict[str, Any], template: Any, site: ObjectContext
) -> None:
    asked = SchedulerSpec(launch_config={}, cpus=0.5, memory=2**30, template=template)
    if site.image is None and "image" not in options:
        with pytest.raises(
            PoolError, match=r"needs an image: .* write image=.* flame\.kubernetes\.image"
        ):
            manifests.scheduler(
                site, asked, KubernetesOptions(**options), "the-secret", deadline=15
            )
        return
    made = manifests.scheduler(site, asked, KubernetesOptions(**options), "the-secret", deadline=15)
    for version in VERSIONS:
        kubernetes_schemas.validate(made, version)
    pod = made["spec"]["template"]
    assert restricted(pod) == []
    (container,) = pod["spec"]["containers"]
    assert container["name"] == "scheduler"
    assert container["resources"]["limits"] == {"cpu": "500m", "memory": "1Gi"}
    assert made["spec"]["backoffLimit"] == made["spec"]["ttlSecondsAfterFinished"] == 0
    assert pod["spec"].get("nodeSelector") == (template and {"a": "b"})
    assert pod["spec"].get("hostname") == (template and "boss")
    assert "nvidia.com/gpu" not in json.dumps(made)
    assert made["metadata"].get("ownerReferences") == ([OWNER] if site.owner else None)
    (volume,) = (v["secret"] for v in pod["spec"]["volumes"] if "secret" in v)
    assert (volume["secretName"], volume["optional"]) == ("the-secret", True)
    assert pod["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"


@pytest.mark.parametrize(
    ("driver", "address", "admitted"),
    [
        ({"app": "hub"}, "10.0.0.9", [{"podSelector": {"matchLabels": {"app": "hub"}}}]),
        ({}, "10.0.0.9", [{"ipBlock": {"cidr": "10.0.0.9/32"}}]),
        ({}, "FD00:0::9", [{"ipBlock": {"cidr": "fd00::9/128"}}]),
        ({}, "", []),
    ],
)
def test_nobody_gets_in_but_peers_and_the_driver(
    driver: dict[str, str], address: str, admitted: list[Any]
) -> None:
    made = manifests.network_policy(SITE, driver, address)
    for version in VERSIONS:
        kubernetes_schemas.validate(made, version)
    peers = {"matchLabels": {"dask.org/cluster-name": "c1"}}
    assert made["spec"] == {
        "podSelector": peers,
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": peers}, *admitted]}],
    }
    assert made["metadata"]["ownerReferences"] == [OWNER]
    later = manifests.network_policy(replace(SITE, watchdog=2), driver, address)
    assert later["metadata"]["name"] != made["metadata"]["name"]
    # The watchdog's pod is one of them.
    watchdog = manifests.watchdog(SITE, KubernetesOptions(), "10.0.0.1", 8786, 10.0)
    labels = watchdog["spec"]["template"]["metadata"]["labels"]
    assert peers["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("how", [dict, lambda template: lambda built: {**built, **template}])
@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("labels", "dask.org/cluster-name"),
        ("labels", "dask-flame/runner"),
        ("labels", "app.kubernetes.io/managed-by"),
        ("annotations", "dask-flame/stopped"),
    ],
)
def test_no_template_sets_what_makes_a_pod_this_clusters(how: Any, part: str, key: str) -> None:
    template = {"metadata": {part: {"app": "web", key: "c2"}}}
    with pytest.raises(PoolError, match=rf"pod_template sets '{key}' in its {part}, which"):
        pod(options={"pod_template": how(template)})
    with pytest.raises(PoolError, match=key):
        KubernetesOptions(**{part: {key: "c2"}})
    made = pod(options={"pod_template": how({"metadata": {part: {"app": "web"}}})})
    assert made["metadata"][part]["app"] == "web"


TEMPLATE = {
    "metadata": {"labels": {"team": "vision"}},
    "spec": {
        "restartPolicy": "Always",
        "nodeSelector": {"disk": "ssd", "zone": "b"},
        "containers": [
            {
                "image": "other:2",
                "args": ["sleep", "1"],
                "env": [{"name": "A", "value": "template"}, {"name": "B", "value": "template"}],
                "securityContext": {"runAsUser": 7},
            },
            {"name": "sidecar", "image": "side:1"},
        ],
        "tolerations": [{"key": "x", "operator": "Exists"}],
    },
}


def check_template(made: dict[str, Any]) -> None:
    container = worker(made)
    assert container["image"] == "other:2"
    assert container["args"][0] == "python"
    env = {e["name"]: e.get("value") for e in container["env"]}
    assert (env["A"], env["B"], env["OMP_NUM_THREADS"]) == (None, "template", "1")
    assert container["securityContext"]["runAsUser"] == 7
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert made["spec"]["nodeSelector"] == {"disk": "ssd", "zone": "a"}
    assert made["spec"]["restartPolicy"] == "Never"
    assert [c["name"] for c in made["spec"]["containers"]] == ["worker", "sidecar"]
    labels = made["metadata"]["labels"]
    assert labels["team"] == "vision"
    assert labels["dask.org/component"] == "worker"


@pytest.mark.parametrize("how", ["mapping", "file"])
def test_options_are_laid_over_a_template(how: str, tmp_path: Path) -> None:
    template: Any = TEMPLATE
    if how == "file":
        template = tmp_path / "pod.yaml"
        template.write_text(yaml.safe_dump(TEMPLATE))
    options = {"pod_template": template, "node_selector": {"zone": "a"}}
    check_template(pod(options=options, env={"A": "pool"}))
    assert "pool" not in yaml.safe_dump(TEMPLATE)


#: Demands that a platform may have of each pod.
PLATFORM: dict[str, Any] = {
    "metadata": {
        "labels": {"cost-center": "42"},
        "annotations": {"proxy.example.org/inject": "false"},
    },
    "spec": {
        "priorityClassName": "research",
        "runtimeClassName": "gvisor",
        "schedulerName": "kueue",
        "imagePullSecrets": [{"name": "mirror"}],
        "tolerations": [{"key": "team", "operator": "Exists"}],
        "securityContext": {"supplementalGroups": [7]},
        "dnsPolicy": "Default",
        "containers": [
            {
                "name": "worker",
                "env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}],
                "volumeMounts": [{"name": "certificates", "mountPath": "/certificates"}],
                "securityContext": {"readOnlyRootFilesystem": True},
                "resources": {"limits": {"ephemeral-storage": "1Gi", "nvidia.com/gpu": "1"}},
            }
        ],
        "volumes": [{"name": "certificates", "configMap": {"name": "certificates"}}],
    },
}


def all_pods(site: ObjectContext, spec: Any = None, **options: Any) -> dict[str, dict[str, Any]]:
    """The pods of a runner, a scheduler and a watchdog; the latter two are in Jobs."""
    mine, asked = KubernetesOptions(**options), SchedulerSpec(launch_config={}, template=spec)
    jobs = {
        "scheduler": manifests.scheduler(site, asked, mine, "the-secret", deadline=15),
        "watchdog": manifests.watchdog(site, mine, "10.0.0.1", 8786, 10.0),
    }
    for job in jobs.values():
        for version in VERSIONS:
            kubernetes_schemas.validate(job, version)
    templates = {name: job["spec"]["template"] for name, job in jobs.items()}
    return {"runner": pod(site, options), **jobs, **{f"{n}'s": t for n, t in templates.items()}}


def test_what_a_platform_demands_reaches_all_pods_and_jobs() -> None:
    made = all_pods(replace(SITE, template=PLATFORM))
    for name, item in made.items():
        meta, want = item["metadata"], PLATFORM["metadata"]
        assert want["labels"].items() <= meta["labels"].items(), name
        assert meta["labels"]["dask.org/cluster-name"] == "c1", name
        assert want["annotations"].items() <= meta["annotations"].items(), name
        if "template" in item["spec"]:
            continue
        spec, wanted = item["spec"], PLATFORM["spec"]
        for key in ("priorityClassName", "runtimeClassName", "schedulerName", "dnsPolicy"):
            assert spec[key] == wanted[key], name
        assert spec["imagePullSecrets"] == wanted["imagePullSecrets"]
        assert spec["tolerations"] == wanted["tolerations"]
        assert spec["securityContext"]["supplementalGroups"] == [7]
        assert spec["securityContext"]["runAsNonRoot"] is True
        (container,) = spec["containers"]
        assert {"name": "HTTPS_PROXY", "value": "http://proxy"} in container["env"]
        assert "/certificates" in {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "certificates" in {volume["name"] for volume in spec["volumes"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["resources"]["limits"]["ephemeral-storage"] == "1Gi"
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (name == "runner")


def test_the_schedulers_own_template_and_a_pools_are_on_top_of_the_platforms() -> None:
    def template(center: str) -> dict[str, Any]:
        return {
            "metadata": {"labels": {"cost-center": center}},
            "spec": {"priorityClassName": None},
        }

    site = replace(SITE, template=PLATFORM)
    made = all_pods(site, template("43"), pod_template=template("44"))
    centers = {name: item["metadata"]["labels"]["cost-center"] for name, item in made.items()}
    scheduler = dict.fromkeys(("scheduler", "scheduler's"), "43")
    watchdog = dict.fromkeys(("watchdog", "watchdog's"), "42")
    assert centers == {"runner": "44", **scheduler, **watchdog}
    for name, item in made.items():
        if "template" not in item["spec"]:
            has = item["spec"].get("priorityClassName")
            assert has == ("research" if name == "watchdog's" else None), name
            assert item["spec"]["dnsPolicy"] == "Default"


def test_jobs_have_no_container_that_would_outlive_their_own() -> None:
    made = all_pods(replace(SITE, template=read_template("pod_template", TEMPLATE)))
    names = {n: [c["name"] for c in i["spec"].get("containers", ())] for n, i in made.items()}
    assert names["runner"] == ["worker", "sidecar"]
    assert names["scheduler's"] == ["scheduler"]
    assert names["watchdog's"] == ["worker"]


def test_nodes_of_templates_are_the_schedulers_and_those_of_the_driver_the_watchdogs() -> None:
    selector = {"spec": {"nodeSelector": {"pool": "runners"}, "tolerations": [{"key": "a"}]}}
    nodes = {"nodeSelector": {"users": "yes"}, "tolerations": [{"key": "b"}]}
    site = replace(SITE, template=selector, nodes=nodes)
    made = all_pods(site)
    assert made["runner"]["spec"]["nodeSelector"] == {"pool": "runners"}
    assert made["scheduler's"]["spec"]["nodeSelector"] == {"pool": "runners"}
    assert made["watchdog's"]["spec"]["nodeSelector"] == {"users": "yes"}
    for name in ("scheduler's", "watchdog's"):
        assert made[name]["spec"]["tolerations"] == [{"key": "a"}, {"key": "b"}]
    made = all_pods(replace(site, nodes={}))
    assert "nodeSelector" not in made["watchdog's"]["spec"]
    assert all_pods(replace(SITE, nodes=nodes))["scheduler's"]["spec"]["nodeSelector"] == {
        "users": "yes"
    }


def test_null_in_a_template_removes_a_default() -> None:
    made = pod(options={"pod_template": {"spec": {"securityContext": None}}})
    assert "securityContext" not in made["spec"]


def test_the_error_of_a_function_names_it_and_its_line() -> None:
    def broken(built: dict[str, Any]) -> dict[str, Any]:
        return {**built, "spec": built["nokey"]}

    with pytest.raises(PoolError) as error:
        pod(options={"pod_template": broken})
    said = str(error.value)
    assert said.startswith("pod_template=")
    assert "broken" in said
    assert "KeyError: 'nokey' (line " in said
    assert 'built["nokey"]' in said


def test_a_template_that_is_a_function_has_the_last_word_but_for_what_makes_it_ours() -> None:
    seen: list[dict[str, Any]] = []

    def change(built: dict[str, Any]) -> dict[str, Any]:
        seen.append(built)
        built["spec"]["nodeSelector"]["zone"] = "c"
        built["spec"]["restartPolicy"] = "Always"
        built["metadata"] = {"name": "mine", "annotations": {"a": "b"}}
        built["spec"]["volumes"] = []
        return built

    made = pod(options={"pod_template": change, "node_selector": {"zone": "a"}})
    assert made["spec"]["nodeSelector"] == {"zone": "c"}
    assert made["spec"]["restartPolicy"] == "Never"
    assert made["metadata"]["name"] == "flame-c1-runner-1"
    assert made["metadata"]["annotations"] == {"a": "b"}
    assert {v["name"] for v in made["spec"]["volumes"]} >= {"dask-flame-launch"}
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (lambda built: None, "returned a NoneType"),
        (lambda built: {"spec": {}}, "no container 'worker'"),
        ({"kind": "Deployment"}, "its kind is Deployment"),
        ({"spec": []}, "it is a dict"),
        ({"spec": {"containers": "worker"}}, "not a list"),
        ({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}, "needs an image"),
        ({"metadata": {"labels": {"cost-center": 42}}}, "the value 42 of 'cost-center'"),
    ],
)
def test_templates_that_are_no_pod(template: Any, says: str) -> None:
    site = ObjectContext(cluster="c", namespace="n")
    with pytest.raises(PoolError, match=says):
        pod(site, {"pod_template": template})


def test_without_an_image() -> None:
    with pytest.raises(PoolError, match=r"a pod of the pool 'cpu' needs .*write image=\"ghcr"):
        pod(ObjectContext(cluster="c", namespace="n"), pool="cpu")
    assert worker(pod(ObjectContext(cluster="c", namespace="n"), {"image": "i"}))["image"] == "i"


names = st.from_regex(r"[a-z]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
labels = st.dictionaries(names, names, max_size=3)
options = st.fixed_dictionaries(
    {},
    optional={
        "image": names,
        "gpu_kind": names,
        "gpu_resource": st.sampled_from(["nvidia.com/gpu", "amd.com/gpu"]),
        "shm_size": st.integers(1 << 16, 1 << 40),
        "node_selector": labels,
        "tolerations": st.lists(
            st.fixed_dictionaries({"key": names, "operator": st.just("Exists")}), max_size=2
        ),
        "spot": st.booleans(),
        "priority_class": names,
        "runtime_class": names,
        "service_account": names,
        "image_pull_secrets": st.lists(names, max_size=2),
        "volumes": st.dictionaries(names.map("/{}".format), names, max_size=2),
        "labels": labels,
        "annotations": labels,
        "pod_template": st.sampled_from([TEMPLATE, {"spec": {"hostname": "h"}}, lambda pod: pod]),
    },
)


@settings(max_examples=examples(15))
@given(
    options=options,
    amounts=st.fixed_dictionaries(
        {"gpus": st.integers(0, 8)},
        optional={"cpus": st.integers(1, 9), "memory": st.integers(1, 1 << 40)},
    ),
    env=st.dictionaries(names.map(lambda n: n.replace("-", "_")), names, max_size=2),
    secrets=st.dictionaries(names.map(lambda n: n.replace("-", "_")), names, max_size=2),
)
def test_every_combination_is_valid_and_restricted(
    options: dict[str, Any],
    amounts: dict[str, Any],
    env: dict[str, str],
    secrets: dict[str, str],
) -> None:
    made = pod(options=options, env=env, secrets=secrets, **amounts)
    against = [why for why in restricted(made) if not why.startswith("sidecar")]
    assert against == []
    # No two of a name, which the API server refuses.
    for where in (made["spec"]["volumes"], worker(made)["env"]):
        assert len({item["name"] for item in where}) == len(where)
    mounts = [m["mountPath"] for m in worker(made)["volumeMounts"]]
    assert len(set(mounts)) == len(mounts)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(names, json_values, max_size=4), st.dictionaries(names, json_values, max_size=4)
)
def test_merging(base: dict[str, Any], over: dict[str, Any]) -> None:
    before = json.dumps([base, over])
    merged = merge(base, over)
    assert json.dumps([base, over]) == before
    assert merge(merged, over) == merged
    assert merge(base, {}) == base
    for key, value in over.items():
        if value is None:
            assert key not in merged
        elif not isinstance(value, dict):
            assert merged[key] == value


def test_names_of_objects() -> None:
    assert object_name("c", "runner-1") == "flame-c-runner-1"
    long = object_name("C" * 41, "pool", "p" * 41)
    other = object_name("c" * 41, "pool", "p" * 41)
    assert long != other
    assert all(len(name) <= 63 for name in (long, other))
    assert object_name("A") != object_name("a")

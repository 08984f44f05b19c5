"""What is in deploy/ does what it should on a fake cluster: where pods go, and a whole driver."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dask.config
import pytest
import yaml

from dask_flame.backends.kubernetes.objects import manifests
from dask_flame.backends.kubernetes.objects.context import ObjectContext
from dask_flame.backends.kubernetes.options import KubernetesOptions
from dask_flame.backends.specs import RunnerSpec
from dask_flame.core import config
from tests.fakes.kubernetes import FakeKubernetes
from tests.fakes.kubernetes.security import violations
from tests.support import kubernetes_schemas
from tests.support.kubernetes_help import Caller
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

KUBERNETES = ROOT / "deploy/kubernetes"
TYPE = "node.kubernetes.io/instance-type"
PRODUCT = "nvidia.com/gpu.product"
GKE = "cloud.google.com/gke-accelerator"
KARPENTER = "karpenter.k8s.aws/instance-gpu-name"


def taint(key: str, value: str) -> dict[str, str]:
    return {"key": key, "value": value, "effect": "NoSchedule"}


def nodes(
    taints: list[dict[str, str]], label: dict[str, str], **kinds: dict[str, str]
) -> list[dict[str, Any]]:
    """A node of each kind, called so; what it has beside its labels is under its resource."""
    return [
        {
            "name": name,
            "cpu": 8,
            "memory": "64Gi",
            labels.pop("resource", "nvidia.com/gpu"): int(labels.pop("count", "1")),
            "labels": {**label, **labels},
            "taints": taints,
        }
        for name, labels in kinds.items()
    ]


#: As each cloud's nodes are, and by the kind of GPU the nodes that have it.
CLOUDS: dict[str, tuple[list[dict[str, Any]], dict[str, str]]] = {
    "gke": (
        nodes(
            [taint("nvidia.com/gpu", "present")],
            {},
            t4={GKE: "nvidia-tesla-t4"},
            l4={GKE: "nvidia-l4"},
            a100={GKE: "nvidia-tesla-a100"},
            slice={GKE: "nvidia-tesla-a100", "cloud.google.com/gke-gpu-partition-size": "1g.5gb"},
            h100={GKE: "nvidia-h100-80gb"},
            rtx={GKE: "nvidia-rtx-pro-6000"},
        ),
        {
            "t4": "t4",
            "l4": "l4",
            "h100": "h100",
            "nvidia-rtx-pro-6000": "rtx",
            # As the file says: both have the label.
            "a100": "a100 slice",
            "a100-1g.5gb": "slice",
        },
    ),
    "eks": (
        nodes(
            [],
            {},
            t4={TYPE: "g4dn.xlarge"},
            a10g={TYPE: "g5.xlarge"},
            l4={TYPE: "g6.xlarge"},
            a100={TYPE: "p4d.24xlarge", "count": "8"},
            h100={TYPE: "p5.48xlarge", "count": "8"},
            l40s={TYPE: "g6e.xlarge", PRODUCT: "NVIDIA-L40S"},
        ),
        {
            "t4": "t4",
            "a10g": "a10g",
            "l4": "l4",
            "a100": "a100",
            "h100": "h100",
            "NVIDIA-L40S": "l40s",
        },
    ),
    "karpenter": (
        nodes(
            [taint("nvidia.com/gpu", "true")],
            {"karpenter.sh/capacity-type": "on-demand"},
            l4={KARPENTER: "l4", "karpenter.k8s.aws/instance-gpu-count": "1"},
            a10gs={KARPENTER: "a10g", "karpenter.k8s.aws/instance-gpu-count": "4", "count": "4"},
        ),
        {"l4": "l4", "4xa10g": "a10gs"},
    ),
    "aks": (
        nodes(
            [taint("sku", "gpu")],
            {"kubernetes.azure.com/accelerator": "nvidia"},
            t4={TYPE: "Standard_NC4as_T4_v3"},
            a100={TYPE: "Standard_NC24ads_A100_v4"},
            h100={TYPE: "Standard_NC40ads_H100_v5"},
        ),
        {"nvidia": "t4 a100 h100", "t4": "t4", "a100": "a100", "h100": "h100"},
    ),
    "gpu-operator": (
        nodes(
            [taint("nvidia.com/gpu", "true")],
            {"nvidia.com/gpu.present": "true"},
            a100={PRODUCT: "NVIDIA-A100-SXM4-40GB"},
            single={PRODUCT: "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", "count": "7"},
            mixed={PRODUCT: "NVIDIA-A100-SXM4-40GB", "resource": "nvidia.com/mig-1g.5gb"},
            large={PRODUCT: "NVIDIA-A100-SXM4-40GB", "resource": "nvidia.com/mig-3g.20gb"},
            shared={PRODUCT: "NVIDIA-A10-SHARED", "count": "4"},
            h100={PRODUCT: "NVIDIA-H100-80GB-HBM3"},
        ),
        {
            "a100": "a100",
            "a100-1g.5gb": "single",
            "a100-1g.5gb-mixed": "mixed",
            "a100-3g.20gb-mixed": "large",
            "a10-shared": "shared",
            "NVIDIA-H100-80GB-HBM3": "h100",
        },
    ),
}
PLAIN = {"name": "plain", "cpu": 8, "memory": "64Gi"}


def test_every_cloud_is_tried() -> None:
    assert {path.name for path in (KUBERNETES / "gpu").iterdir()} == set(CLOUDS)
    for cloud, (_, kinds) in CLOUDS.items():
        told = yaml.safe_load((KUBERNETES / f"gpu/{cloud}/flame.yaml").read_text())
        assert set(told["flame"]["kubernetes"]["gpu-kinds"]) <= set(kinds)


def runner(name: str, kind: str | None, template: Path, gpus: int = 1) -> dict[str, Any]:
    """A runner's pod, by the configuration as it is."""
    site = ObjectContext(
        cluster="c1",
        namespace="team",
        image="img:1",
        gpu_kinds=config.get("kubernetes.gpu-kinds"),
        gpu_label=config.get("kubernetes.gpu-label"),
    )
    spec = RunnerSpec(
        name=name, scheduler="tls://10.0.0.1:1", concurrency=1, boot_timeout=60, gpus=gpus
    )
    options = KubernetesOptions(
        **({"gpu_kind": kind} if kind else {}), pod_template=template, labels={"kind": name}
    )
    made = manifests.pod(spec, options, site, {}, "launch")
    for version in ("1.30", "1.36"):
        kubernetes_schemas.validate(made, version)
    assert violations(made["spec"]) == ""
    return made


def check_template(made: dict[str, Any], template: dict[str, Any]) -> None:
    annotations = template.get("metadata", {}).get("annotations", {})
    assert annotations.items() <= made["metadata"].get("annotations", {}).items()
    (container,) = made["spec"]["containers"]
    assert container["args"][0] == "python"
    for key, value in template.get("spec", {}).items():
        if key == "containers":
            for item in value[0].get("env", ()):
                assert item in container["env"]
        elif key == "tolerations":
            assert all(item in made["spec"][key] for item in value)
        else:
            assert made["spec"][key] == value


@pytest.mark.parametrize("cloud", CLOUDS)
def test_runners_go_to_the_nodes_with_their_kind_of_gpu(cloud: str) -> None:
    there, kinds = CLOUDS[cloud]
    folder = KUBERNETES / "gpu" / cloud
    template = yaml.safe_load((folder / "pod.yaml").read_text())
    # As Dask reads it: over the defaults.
    read = dask.config.collect([str(folder / "flame.yaml")], env={})
    told = dask.config.merge({"flame": dask.config.get("flame")}, read)
    secured = {"team": {"pod-security.kubernetes.io/enforce": "restricted"}}
    with (
        dask.config.set(told),
        FakeKubernetes(nodes=[PLAIN, *there], namespaces=secured).in_thread() as fake,
    ):
        config.check()
        for number, (kind, node) in enumerate(kinds.items()):
            gpus = 4 if kind.startswith("4x") else 1
            made = runner(f"runner-{number}", kind, folder / "pod.yaml", gpus)
            check_template(made, template)
            placed(fake, made, node)
            # Its GPU is free for the next.
            fake.delete(made, grace=0)
            wait_for(lambda: not fake.objects("pods"))
        # Without a kind: any GPU, whose taint the template covers or the resource's name.
        assert placed(fake, runner("any", None, folder / "pod.yaml")) != "plain"


def placed(fake: FakeKubernetes, pod: dict[str, Any], on: str = "") -> str:
    """Make a pod and return the node that it is given to."""
    name = fake.create(pod)["metadata"]["name"]

    def node() -> str:
        (found,) = [p for p in fake.objects("pods") if p["metadata"]["name"] == name]
        assert "Unschedulable" not in str(found["status"].get("conditions")), found["status"]
        return str(found["spec"].get("nodeName", ""))

    where: str = wait_for(node, what=f"{name} is given to a node")
    if on:
        assert where in on.split(), name
    return where


def objects(*names: str) -> list[dict[str, Any]]:
    return [o for name in names for o in yaml.safe_load_all((KUBERNETES / name).read_text())]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_images_are_pulled_to_every_node_that_runners_may_be_on(cloud: str) -> None:
    there, _ = CLOUDS[cloud]
    if cloud == "eks":
        # Nothing but the labels of NVIDIA's own discovery says of a managed group what it has.
        there = [{**n, "labels": {**n["labels"], "nvidia.com/gpu.present": "true"}} for n in there]
    every, gpu = objects("prepull.yaml", "components/gpu/prepull-gpu.yaml")
    with FakeKubernetes(nodes=[PLAIN, *there]).in_thread() as fake:
        # As the controller of DaemonSets does: a pod for each node, which may be there or not.
        for made, where in ((every, [PLAIN, *there]), (gpu, there)):
            for node in where:
                placed(fake, at(made, node["name"]), node["name"])
        name = fake.create(at(gpu, "plain"))["metadata"]["name"]
        wait_for(lambda: refused(fake, name), what="no GPU, no image for GPUs")


def at(made: dict[str, Any], node: str) -> dict[str, Any]:
    """A pod of a DaemonSet for a node."""
    template = made["spec"]["template"]
    assert made["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    spec = {**template["spec"], "nodeSelector": {"kubernetes.io/hostname": node}}
    name = f"{made['metadata']['name']}-{node}"
    meta = {**template["metadata"], "name": name, "namespace": "team"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def refused(fake: FakeKubernetes, name: str) -> bool:
    (found,) = [p for p in fake.objects("pods") if p["metadata"]["name"] == name]
    return "Unschedulable" in str(found["status"].get("conditions"))


def test_policies_are_about_our_pods_and_no_others() -> None:
    ours = runner("runner-1", None, KUBERNETES / "gpu/eks/pod.yaml")["metadata"]["labels"]
    watchdog = manifests.watchdog(
        ObjectContext(cluster="c1", namespace="team", image="i"),
        KubernetesOptions(),
        "10.0.0.1",
        1,
        1,
    )
    theirs = [
        {"app": "web", "pod-template-hash": "5d9f"},
        {"app.kubernetes.io/name": "web", "app.kubernetes.io/managed-by": "Helm"},
        # JupyterHub's own, and what only fetches images.
        {"app": "jupyterhub", "app.kubernetes.io/managed-by": "kubespawner"},
        *(
            o["spec"]["template"]["metadata"]["labels"]
            for o in objects("prepull.yaml", "components/gpu/prepull-gpu.yaml")
        ),
    ]
    ingress, egress = objects("networkpolicy.yaml")
    # Policies add up: what one for all clusters admitted, that of a cluster could not refuse.
    assert set(ingress["spec"]) == {"podSelector", "policyTypes"}
    assert ingress["spec"]["policyTypes"] == ["Ingress"]
    for policy in (ingress, egress):
        chosen = policy["spec"]["podSelector"]["matchLabels"].items()
        for labels in (ours, watchdog["spec"]["template"]["metadata"]["labels"]):
            assert chosen <= labels.items()
        for labels in theirs:
            assert not chosen <= labels.items()
    # What looks for runners, and sweeps, does not find what fetches images.
    assert not {"dask.org/cluster-name", "dask.org/component"} & {k for t in theirs for k in t}


def test_the_namespace_takes_all_that_goes_into_it() -> None:
    (namespace,) = objects("namespace.yaml")
    team = namespace["metadata"]["name"]
    quota, _ = objects("components/quota/quota.yaml")
    with FakeKubernetes(namespaces={}).in_thread() as fake:
        fake.create(namespace)
        for item in (quota, *objects("networkpolicy.yaml")):
            fake.create({**item, "metadata": {**item["metadata"], "namespace": team}})
        for made in objects("prepull.yaml", "components/gpu/prepull-gpu.yaml"):
            pod = at(made, "node-0")
            fake.create({**pod, "metadata": {**pod["metadata"], "namespace": team}})
        assert len(fake.objects("pods", team)) == 2
        assert len(fake.objects("networkpolicies", team)) == 2
        (counted,) = fake.objects("resourcequotas", team)
        assert counted["spec"]["hard"].keys() >= {"requests.nvidia.com/gpu", "pods"}


def test_a_driver_in_a_pod_runs_with_what_it_is_given_and_leaves_nothing(tmp_path: Path) -> None:
    (namespace,) = objects("namespace.yaml")
    role, _, account = objects("role.yaml")
    driver = yaml.safe_load((ROOT / "deploy/try.yaml").read_text())
    assert driver["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert driver["metadata"]["namespace"] == namespace["metadata"]["name"]
    # What its image and its service account would have.
    kubeconfig = tmp_path / "kubeconfig"
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = {"KUBECONFIG": str(kubeconfig), "PYTHONPATH": paths}
    with FakeKubernetes(namespaces={}, users={"driver": []}, env=env).in_thread() as fake:
        fake.create(namespace)
        team = namespace["metadata"]["name"]
        fake.grant("driver", [{**rule, "namespaces": [team]} for rule in role["rules"]])
        fake.kubeconfig(kubeconfig, namespace=team)
        fake.create(driver)

        def phase() -> str:
            (found,) = [p for p in fake.objects("pods") if p["metadata"]["name"] == name]
            return str(found["status"]["phase"])

        name = driver["metadata"]["name"]
        wait_for(lambda: phase() in ("Succeeded", "Failed"), within=60, what="the driver ends")
        with Caller(fake) as caller:
            text = caller.get(f"/api/v1/namespaces/{team}/pods/{name}/log").text
        assert phase() == "Succeeded", text
        assert "[0, 1, 4, 9]" in text
        assert "ready" in text
        wait_for(fake.at_rest, what=f"nothing is left: {fake.left()}")

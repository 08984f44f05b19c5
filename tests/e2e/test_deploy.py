"""What is in deploy/ works with what it is for."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import dask.config
import pytest
import yaml
from distributed import Client

import dask_flame
from dask_flame.backends.kubernetes import own_pod
from dask_flame.backends.kubernetes.api import permissions
from dask_flame.backends.kubernetes.options import KubernetesOptions
from tests.fakes.kubernetes.security import violations
from tests.support import kubernetes_schemas
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
VERSIONS = ("1.30", "1.36")
KUSTOMIZATIONS = sorted(DEPLOY.rglob("kustomization.yaml"))
#: What is applied: the others are parts of these.
OVERLAYS = {"overlay": "dask-flame", "jupyterhub": "jhub", "jupyterhub/apart": "dask-flame"}
KUSTOMIZE = shutil.which("kubectl")


def load(path: Path | str) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text())


def objects(paths: Iterable[Path] | None = None) -> list[dict[str, Any]]:
    """All objects for Kubernetes in files: the others are about Dask, kustomize or Helm."""
    found = [
        item
        for path in (DEPLOY.rglob("*.yaml") if paths is None else paths)
        for item in yaml.safe_load_all(path.read_text())
        if "kustomize" not in item.get("apiVersion", "kustomize")
    ]
    assert found
    return found


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [
        item
        for item in objects()
        if (item["kind"], item.get("metadata", {}).get("name")) == (kind, name)
    ]
    return found


def granted(rules: Iterable[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def chooses(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) == {"matchLabels"}
    return bool(selector["matchLabels"].items() <= labels.items())


@pytest.mark.process
@pytest.mark.asyncio
async def test_the_jupyterlab_extension_can_start_a_cluster() -> None:
    # As dask_labextension's make_cluster does it.
    factory = load("jupyterlab/labextension.yaml")["labextension"]["factory"]
    make = getattr(import_module(factory["module"]), factory["class"])
    options = {**factory["kwargs"], "dashboard_address": None}
    cluster = await make(*factory["args"], **options, asynchronous=True)
    async with cluster, Client(cluster, asynchronous=True) as client:
        adaptive = cluster.adapt(minimum=0, maximum=2)
        assert (adaptive.minimum, adaptive.maximum) == (0, 2)
        assert await client.submit(int, 2) == 2


@pytest.mark.unit
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(version: str) -> None:
    for item in objects():
        kubernetes_schemas.validate(item, version)


@pytest.mark.unit
def test_what_is_deployed_is_safe() -> None:
    specs = [item["spec"]["template"]["spec"] for item in objects() if item["kind"] == "DaemonSet"]
    assert len(specs) == 2
    for spec in specs:
        assert violations(spec) == ""
        assert spec["automountServiceAccountToken"] is False
        for container in spec["initContainers"] + spec["containers"]:
            # A quota may count either.
            assert set(container["resources"]) == {"requests", "limits"}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.unit
def test_the_trial_driver_is_as_restricted_as_its_runners() -> None:
    spec = named("Pod", "dask-flame-try")["spec"]
    assert violations(spec) == ""
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    (volume,) = spec["volumes"]
    (mount,) = container["volumeMounts"]
    assert (volume["emptyDir"], mount["name"]) == ({}, volume["name"])
    assert mount["mountPath"] == container["workingDir"] == "/tmp"
    env = {e["name"]: e["value"] for e in container["env"] if "value" in e}
    config = dask.config.collect_env(env)
    assert dask.config.get("flame.kubernetes.read-only-root", config=config) is True


@pytest.mark.unit
@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda p: str(p.parent.relative_to(DEPLOY)))
def test_kustomizations_have_what_is_beside_them_and_nothing_else(path: Path) -> None:
    made = yaml.safe_load(path.read_text())
    listed = made["resources"] + made.get("components", [])
    generated = [file for g in made.get("configMapGenerator", ()) for file in g["files"]]
    for name in listed + generated:
        assert (path.parent / name).exists(), name
    beside = {file.name for file in path.parent.glob("*.yaml")} - {"kustomization.yaml"}
    about_helm = {"values.yaml"}
    assert beside - about_helm == {name for name in listed + generated if name.endswith(".yaml")}


@pytest.mark.process
@pytest.mark.skipif(KUSTOMIZE is None, reason="kubectl is not there")
@pytest.mark.parametrize(("folder", "namespace"), OVERLAYS.items())
def test_what_kustomize_makes_of_it(folder: str, namespace: str) -> None:
    assert KUSTOMIZE
    text = subprocess.run(
        [KUSTOMIZE, "kustomize", DEPLOY / folder], check=True, capture_output=True, text=True
    ).stdout
    made = list(yaml.safe_load_all(text))
    for item in made:
        for version in VERSIONS:
            kubernetes_schemas.validate(item, version)
        if item["kind"] not in ("Namespace", "PriorityClass"):
            assert item["metadata"]["namespace"] == namespace
    kinds = {item["kind"] for item in made}
    assert kinds >= {"ResourceQuota", "LimitRange", "NetworkPolicy"}
    roles = {item["metadata"]["name"] for item in made if item["kind"] in ("Role", "RoleBinding")}
    # Notebooks need no port-forwards, and nobody needs to list the Secrets of a hub.
    elsewhere = {"dask-flame-remote", "dask-flame-inspector"}
    others = {"overlay": elsewhere, "jupyterhub": set(), "jupyterhub/apart": {"hub"}}
    assert roles == {"dask-flame-driver", *others[folder]}
    check_subjects(made)
    (account,) = [item["metadata"] for item in made if item["kind"] == "ServiceAccount"]
    (binding,) = [
        item
        for item in made
        if (item["kind"], item["metadata"]["name"]) == ("RoleBinding", "dask-flame-driver")
    ]
    subject = {key: account[key] for key in ("name", "namespace")}
    assert binding["subjects"] == [{"kind": "ServiceAccount", **subject}]
    images = {
        c["image"]
        for item in made
        if item["kind"] == "DaemonSet"
        for c in item["spec"]["template"]["spec"]["initContainers"]
    }
    # Every image has been given a registry.
    assert images
    assert all(re.match(r"registry\.example\.com/dask-flame[a-z-]*:", image) for image in images)
    # A hub's namespace is there already, and is left as it is.
    assert ("Namespace" in {item["kind"] for item in made}) == (namespace == "dask-flame")


def needed(*groups: tuple[tuple[Any, str, tuple[str, ...]], ...]) -> set[tuple[str, str, str]]:
    asked = [
        (kind, part, verb) for group in groups for kind, part, verbs in group for verb in verbs
    ]
    return granted(yaml.safe_load(permissions.rules(asked))["rules"])


@pytest.mark.unit
def test_the_roles_are_what_the_backend_asks_for() -> None:
    driver = granted(named("Role", "dask-flame-driver")["rules"])
    policies = {("networking.k8s.io", "networkpolicies", "create")}
    assert driver == needed(permissions.NEEDED) | policies
    forward = {("", "pods/portforward", verb) for verb in ("create", "get")}
    apart = forward | {("batch", "jobs", "patch")}
    assert apart == needed(permissions.NEEDED_APART)
    assert granted(named("Role", "dask-flame-remote")["rules"]) == driver | apart
    connects = {("", "secrets", "get"), ("", "pods", "patch"), ("batch", "jobs", "list")}
    assert granted(named("Role", "dask-flame-connect")["rules"]) == connects


def check_subjects(made: Iterable[dict[str, Any]]) -> None:
    """Check that bindings name only service accounts: an example of a group may be somebody's."""
    for binding in made:
        if binding["kind"] == "RoleBinding":
            kinds = {subject["kind"] for subject in binding["subjects"]}
            assert kinds <= {"ServiceAccount"}, binding["metadata"]["name"]


@pytest.mark.unit
def test_nobody_has_rights_before_somebody_was_named() -> None:
    check_subjects(objects())
    patches = load("overlay/kustomization.yaml")["patches"]
    bindings = [patch for patch in patches if patch["target"]["kind"] == "RoleBinding"]
    given = {"dask-flame-remote", "dask-flame-connect", "dask-flame-inspector"}
    for patch in bindings:
        named_here = {name for name in given if re.fullmatch(patch["target"]["name"], name)}
        assert named_here, patch
        given -= named_here
        assert [step["value"] for step in yaml.safe_load(patch["patch"])] == [[]]
    assert not given


@pytest.mark.unit
def test_a_hub_has_the_rights_that_its_spawner_uses() -> None:
    rights = granted(named("Role", "hub")["rules"])
    makes = {"create", "delete", "get", "list", "watch"}
    assert rights == {
        *(("", "pods", verb) for verb in makes),
        *(("", "persistentvolumeclaims", verb) for verb in makes),
        *(("", "events", verb) for verb in ("get", "list", "watch")),
    }


def check_bounded(rules: Iterable[dict[str, Any]], side: str) -> None:
    """Check that rules name whom they are about; only DNS may be anywhere."""
    for rule in rules:
        dns = {port["port"] for port in rule.get("ports", ())} == {53}
        assert rule.get(side) or (side == "to" and dns), rule


@pytest.mark.unit
def test_policies_say_to_whom() -> None:
    for policy in (item["spec"] for item in objects() if item["kind"] == "NetworkPolicy"):
        check_bounded(policy.get("egress", ()), "to")
        check_bounded(policy.get("ingress", ()), "from")
    network = load("jupyterhub/values.yaml")["singleuser"]["networkPolicy"]
    check_bounded(network["egress"], "to")
    check_bounded(network["ingress"], "from")
    values = load("jupyterhub/apart/values.yaml")
    check_bounded(values["hub"]["networkPolicy"]["egress"], "to")
    check_bounded(values["proxy"]["chp"]["networkPolicy"]["egress"], "to")


@pytest.mark.unit
def test_runners_do_not_reach_notebook_servers() -> None:
    apart = named("NetworkPolicy", "dask-flame-drivers")["spec"]["ingress"]
    beside = load("jupyterhub/values.yaml")["singleuser"]["networkPolicy"]["ingress"]
    of_chart = {"matchLabels": {"hub.jupyter.org/network-access-singleuser": "true"}}
    for rule in (*apart, *beside):
        ports = [(port["port"], port.get("endPort", port["port"])) for port in rule["ports"]]
        if any(first <= 8888 <= last for first, last in ports):
            # The hub and its proxy alone, not all pods of their namespace.
            assert [sorted(peer) for peer in rule["from"]] == [["namespaceSelector", "podSelector"]]
            assert rule["from"][0]["podSelector"] == of_chart
        else:
            # The ports of which the kernel gives one to each that binds to none.
            assert ports == [(32768, 60999)]


@pytest.mark.unit
def test_the_trial_driver_s_label_is_its_own() -> None:
    pod = named("Pod", "dask-flame-try")
    with_address = {**pod, "metadata": {**pod["metadata"], "uid": "u-1"}}
    told = own_pod._read(with_address, "10.0.0.9").labels
    values = load("jupyterhub/values.yaml")["singleuser"]
    # A policy that admits pods with all of these labels admits no other driver.
    assert told.items() > values["extraLabels"].items()


@pytest.mark.unit
def test_bindings_name_what_there_is() -> None:
    there = objects()
    names = {(item["kind"], item.get("metadata", {}).get("name")) for item in there}
    bindings = [item for item in there if item["kind"] == "RoleBinding"]
    assert {b["metadata"]["name"] for b in bindings} == {
        *("dask-flame-connect", "dask-flame-driver", "dask-flame-inspector", "dask-flame-remote"),
        "hub",
    }
    for binding in bindings:
        assert ("Role", binding["roleRef"]["name"]) in names
        for subject in binding["subjects"]:
            if subject["kind"] == "ServiceAccount" and "namespace" not in subject:
                assert ("ServiceAccount", subject["name"]) in names
    values = load("jupyterhub/values.yaml")["singleuser"]
    assert ("ServiceAccount", values["serviceAccountName"]) in names


@pytest.mark.unit
def test_a_hub_and_we_do_not_both_fetch_the_image() -> None:
    assert not load("jupyterhub/values.yaml")["prePuller"]["continuous"]["enabled"]
    tolerations = named("DaemonSet", "dask-flame-prepull")["spec"]["template"]["spec"][
        "tolerations"
    ]
    keys = {toleration["key"] for toleration in tolerations}
    assert {"hub.jupyter.org/dedicated", "hub.jupyter.org_dedicated"} <= keys


@pytest.mark.unit
def test_a_hub_s_notebooks_are_drivers() -> None:
    values = load("jupyterhub/values.yaml")["singleuser"]
    to_them = named("NetworkPolicy", "dask-flame-ingress")["spec"]["podSelector"]
    assert not chooses(to_them, values["extraLabels"])
    apart = named("NetworkPolicy", "dask-flame-drivers")["spec"]
    assert chooses(apart["podSelector"], values["extraLabels"])
    # What lets runners in to the notebook, in either way, and lets the notebook out to them.
    assert [{"podSelector": to_them}] in [r["from"] for r in values["networkPolicy"]["ingress"]]
    assert {"to": [{"podSelector": to_them}]} in values["networkPolicy"]["egress"]
    assert [{"podSelector": to_them}] in [rule["from"] for rule in apart["ingress"]]
    # Both kinds of pods are kept from the metadata server in the same way.
    assert apart["egress"] == named("NetworkPolicy", "dask-flame-egress")["spec"]["egress"]
    (volume,) = values["storage"]["extraVolumes"]
    (mount,) = values["storage"]["extraVolumeMounts"]
    assert (mount["name"], mount["mountPath"]) == (volume["name"], "/etc/dask")
    for folder in ("jupyterhub", "jupyterhub/apart"):
        (generated,) = load(f"{folder}/kustomization.yaml")["configMapGenerator"]
        assert generated["name"] == volume["configMap"]["name"]
        assert load(f"{folder}/flame.yaml") == load("jupyterhub/flame.yaml")


@pytest.mark.unit
def test_a_hub_s_configuration_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    values = load("jupyterhub/values.yaml")["singleuser"]
    read = dask.config.collect([str(DEPLOY / "jupyterhub/flame.yaml")], env=values["extraEnv"])
    assert read["flame"] == {"backend": "kubernetes", "dashboard": {"token": "auto"}}
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/me/")
    link = read["distributed"]["dashboard"]["link"].format(**os.environ, port=8787)
    assert link == "/user/me/proxy/8787/status"


@pytest.mark.unit
def test_a_notebook_apart_is_within_restricted() -> None:
    spawner = load("jupyterhub/apart/values.yaml")["hub"]["config"]["KubeSpawner"]
    spec = {
        "securityContext": spawner["pod_security_context"],
        "containers": [
            {"name": "notebook", "securityContext": spawner["container_security_context"]}
        ],
    }
    assert violations(spec) == ""
    assert spawner["namespace"] == named("Namespace", "dask-flame")["metadata"]["name"]


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (DEPLOY / "docker" / name).read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", "").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


@pytest.mark.unit
@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_images_are_of_this_version_and_run_what_they_are_given(name: str) -> None:
    steps = instructions(name)
    args = dict(text.split("=", 1) for step, text in steps if step == "ARG")
    assert args["VERSION"] == dask_flame.__version__
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(args["EXTRAS"].split(",")) <= set(extras["optional-dependencies"])
    (install,) = [text for step, text in steps if step == "RUN" and "dask-flame[" in text]
    assert "--constraint /context/constraints.txt" in install
    assert '"dask-flame[${EXTRAS}]==${VERSION}"' in install
    assert [text for step, text in steps if step == "USER"] == ["1000:1000"]
    # Pods have `args` and no command: what an entrypoint made of them would run.
    assert [text for step, text in steps if step == "ENTRYPOINT"] in ([], ["[]"])
    assert steps[-1] == ("CMD", '["python"]')
    (bill,) = [text for step, text in steps if step == "RUN" and "cyclonedx-py" in text]
    assert steps.index(("RUN", bill)) == steps.index(("RUN", install)) + 1
    assert "--output-file /usr/share/sbom/dask-flame.cdx.json" in bill
    assert bill.endswith("&& rm -r /tmp/sbom")
    ignored = (DEPLOY / "docker" / f"{name}.dockerignore").read_text().splitlines()
    assert ignored[1:] == ["*", "!constraints.txt", "!dist/dask_flame-*.whl"]


@pytest.mark.unit
def test_what_one_image_pickles_the_other_can_read() -> None:
    (python,) = [t for step, t in instructions("Dockerfile") if t.startswith("PYTHON=")]
    minor = re.match(r"PYTHON=(3\.\d+)\.", python)
    assert minor
    assert f"python{minor[1]} -m venv" in (DEPLOY / "docker/Dockerfile.cuda").read_text()


@pytest.mark.unit
def test_the_versions_are_the_same_everywhere() -> None:
    tags = [
        tag
        for path in DEPLOY.rglob("*.*")
        if path.is_file()
        for tag in re.findall(
            r"dask-flame(?:-[a-z]+)?:(\d[\w.]*)|newTag: \"(.*?)\"|tag: \"(.*?)\"", path.read_text()
        )
    ]
    assert len(tags) > 5
    assert {"".join(tag) for tag in tags} == {dask_flame.__version__}


@pytest.mark.process
def test_the_guide_leads_somewhere() -> None:
    guide = (DEPLOY / "README.md").read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", guide):
        assert link.startswith("https://") or (DEPLOY / link).exists(), link
    for path in re.findall(r"(?:deploy/[\w./-]+)", guide):
        # The one that is copied from another.
        assert (ROOT / path.replace("deploy/ours", "deploy/overlay")).exists(), path
    blocks = re.findall(r"```(\w+)\n(.*?)```", guide, re.DOTALL)
    for language, text in blocks:
        if language == "python":
            ast.parse(text)
        elif language == "yaml":
            yaml.safe_load(text)
        else:
            checked = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True)
            assert checked.stderr == ""
    # The options that it shows are there.
    calls = [
        node
        for language, text in blocks
        if language == "python"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "FlameCluster"
    ]
    assert calls
    known = {*KubernetesOptions.__dataclass_fields__, "backend", "max", "cpus", "memory", "gpus"}
    assert {str(k.arg) for call in calls for k in call.keywords} <= known

"""`cluster.manifest()` says what is sent, as it is sent, and none of its secrets."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dask
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.lib.pretty import pretty

from dask_flame import FlameCluster, Pool
from dask_flame.backends import Backend
from dask_flame.backends.kubernetes.objects import manifests
from dask_flame.backends.kubernetes.objects.redact import shown
from dask_flame.backends.kubernetes.options import KubernetesOptions
from dask_flame.backends.local import LocalBackend
from dask_flame.backends.local.launch import displayed
from dask_flame.backends.redact import HIDDEN
from dask_flame.backends.specs import RunnerSpec
from dask_flame.driver.manifest import Manifest
from dask_flame.errors import BackendError, PoolError
from tests.backends.kubernetes import test_backend as test_kubernetes
from tests.backends.kubernetes.calls import whoami
from tests.backends.kubernetes.objects.test_manifests import SITE
from tests.backends.kubernetes.test_backend import Start
from tests.support import kubernetes_schemas
from tests.support.examples import examples
from tests.support.kubernetes_help import Caller

pytestmark = pytest.mark.process

kubernetes = test_kubernetes.kubernetes
cluster = test_kubernetes.cluster

#: Of the metadata of an object what its maker does not say.
_GIVEN = {"uid", "creationTimestamp", "resourceVersion", "generation", "finalizers"}


class Heard(LocalBackend):
    """Remembers what it has said to its supervisor."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.said: list[dict[str, Any]] = []

    def _send(self, message: dict[str, Any]) -> None:
        self.said.append(json.loads(json.dumps(message)))
        super()._send(message)


def test_a_local_runner_is_told_what_is_shown(flame: Any) -> None:
    made, client = flame(
        backend=Heard, max=2, env={"TOKEN": "xyzzy"}, cpus=2, preload=["json"], security=True
    )
    (shown,) = made.manifest()
    assert client.submit(os.getenv, "TOKEN").result() == "xyzzy"
    sent = {m["op"]: m for m in made.backend.said}
    assert set(sent["boot"]["runners"]) == {shown["metadata"]["name"]} == {"runner-1"}
    spec = shown["spec"]
    assert {k: spec[k] for k in ("preload", "path", "fork")} == {
        k: sent["kind"][k] for k in ("preload", "path", "fork")
    }
    assert set(spec["env"]) == set(sent["kind"]["env"])
    assert spec["env"]["OMP_NUM_THREADS"] == "2" == sent["kind"]["env"]["OMP_NUM_THREADS"]
    assert spec["env"]["TOKEN"] == spec["env"]["PATH"] == HIDDEN
    launch_config = sent["boot"]["launch_config"]
    hidden = {"config": HIDDEN, "security": dict.fromkeys(launch_config["security"], HIDDEN)}
    assert spec["launch_config"] == {**launch_config, **hidden}
    assert launch_config["config"]["distributed"]
    assert "xyzzy" not in str(made.manifest())
    # The next one, after it.
    assert made.manifest()[0]["metadata"]["name"] == "runner-2"


def test_each_pool_has_its_own_and_they_are_shown_as_yaml(flame: Any) -> None:
    made, _ = flame(pools={"cpu": Pool(max=2), "gpu": Pool(max=1, gpus=1)})
    manifest = made.manifest()
    assert [item["metadata"]["name"] for item in manifest] == ["cpu-1", "gpu-1"]
    assert list(yaml.safe_load_all(yaml.safe_dump_all(manifest))) == manifest
    assert list(yaml.safe_load_all(str(manifest))) == manifest
    assert pretty(manifest) == repr(manifest) == str(manifest)


def test_a_cluster_that_has_not_started(flame: Any) -> None:
    async def early() -> None:
        made = FlameCluster(max=1, asynchronous=True, dashboard_address=None)
        with pytest.raises(BackendError, match="write `await cluster`"):
            made.manifest()
        async with made:
            assert made.manifest()[0]["kind"] == "Runner"

    asyncio.run(early())


def test_a_backend_that_does_not_show_what_it_sends(flame: Any) -> None:
    class Silent(LocalBackend):
        name = "silent"
        manifest = Backend.manifest

    made, _ = flame(backend=Silent, max=1)
    with pytest.raises(BackendError, match="'silent' does not show what it sends"):
        made.manifest()


def made_by(obj: Mapping[str, Any]) -> dict[str, Any]:
    """An object without what the API server and its controllers have put into it."""
    kept = {key: value for key, value in obj.items() if key not in ("status", "data")}
    kept["metadata"] = {k: v for k, v in obj["metadata"].items() if k not in _GIVEN}
    kept["metadata"]["ownerReferences"] = [
        {k: v for k, v in owner.items() if k != "uid"}
        for owner in obj["metadata"]["ownerReferences"]
    ]
    spec = dict(kept.get("spec") or {})
    spec.pop("nodeName", None)
    if obj["kind"] == "Job":
        # The server makes them of the uid.
        spec.pop("selector")
        labels = spec["template"]["metadata"]["labels"]
        of_uid = ("controller-uid", "batch.kubernetes.io/controller-uid")
        spec["template"]["metadata"]["labels"] = {
            k: v for k, v in labels.items() if k not in of_uid
        }
    return {**kept, "spec": spec, "data": sorted(obj.get("data") or ())}


def test_kubernetes_receives_what_is_shown(kubernetes: Start, cluster: Any) -> None:
    fake = kubernetes(nodes=[{"cpu": 8, "memory": "64Gi", "nvidia.com/gpu": 2}])
    token = "a-token-that-nobody-may-see"
    pools = {
        "cpu": Pool(max=1, env={"TOKEN": token, "launch.json": token}, cpus=1),
        "gpu": Pool(max=1, gpus=1, secrets={"HF": token}, shm_size="1 GiB", labels={"a": "b"}),
    }
    flame, client = cluster(max=None, pools=pools)
    manifest = flame.manifest()
    kinds = [item["kind"] for item in manifest]
    assert kinds == ["Job", "NetworkPolicy", "Secret", "Pod", "Secret", "Pod"]
    assert fake.left() == []  # nothing was sent
    text = str(manifest)
    assert token not in text
    assert "PRIVATE KEY" not in text
    assert text.count("(given by the API server)") == 5
    assert list(yaml.safe_load_all(text)) == manifest
    # As a server takes what is shown, so it has taken what was sent.
    told = {}
    with Caller(fake) as caller:
        for item in manifest:
            kubernetes_schemas.validate(item, "1.36")
            obj = caller.make(item, dryRun="All")
            told[obj["kind"], obj["metadata"]["name"]] = made_by(obj)
    assert client.submit(whoami, pure=False).result(timeout=60)[1] == token
    with dask.annotate(pool="gpu"):
        client.submit(whoami, pure=False).result(timeout=60)
    received = {
        (obj["kind"], obj["metadata"]["name"]): made_by(obj)
        for kind in ("jobs", "networkpolicies", "secrets", "pods")
        for obj in fake.objects(kind)
        if "dask-flame" in obj["metadata"].get("labels", {}).values()
        and obj["metadata"]["labels"].get("batch.kubernetes.io/job-name") is None
    }
    # Values are in Secrets only, even of a variable whose name is that of something else in it.
    assert not any(token in json.dumps(fake.objects(kind)) for kind in ("pods", "jobs"))
    assert told == received
    # What is there already is as it was sent; what comes next has the next name.
    later = flame.manifest()
    assert later[0] == manifest[0]
    assert later[3]["metadata"]["name"].endswith("-cpu-2")
    (job,) = fake.objects("jobs")
    assert later[3]["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]


def test_kubernetes_says_so_where_there_could_be_no_pod(kubernetes: Start, cluster: Any) -> None:
    kubernetes()
    flame, _ = cluster(pod_template=lambda pod: "no pod")
    with pytest.raises(PoolError, match="pod_template is not a pod"):
        flame.manifest()


NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
TOKEN = "s3cr3t-t0k3n"
SPEC = RunnerSpec(name="runner-1", scheduler="tls://10.0.0.1:1", concurrency=1, boot_timeout=60)


@settings(max_examples=examples(20))
@given(
    env=st.sets(NAME | st.text(min_size=1).filter(lambda t: "=" not in t and "\0" not in t)),
    secrets=st.sets(NAME),
    cpus=st.sampled_from([None, 2]),
    config=st.dictionaries(NAME, st.just({"deep": [TOKEN]}), max_size=2),
)
def test_no_secret_is_shown(env: set[str], secrets: set[str], cpus: Any, config: Any) -> None:
    def template(pod: dict[str, Any]) -> dict[str, Any]:
        if secrets:  # known as one, and put where everybody can read it
            pod["metadata"]["annotations"] = {"note": f"with {TOKEN}"}
        pod["spec"]["containers"].append(
            {"name": "other", "image": "i", "env": [{"name": "X", "value": TOKEN}]}
        )
        return pod

    values = {"env": dict.fromkeys(env | {"A"}, TOKEN), "config": config}
    values["secrets"] = dict.fromkeys(secrets, TOKEN)
    given = {"pod_template": template}
    security = {"tls_worker_key": f"-----BEGIN {TOKEN}"}
    spec = replace(SPEC, **values, security=security, cpus=cpus, options=given)
    text = str(Manifest([displayed(replace(spec, options={}), {}, 1.0)]))
    assert TOKEN not in text
    assert "(hidden)" in text
    options = KubernetesOptions(**spec.options)
    site = SITE
    secret = manifests.secret(site, spec.launch_config(local=False), spec.variables)
    pod = manifests.pod(spec, options, site, {"FROM_DASK": TOKEN}, "launch")
    assert TOKEN in json.dumps(secret)
    assert TOKEN in json.dumps(pod)
    text = str(Manifest(shown(item, spec) for item in (secret, pod)))
    assert TOKEN not in text

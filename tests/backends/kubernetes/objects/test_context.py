"""``namespace=`` and ``context=``: where a cluster's pods are, seen on the fake API server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
import yaml
from dask.distributed import Client

from dask_flame import FlameCluster
from dask_flame.errors import BackendError, PoolError
from tests.driver.hosts.test_remote import free_port
from tests.fakes.kubernetes import FakeKubernetes
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

IMAGE = "ghcr.io/me/runner:1.0"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """Two namespaces, and a kubeconfig with two contexts of which the current one is nobody's."""
    monkeypatch.setenv("DASK_FLAME__SCHEDULER__PORT", str(free_port()))
    monkeypatch.setenv("DASK_FLAME__SCHEDULER__DASHBOARD_PORT", str(free_port()))
    monkeypatch.delenv("POD_NAME", raising=False)
    dask.config.refresh()
    image = {"PYTHONPATH": str(ROOT)}
    with FakeKubernetes(namespaces=["team", "other"], env=image).in_thread() as fake:
        path = Path(fake.kubeconfig(tmp_path / "kubeconfig"))
        found = yaml.safe_load(path.read_text())
        (context,) = found["contexts"]
        gone = {"name": "gone", "cluster": {"server": "http://127.0.0.1:9"}}
        found["clusters"].append(gone)
        away = {"name": "away", "context": {**context["context"], "cluster": "gone"}}
        found["contexts"] = [away, {**context, "name": "here"}]
        found["current-context"] = "away"
        path.write_text(yaml.safe_dump(found))
        monkeypatch.setenv("KUBECONFIG", str(path))
        yield fake
        wait_for(fake.at_rest, 30, f"nothing is left: {fake.left()}")
    monkeypatch.undo()
    dask.config.refresh()


def make(**options: Any) -> FlameCluster:
    usual = {"backend": "kubernetes", "image": IMAGE, "dashboard_address": None, "max": 1}
    return FlameCluster(**{**usual, **options})


def test_pods_are_where_they_are_wanted(fake: FakeKubernetes) -> None:
    with make(namespace="other", context="here", cpus="200m", memory="300 MiB") as cluster:
        with Client(cluster) as client:
            assert client.submit(os.getenv, "OMP_NUM_THREADS").result(timeout=60) == "1"
        assert {p["metadata"]["namespace"] for p in fake.objects("pods")} == {"other"}
        asked = [p["spec"]["containers"][0]["resources"]["limits"] for p in fake.objects("pods")]
        assert {"cpu": "200m", "memory": "300Mi"} in asked
        assert {o["metadata"]["namespace"] for o in cluster.manifest()} == {"other"}


def test_the_configuration_says_it_as_well(fake: FakeKubernetes) -> None:
    where = {"flame.kubernetes.namespace": "other", "flame.kubernetes.context": "here"}
    with dask.config.set(where), make():
        assert {p["metadata"]["namespace"] for p in fake.objects("pods")} == {"other"}
    wait_for(fake.at_rest)
    with (
        dask.config.set({"flame.kubernetes.namespace": "No"}),
        pytest.raises(PoolError, match=r"namespace='No'.*flame.kubernetes.namespace"),
    ):
        make()


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"namespace": "nope", "context": "here"}, BackendError, "no namespace 'nope' in this"),
        ({"context": "nope"}, BackendError, "no context 'nope': there are 'away', 'here'"),
        ({"namespace": "My_Team"}, PoolError, "namespace='My_Team' .* write namespace=\"my-team\""),
        ({"namespace": ""}, PoolError, "namespace='' is not"),
        ({"namespace": 5}, PoolError, "namespace=5 is not"),
        ({"context": ""}, PoolError, "context='' is not"),
    ],
)
def test_what_is_wrong_is_said(
    options: dict[str, Any], kind: type[Exception], says: str, fake: FakeKubernetes
) -> None:
    with pytest.raises(kind, match=says):
        make(**options)
    assert fake.left() == []


def test_a_pod_of_the_same_name_in_another_namespace_is_not_the_driver(
    fake: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"containers": [{"name": "c", "image": "i", "command": ["sleep", "60"]}]}
    meta = {"name": "hub-0", "namespace": "other"}
    twin = fake.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    monkeypatch.setenv("POD_NAME", "hub-0")
    wait_for(lambda: fake.objects("pods")[0]["status"].get("podIP"))
    with make(namespace="other", context="here") as cluster:
        assert cluster.backend.apart  # the scheduler is beside the runners
        uid = twin["metadata"]["uid"]
        owners = [o["metadata"].get("ownerReferences") or [] for o in fake.objects("jobs")]
        assert all(reference["uid"] != uid for found in owners for reference in found)
    with pytest.raises(BackendError, match="namespace= is another one than its own"):
        make(namespace="other", context="here", scheduler="driver")

"""Tests for any Kubernetes run on the fake here, and on a real cluster in a pod of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dask.distributed import Client

from dask_flame import FlameCluster
from dask_flame.backends.kubernetes import KubernetesBackend
from tests.e2e.real_kubernetes import setting
from tests.e2e.real_kubernetes.asking import Asking
from tests.e2e.real_kubernetes.away import Away
from tests.e2e.real_kubernetes.ground import NO_IMAGE, Ground
from tests.e2e.real_kubernetes.world import GPU, World
from tests.support.waiting import wait_for

_AWAY = pytest.StashKey[Away]()
_WORLD = pytest.StashKey[World]()

#: An image of the fake's.
_OTHER = "other-python:1"
REAL = pytest.param("real", marks=pytest.mark.kubernetes)


# Tests that run elsewhere


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    why = setting.missing()
    for item in items:
        if why and _real(item):
            item.add_marker(pytest.mark.skip(why))
    # How a cluster is left is seen when all else is over.
    # Those that are watched from here do not compete for room with those in the pod.
    items.sort(key=lambda item: not why and _real(item) and not _goes_away(item))
    items.sort(key=lambda item: item.name.startswith("test_all_is_as_it_was"))


def _real(item: pytest.Item) -> bool:
    return item.get_closest_marker("kubernetes") is not None


def _goes_away(item: pytest.Item) -> bool:
    """Whether a test is to run in a pod, and this is none."""
    return "ground" in getattr(item, "fixturenames", ()) and _real(item) and not setting.inside()


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    config = session.config
    real = [item for item in session.items if _real(item)]
    if not real or setting.inside() or setting.missing() or config.option.collectonly:
        return (yield)
    # Before the tests, as each is looked at for what it leaves.
    with World(os.environ[setting.IMAGE], os.environ.get(setting.NAMESPACE, "")) as world:
        config.stash[_WORLD] = world
        if sent := [item.nodeid for item in real if _goes_away(item)]:
            config.stash[_AWAY] = Away(config, world, sent)
        return (yield)


def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    away = item.config.stash.get(_AWAY, None)
    if away is None or not _goes_away(item):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in away.reports(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


# What tests stand on


@pytest.fixture(params=["fake", REAL])
def ground(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ground]:
    """A namespace that nothing of ours is in, with the driver that this is in a pod of it."""
    if request.param == "real":
        # In a pod: kr8s says "default", see dask_flame.backends.kubernetes.api.kubeconfig.
        with Asking(_namespace()) as ask:
            ground = Ground.inside(ask)
            yield ground
            wait_for(ground.at_rest, 120, "no pod is left")
        return
    kubernetes = pytest.importorskip("tests.fakes.kubernetes")
    from tests.support.other_python import other_python  # which is not among what comes to a pod

    with kubernetes.FakeKubernetes(
        pythons={_OTHER: other_python(tmp_path)[0]},
        namespaces={"team": {"pod-security.kubernetes.io/enforce": "restricted"}},
        nodes=[{"cpu": 64, "memory": "256Gi", GPU: 2}],
        bad_images={NO_IMAGE: "no such host"},
        back_off=0.3,
    ).in_thread() as fake:
        yield from _on(fake, tmp_path, monkeypatch)


def _namespace() -> str:
    told = setting.SERVICE_ACCOUNT / "namespace"
    # On the fake a pod has a kubeconfig in its place.
    return told.read_text().strip() if told.is_file() else ""


def _on(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """This process as a driver in a pod of the fake's."""
    fake.create(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "small", "namespace": "team"},
            "spec": {"hard": {"pods": "8"}},
        }
    )
    hardened = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "driver", "image": "image:1", "args": ["sleep", "3600"]}
    fake.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "me", "namespace": "team", "labels": {"app": "hub"}},
            "spec": {
                "securityContext": {
                    "runAsNonRoot": True,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{**container, "securityContext": hardened}],
            },
        }
    )
    wait_for(lambda: fake.objects("pods")[0]["status"].get("podIP"))
    monkeypatch.setenv("KUBECONFIG", fake.kubeconfig(tmp_path / "kubeconfig"))
    monkeypatch.setenv("POD_NAME", "me")
    with Asking() as ask:
        yield Ground(ask, "t", 3, 2, fake, other_image=_OTHER)
    wait_for(fake.at_rest, 60, f"nothing is left: {fake.left()}")


@pytest.fixture
def cluster(
    ground: Ground, request: pytest.FixtureRequest
) -> Iterator[Callable[..., tuple[FlameCluster, Client]]]:
    """Makes a cluster on the ground, and its client."""
    made: list[tuple[FlameCluster, Client]] = []

    def make(**options: Any) -> tuple[FlameCluster, Client]:
        name = f"{ground.token}-{len(made)}"
        usual = {"name": name, "backend": KubernetesBackend, "dashboard_address": None, "max": 2}
        cluster = FlameCluster(**{**usual, **options})
        client = Client(cluster)
        made.append((cluster, client))
        return cluster, client

    yield make
    for cluster, client in reversed(made):
        client.close()
        cluster.close()


@pytest.fixture(params=["fake", REAL])
def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A place for drivers' pods, seen from outside."""
    if request.param == "real":
        yield request.config.stash[_WORLD]
        return
    kubernetes = pytest.importorskip("tests.fakes.kubernetes")
    # A pull is tried once only, so that the reason stays the first one.
    bad = {NO_IMAGE: "no such host"}
    made = kubernetes.FakeKubernetes(users={"admin": _ALL}, bad_images=bad, back_off=60)
    with made.in_thread() as fake:
        path = fake.kubeconfig(tmp_path / "kubeconfig", user="admin", namespace="default")
        monkeypatch.setenv("KUBECONFIG", path)
        with World("image:1") as world:
            yield world
        wait_for(fake.at_rest, 60, f"nothing is left: {fake.left()}")


_ALL = ({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},)

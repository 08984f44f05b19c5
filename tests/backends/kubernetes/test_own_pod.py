"""The driver's own pod, and what of it others are told."""

from __future__ import annotations

from typing import Any

import pytest

from dask_flame.backends.kubernetes.own_pod import _read

pytestmark = pytest.mark.unit

HUB = {
    "app": "jupyterhub",
    "component": "singleuser-server",
    "hub.jupyter.org/username": "me",
    "app.kubernetes.io/name": "jupyterhub",
}


def read(labels: dict[str, str] | None, **spec: Any) -> Any:
    container = {"name": "notebook", "image": "hub/image:1"}
    metadata: dict[str, Any] = {"name": "me", "uid": "u-1"}
    if labels is not None:
        metadata["labels"] = labels
    return _read({"metadata": metadata, "spec": {"containers": [container], **spec}}, "10.0.0.9")


def test_it_is_told_by_its_labels_but_not_by_those_that_policies_do_not_see() -> None:
    unseen = {
        "pod-template-hash": "7c9f",
        "controller-revision-hash": "web-5d",
        "controller-uid": "u-2",
        "batch.kubernetes.io/controller-uid": "u-2",
        "statefulset.kubernetes.io/pod-name": "web-0",
        "apps.kubernetes.io/pod-index": "0",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": "a",
    }
    assert read({**HUB, **unseen}).labels == HUB
    assert read(unseen).labels == {}
    assert read(None).labels == {}


def test_one_that_has_its_nodes_network_is_known_by_its_address() -> None:
    assert read(HUB, hostNetwork=True).labels == {}

"""Where the tests for any Kubernetes are to run, as the environment says (test process)."""

from __future__ import annotations

import os
from pathlib import Path

#: The image of drivers and runners, with what these tests import: see docs/kubernetes.md.
IMAGE = "DASK_FLAME_TEST_IMAGE"
#: Another one, with another minor version of Python, if there is one.
OTHER_IMAGE = "DASK_FLAME_TEST_OTHER_IMAGE"
#: A namespace that is there already; else one is made, and deleted at the end.
NAMESPACE = "DASK_FLAME_TEST_NAMESPACE"
#: The service account of drivers there, where no Role may be made.
ACCOUNT = "DASK_FLAME_TEST_SERVICE_ACCOUNT"
#: What a driver's pod is told: what clusters' names begin with, and what there is.
TOKEN = "DASK_FLAME_TEST_TOKEN"
ROOM = "DASK_FLAME_TEST_ROOM"
GPUS = "DASK_FLAME_TEST_GPUS"
#: Where a pod of a real cluster finds its service account's token, and its namespace.
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def inside() -> bool:
    """Whether this is pytest in a driver's pod."""
    return TOKEN in os.environ


def missing() -> str:
    """What keeps a real cluster from being tested; empty if nothing does."""
    if inside():
        return ""
    if not os.environ.get(IMAGE):
        return f"no real Kubernetes: set {IMAGE}, and KUBECONFIG, see tests/e2e/real_kubernetes"
    paths = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    if not any(Path(path).is_file() for path in paths.split(os.pathsep)):
        return "no real Kubernetes: KUBECONFIG names no file"
    return ""

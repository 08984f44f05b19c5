"""Start a cluster of a kind for a test program; imported by the programs of test_projects.py."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from dask.distributed import Client, LocalCluster

from dask_flame import FlameCluster
from dask_flame.backends.local import launch
from tests.support.paths import ROOT


@contextlib.contextmanager
def started(project: str, **options: Any) -> Iterator[Client]:
    """Start a cluster of the kind in the environment variable ``KIND``.

    Parameters
    ----------
    project : str
        The folder that runners of the kind ``hidden`` do not have on their ``sys.path``.
    """
    kind = os.environ["KIND"]
    if kind == "dask":
        stock = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
        with stock, Client(stock) as client:
            yield client
        return
    if kind == "hidden":
        options = {"env": {"PYTHONPATH": str(ROOT)}, **options}
        whole = launch.import_path
        launch.import_path = lambda: [p for p in whole() if not p.startswith(project)]
    else:
        options = {
            "backend": "kubernetes",
            "image": "ghcr.io/me/runner:1.0",
            **options,
        }
    with FlameCluster(max=2, dashboard_address=None, **options) as flame, Client(flame) as client:
        yield client


def run(project: str, calls: Callable[[Client], Any], **options: Any) -> None:
    """Run the calls of a program, and print what they return as JSON."""
    with started(project, **options) as client:
        print("RESULT", json.dumps(calls(client)), flush=True)

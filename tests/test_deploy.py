"""What is in deploy/ works with what it is for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import yaml
from distributed import Client

DEPLOY = Path(__file__).parents[1] / "deploy"


@pytest.mark.asyncio
async def test_the_jupyterlab_extension_can_start_a_cluster() -> None:
    # As dask_labextension's make_cluster does it.
    factory = yaml.safe_load((DEPLOY / "jupyterlab/labextension.yaml").read_text())
    factory = factory["labextension"]["factory"]
    make = getattr(import_module(factory["module"]), factory["class"])
    options = {**factory["kwargs"], "dashboard_address": None}
    cluster = await make(*factory["args"], **options, asynchronous=True)
    async with cluster, Client(cluster, asynchronous=True) as client:
        adaptive = cluster.adapt(minimum=0, maximum=2)
        assert (adaptive.minimum, adaptive.maximum) == (0, 2)
        assert await client.submit(int, 2) == 2

"""What is in deploy/ works with what it is for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from distributed import Client

from dask_flame.backends.kubernetes.rights import NEEDED, rules

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


def test_the_role_is_what_the_backend_asks_for() -> None:
    text = (DEPLOY / "kubernetes/role.yaml").read_text()
    role, binding, account = yaml.safe_load_all(text)
    for item in (role, binding, account):
        kubernetes_validate.validate(item, "1.36", strict=True)
    rights = [(kind, part, verb) for kind, part, verbs in NEEDED for verb in verbs]
    assert yaml.safe_load(rules(rights))["rules"] == role["rules"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["name"] == account["metadata"]["name"]

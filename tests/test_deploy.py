"""What is in deploy/ works with what it is for."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from distributed import Client

import dask_flame
from dask_flame.backends.kubernetes.rights import NEEDED, rules

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


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


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (DEPLOY / "docker" / name).read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", "").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_images_are_of_this_version_and_run_what_they_are_given(name: str) -> None:
    steps = instructions(name)
    args = dict(text.split("=", 1) for step, text in steps if step == "ARG")
    assert args["VERSION"] == dask_flame.__version__
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(args["EXTRAS"].split(",")) <= set(extras["optional-dependencies"])
    (install,) = [text for step, text in steps if step == "RUN" and "pip install" in text]
    assert "--constraint /context/constraints.txt" in install
    assert '"dask-flame[${EXTRAS}]==${VERSION}"' in install
    assert [text for step, text in steps if step == "USER"] == ["1000:1000"]
    # Pods have `args` and no command: what an entrypoint made of them would run.
    assert [text for step, text in steps if step == "ENTRYPOINT"] in ([], ["[]"])
    assert steps[-1] == ("CMD", '["python"]')
    ignored = (DEPLOY / "docker" / f"{name}.dockerignore").read_text().splitlines()
    assert ignored[1:] == ["*", "!constraints.txt", "!dist/dask_flame-*.whl"]


def test_what_one_image_pickles_the_other_can_read() -> None:
    (python,) = [t for step, t in instructions("Dockerfile") if t.startswith("PYTHON=")]
    minor = re.match(r"PYTHON=(3\.\d+)\.", python)
    assert minor
    assert f"python{minor[1]} -m venv" in (DEPLOY / "docker/Dockerfile.cuda").read_text()

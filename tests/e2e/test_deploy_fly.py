"""What is in deploy/fly works with what it is for, as far as that can be told without Fly."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from typing import Any

import dask.config
import pytest

import dask_flame
from dask_flame.backends.fly.guests import KINDS
from dask_flame.backends.fly.options import FlyOptions, check_app
from tests.fakes.fly import guests
from tests.support.paths import ROOT

FLY = ROOT / "deploy" / "fly"
README = (FLY / "README.md").read_text()
#: Sections of fly.toml that open a port to the Internet.
PUBLIC = {"http_service", "services"}


@pytest.fixture
def app() -> dict[str, Any]:
    return tomllib.loads((FLY / "fly.toml").read_text())


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def steps() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (FLY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", "").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


@pytest.mark.unit
def test_the_notebook_is_configured_for_fly_and_closed_to_the_internet(app: dict[str, Any]) -> None:
    assert not PUBLIC & app.keys()
    read = dask.config.collect_env(app["env"])
    configured = dask.config.merge(dask.config.get("flame", {}), read["flame"])
    with dask.config.set({"flame": configured}):
        given = FlyOptions.configured().given
        assert dask.config.get("flame.backend") == "fly"
        assert dask.config.get("flame.dashboard.token") == "auto"
    assert (given["app"], given["region"]) == ("my-runners", app["primary_region"])
    check_app("app", app["app"])
    # Runners have an app of their own, and no secret is in this file.
    assert app["app"] != given["app"]
    secrets = [name for name in app["env"] if re.search("TOKEN|KEY|PASSWORD", name)]
    assert secrets == ["DASK_FLAME__DASHBOARD__TOKEN"]
    link = read["distributed"]["dashboard"]["link"]
    assert link.format(port=8787) == "/proxy/8787/status"


@pytest.mark.unit
def test_its_machine_exists(app: dict[str, Any]) -> None:
    (machine,) = app["vm"]
    kind, cpus = re.fullmatch(r"(shared)-cpu-(\d+)x", machine["size"]).groups()  # type: ignore[union-attr]
    memory = int(re.fullmatch(r"(\d+)gb", machine["memory"])[1]) * 1024  # type: ignore[index]
    guest = {"cpu_kind": kind, "cpus": int(cpus), "memory_mb": memory}
    assert guests.guest_of({"guest": guest}) == guest
    assert int(cpus) in KINDS[kind].cpus
    (restart,) = app["restart"]
    assert restart["policy"] in ("always", "never", "on-failure")
    (mount,) = app["mounts"]
    assert f"fly volumes create {mount['source']} -a {app['app']}" in README
    assert ("WORKDIR", mount["destination"]) in steps()
    # A runner gets as long as this to end when the kernel does.
    assert (app["kill_signal"], app["kill_timeout"]) == ("SIGTERM", "30s")


@pytest.mark.unit
def test_the_image_is_of_this_version_and_runs_what_it_is_given(app: dict[str, Any]) -> None:
    made = steps()
    args = dict(text.split("=", 1) for step, text in made if step == "ARG")
    assert args["VERSION"] == dask_flame.__version__
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(args["EXTRAS"].split(",")) <= set(extras["optional-dependencies"])
    assert "fly" in args["EXTRAS"].split(",")
    (install,) = [text for step, text in made if step == "RUN"]
    assert '"dask-flame[${EXTRAS}]==${VERSION}"' in install
    assert "--constraint /context/constraints.txt" in install
    # The version specifiers of PACKAGES are no patterns of files.
    assert install.index("set -f") < install.index("${PACKAGES}")
    # A machine of a runner sets `init.cmd` alone: an entrypoint would come before it.
    assert not [step for step, _ in made if step == "ENTRYPOINT"]
    command = made[-1]
    assert command[0] == "CMD"
    words = ast.literal_eval(command[1])
    assert words[:2] == ["jupyter", "lab"]
    assert {"--ip=::", "--port=8888"} <= set(words)
    assert "token" not in command[1].lower()
    # Both are beside fly.toml.
    for name in app["build"].values():
        assert (FLY / name).is_file()
    ignored = (FLY / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[1:] == ["*", "!constraints.txt", "!dist/dask_flame-*.whl"]


@pytest.mark.unit
def test_the_same_python_as_in_the_other_images() -> None:
    other = (ROOT / "deploy/docker/Dockerfile").read_text()
    (python,) = [text for step, text in steps() if text.startswith("PYTHON=")]
    assert f"ARG {python}" in other


@pytest.mark.process
def test_the_steps_can_be_typed(app: dict[str, Any]) -> None:
    for text in blocks("sh"):
        read = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True)
        assert read.stderr == ""
    typed = "\n".join(blocks("sh"))
    for path in re.findall(r"deploy/[\w./-]+", typed):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://") or (FLY / link).exists(), link
    assert f"fly apps create {app['app']}" in typed
    assert f"fly apps create {app['env']['DASK_FLAME__FLY__APP']}" in typed
    assert {"FLY_API_TOKEN", "JUPYTER_TOKEN"} <= set(re.findall(r"([A-Z_]+)=", typed))
    # Every deployment is one machine that nobody reaches from the Internet.
    (deploy,) = [line for line in typed.replace("\\\n", " ").splitlines() if "fly deploy" in line]
    assert {"--ha=false", "--no-public-ips"} <= set(deploy.split())


@pytest.mark.unit
def test_the_options_that_it_shows_are_there() -> None:
    calls = [
        node
        for text in blocks("python")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "FlameCluster"
    ]
    assert calls
    known = {*FlyOptions.__dataclass_fields__, "backend", "max", "cpus", "memory"}
    assert {str(k.arg) for call in calls for k in call.keywords} <= known


@pytest.mark.unit
def test_it_says_what_is_not_verified() -> None:
    _, _, said = README.partition("## Not yet verified")
    assert len(re.findall(r"^- ", said, re.MULTILINE)) >= 8

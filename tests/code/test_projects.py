"""Calls find the modules of a project as the driver does, wherever they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.code.projects import PREPARED, PROJECTS, Project
from tests.fakes.kubernetes import FakeKubernetes
from tests.support.paths import ROOT, free_port
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

#: ``hidden``: local runners that do not have the project on their ``sys.path``.
KINDS = ("hidden", "kubernetes", "dask")


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a driver outside of a fake Kubernetes, whose pods lack its modules."""
    with FakeKubernetes(env={"PYTHONPATH": str(ROOT)}).in_thread() as fake:
        yield {
            "KUBECONFIG": str(fake.kubeconfig(tmp_path / "kubeconfig")),
            # All pods of the fake share this machine's ports.
            "DASK_FLAME__SCHEDULER__PORT": str(free_port()),
            "DASK_FLAME__SCHEDULER__DASHBOARD_PORT": str(free_port()),
        }
        wait_for(fake.at_rest, what=f"nothing is left: {fake.left()}")


def write(project: Project, folder: Path) -> None:
    for name, content in project.files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


def environment(project: Project, folder: Path, kind: str) -> dict[str, str]:
    path = [str(ROOT), *(str(folder / each) for each in project.path)]
    if project.pth:
        # As pip's editable installs: a folder of site-packages with a .pth file.
        site = folder.parent / "site-packages"
        site.mkdir()
        (site / "edited.pth").write_text("".join(f"{folder / each}\n" for each in project.pth))
        start = "import os, site; site.addsitedir(os.environ['SITE'])"
        (folder.parent / "start").mkdir()
        (folder.parent / "start" / "sitecustomize.py").write_text(start)
        path.insert(0, str(folder.parent / "start"))
    return {
        **os.environ,
        "KIND": kind,
        "PROJECT": str(folder),
        "PYTHONPATH": os.pathsep.join(path),
        "SITE": str(folder.parent / "site-packages"),
    }


def run(project: Project, folder: Path, env: dict[str, str]) -> Any:
    """Run the program of a project; return what it printed."""
    done = subprocess.run(
        [sys.executable, *project.program],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stdout + done.stderr
    return json.loads(lines[0].removeprefix("RESULT "))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PROJECTS)
def test_calls_find_the_modules_of_a_project(
    name: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    project, folder = PROJECTS[name], tmp_path / "project"
    write(project, folder)
    env = environment(project, folder, kind)
    if kind == "kubernetes":
        env |= request.getfixturevalue("kubernetes")
    assert run(project, folder, env) == project.result


@pytest.mark.parametrize("kind", ["hidden", "kubernetes"])
def test_local_modules_are_there_before_the_first_call(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "project"
    write(PREPARED, folder)
    env = environment(PREPARED, folder, kind)
    if kind == "kubernetes":
        env |= request.getfixturevalue("kubernetes")
    assert run(PREPARED, folder, env) == PREPARED.result

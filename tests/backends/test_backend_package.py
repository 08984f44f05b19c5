"""A backend of another package: the one in examples/, installed with its entry point."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dask_flame import FlameCluster, Pool, PoolError
from dask_flame.backends import find_backend
from dask_flame.core import backend_options
from dask_flame.testing import marked_processes
from dask_flame.testing.conformance import BackendConformance
from tests.support.pages import DOCS, check_pages
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


PACKAGE = ROOT / "examples" / "backend-subprocess"
PAGE = (DOCS / "backends.md").read_text()


def install(package: Path, folder: Path) -> None:
    """Put a package of one module into a folder, as pip does."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    for module in package.glob("*.py"):
        shutil.copy(module, folder)
    name, version = project["name"], project["version"]
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    install(PACKAGE, folder)
    return folder


@pytest.fixture
def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder, for imports and entry points of this process and of those that it starts."""
    for name in ("_classes", "_points"):
        monkeypatch.setattr(backend_options, name, dict(getattr(backend_options, name)))
    monkeypatch.setattr(backend_options, "_imported", set(backend_options._imported))
    monkeypatch.syspath_prepend(str(folder))
    beside = [path for path in (os.environ.get("PYTHONPATH"),) if path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *beside]))
    yield folder
    sys.modules.pop("dask_flame_subprocess", None)


class TestSubprocess(BackendConformance):
    @pytest.fixture
    def factory(self, installed: Path) -> Any:
        return find_backend("subprocess")

    @pytest.fixture
    def driver(self) -> str:
        return "dask_flame_subprocess:SubprocessBackend"


def test_a_cluster_with_it_maps_calls_and_scales_to_zero(installed: Path, flame: Any) -> None:
    cluster, client = flame(backend="subprocess", max=2, idle_timeout="0.2s")
    assert client.gather(client.map(abs, [-1, -2, -3])) == [1, 2, 3]
    assert type(cluster.backend).__module__ == "dask_flame_subprocess"
    wait_for(lambda: not cluster.runners, what="no runner is left")
    assert cluster.sync(cluster.backend.list) == set()
    assert client.submit(abs, -4).result() == 4


def test_it_takes_no_options_of_pods(installed: Path) -> None:
    says = "image is an option of Fly Machines and pods, and backend='subprocess' makes none"
    with pytest.raises(PoolError, match=says):
        FlameCluster(backend="subprocess", image="i")


_DRIVER = """
import time
from dask.distributed import Client
from dask_flame import FlameCluster

if __name__ == "__main__":
    client = Client(FlameCluster(backend="subprocess", max=2, dashboard_address=None))
    futures = client.map(time.sleep, [600, 601])
    while len(client.scheduler_info()["workers"]) < 2:
        time.sleep(0.05)
    print("ready", flush=True)
    time.sleep(600)
"""


def test_nothing_is_left_when_its_driver_is_killed(installed: Path, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(_DRIVER)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    token = f"killed-{os.getpid()}"
    environment = {**os.environ, "TMPDIR": str(temporary), "FLAME_TEST_DRIVER": token}
    driver = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True
    )
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        assert len(list(temporary.glob("dask-flame-child-*"))) == 2
        assert len(marked_processes(token, variable="FLAME_TEST_DRIVER")) >= 3
        driver.kill()
    wait_for(lambda: not marked_processes(token, variable="FLAME_TEST_DRIVER"), what="no process")
    wait_for(lambda: not list(temporary.glob("dask-flame-*")), what="no folder")


# The page


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_shows_the_package_as_it_is() -> None:
    assert (PACKAGE / "pyproject.toml").read_text() in blocks("toml")
    assert (PACKAGE / "dask_flame_subprocess.py").read_text() in blocks("python")


def test_the_page_prints_what_it_shows(installed: Path, tmp_path: Path) -> None:
    check_pages([DOCS / "backends.md"], tmp_path)


def test_the_options_of_a_class_that_is_not_installed(installed: Path) -> None:
    (code,) = (block for block in blocks("python") if "class NiceOptions" in block)
    names: dict[str, Any] = {}
    exec(next(b for b in blocks("python") if "class SubprocessBackend" in b), names)
    exec(code.partition("\ntry:")[0], names)
    assert Pool(nice=3).options == {"nice": 3}
    with pytest.raises(
        PoolError, match="nice is an option of child processes, and backend='local'"
    ):
        FlameCluster(nice=3)

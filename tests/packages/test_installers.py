"""pip and uv, which install from wheels in a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dask_flame.packages import installers
from dask_flame.packages.installers import Installer, InstallFailed, Pip, Uv, installer, last_words
from tests.support.wheels import wheel

pytestmark = pytest.mark.process


@pytest.fixture(params=["pip", "uv"])
def tool(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Installer:
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    kind = request.param.upper()
    monkeypatch.setenv(f"{kind}_NO_INDEX", "1")
    monkeypatch.setenv(f"{kind}_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    if kind == "PIP":
        return Pip()
    if (program := shutil.which("uv")) is None:
        pytest.skip("uv is not installed")
    return Uv([program])


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_only_what_is_missing_is_chosen(
    tool: Installer, tmp_path: Path, work: Path, lock: int
) -> None:
    wheel(tmp_path / "wheels", "flamea", "1.0")
    wheel(tmp_path / "wheels", "flamea", "2.0")
    wheel(tmp_path / "wheels", "flameb", "1.0", needs=["flamea<2", "tornado>1"])
    assert sorted(tool.resolve(["flameb>0.1"], work, lock)) == ["flamea==1.0", "flameb==1.0"]
    assert tool.resolve(["tornado>1"], work, lock) == []


def test_it_installs_these_packages_alone(
    tool: Installer, tmp_path: Path, work: Path, lock: int
) -> None:
    wheel(tmp_path / "wheels", "flamea", "1.0")
    wheel(tmp_path / "wheels", "flameb", "1.0", needs=["flamea"])
    target = tmp_path / "target"
    tool.install(["flameb==1.0"], target, work, lock)
    assert sorted(f.name for f in target.glob("flame*")) == ["flameb", "flameb-1.0.dist-info"]


def test_the_path_of_a_wheel(tool: Installer, tmp_path: Path, work: Path, lock: int) -> None:
    file = wheel(tmp_path / "else where", "flamea", "1.0")
    (tmp_path / "wheels").mkdir()
    (line,) = tool.resolve([str(file)], work, lock)
    assert line.startswith("flamea @ file://")
    tool.install([str(file)], tmp_path / "target", work, lock)
    assert (tmp_path / "target/flamea/__init__.py").exists()


def test_its_own_words(tool: Installer, tmp_path: Path, work: Path, lock: int) -> None:
    (tmp_path / "wheels").mkdir()
    with pytest.raises(InstallFailed, match=f"could not be installed by {tool.name}") as error:
        tool.resolve(["nosuch==1.0"], work, lock)
    assert "nosuch==1.0" in str(error.value)
    assert f"{tool.name.upper()}_…" in str(error.value)


def test_credentials_are_in_no_argument(
    tool: Installer, tmp_path: Path, work: Path, lock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    usual = subprocess.run

    def run(command: list[str], **options: object) -> object:
        commands.append(command)
        return usual(command, **options)

    monkeypatch.setattr(subprocess, "run", run)
    line = "flamea @ http://me:hunter2@127.0.0.1:1/flamea-1.0-py3-none-any.whl"
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(InstallFailed) as error:
        tool.resolve([line], work, lock)
    assert "hunter2" not in str(commands) + str(error.value)
    assert (work / "requirements.txt").stat().st_mode & 0o077 == 0


def test_a_pool_that_installs_elsewhere_by_default(
    tmp_path: Path, work: Path, lock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    wheel(tmp_path / "wheels", "flamea", "1.0")
    Pip().install(["flamea"], tmp_path / "target", work, lock)
    assert (tmp_path / "target/flamea").is_dir()
    assert not (tmp_path / "elsewhere").exists()


def test_which_one_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(installers, "find_spec", lambda name: "there" if name == "pip" else None)
    monkeypatch.setattr(installers, "_SHARED", ())
    assert installer({}).name == "pip"
    program = tmp_path / "bin/uv"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert installer({}).name == "uv"
    # It does not read pip's configuration.
    assert installer({"PIP_INDEX_URL": "https://host/simple"}).name == "pip"
    both = {"PIP_INDEX_URL": "https://host/simple", "UV_DEFAULT_INDEX": "https://host/simple"}
    assert installer(both).name == "uv"
    (tmp_path / ".config/pip").mkdir(parents=True)
    (tmp_path / ".config/pip/pip.conf").touch()
    assert installer({}).name == "pip"
    (tmp_path / ".config/uv").mkdir()
    (tmp_path / ".config/uv/uv.toml").touch()
    assert installer({}).name == "uv"


def test_neither_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(installers, "find_spec", lambda name: None)
    with pytest.raises(InstallFailed, match="neither uv nor pip"):
        installer({})


@pytest.mark.skipif(sys.platform != "linux", reason="the paths of Linux")
def test_the_last_words_are_short() -> None:
    said = last_words("\n".join([*map(str, range(100)), "", "ERROR: https://me:hunter2@host/ no"]))
    assert said.splitlines()[0] == "86"
    assert said.endswith("ERROR: https://…@host/ no")

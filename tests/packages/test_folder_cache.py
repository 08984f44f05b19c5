"""Folders of packages: made once, whole, and removed where a killed process has left one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dask_flame.packages.folder_cache import FolderCache, cache_folder
from dask_flame.packages.installers import InstallFailed
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

Start = Callable[..., subprocess.Popen[str]]

_MAKE = """
import sys, time
from pathlib import Path
from dask_flame.packages.folder_cache import FolderCache
from dask_flame.packages.installers import InstallFailed

root, made = Path(sys.argv[1]), Path(sys.argv[2])

def make(part, lock):
    with open(made, "a") as record:
        record.write("made\\n")
    (part / "one").touch()
    while not (root.parent / "go").exists():
        time.sleep(0.01)
    if sys.argv[3:]:
        raise InstallFailed("no such package")
    (part / "two").touch()

try:
    folder = FolderCache(root).get("key", make)
    print(sorted(f.name for f in folder.iterdir()))
except InstallFailed as error:
    print(error)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@pytest.fixture
def start(root: Path) -> Iterator[Start]:
    """Starts processes that make the folder, which ends when there is a file ``go``."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _MAKE, str(root), str(root.parent / "made"), *words],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        with process:
            process.kill()


def waits_for_the_lock(process: subprocess.Popen[str]) -> bool:
    return f"-> FLOCK  ADVISORY  WRITE {process.pid} " in Path("/proc/locks").read_text()


def outputs(*processes: subprocess.Popen[str]) -> list[str]:
    return [process.communicate(timeout=240)[0].strip() for process in processes]


def made(root: Path) -> list[str]:
    file = root.parent / "made"
    return file.read_text().splitlines() if file.exists() else []


def parts(root: Path) -> list[Path]:
    return list(root.glob("*.part"))


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/locks")


@linux
def test_one_makes_it_and_all_have_it(root: Path, start: Start) -> None:
    first = start()
    wait_for(lambda: made(root))
    others = [start() for _ in range(3)]
    wait_for(lambda: all(map(waits_for_the_lock, others)))
    (root.parent / "go").touch()
    assert outputs(first, *others) == ["['one', 'two']"] * 4
    assert made(root) == ["made"]
    assert parts(root) == []


@linux
def test_those_that_wait_have_the_error_too_and_later_ones_try_again(
    root: Path, start: Start
) -> None:
    first = start("fail")
    wait_for(lambda: made(root))
    others = [start("fail") for _ in range(3)]
    wait_for(lambda: all(map(waits_for_the_lock, others)))
    (root.parent / "go").touch()
    assert outputs(first, *others) == ["no such package"] * 4
    assert made(root) == ["made"]
    assert outputs(start("fail")) == ["no such package"]
    assert made(root) == ["made"] * 2
    assert outputs(start()) == ["['one', 'two']"]
    assert parts(root) == []


@linux
def test_what_a_killed_process_left_is_removed(root: Path, start: Start) -> None:
    killed = start()
    wait_for(lambda: [p for p in parts(root) if (p / "one").exists()])
    killed.kill()
    killed.wait()
    (half_made,) = parts(root)
    # By one that makes another folder as well, unless it is still being made.
    other = start()
    wait_for(lambda: len(made(root)) == 2)
    assert half_made not in parts(root)
    (being_made,) = parts(root)
    FolderCache(root).get("other", lambda part, lock: None)
    assert parts(root) == [being_made]
    other.kill()
    other.wait()
    FolderCache(root).get("third", lambda part, lock: None)
    assert parts(root) == []
    assert not (root / "key").exists()


def test_an_error_leaves_nothing(root: Path) -> None:
    def fails(part: Path, lock: int) -> None:
        (part / "one").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FolderCache(root).get("key", fails)
    assert [f.name for f in root.iterdir()] == ["key.lock"]


def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InstallFailed, match=r'write env=\{"XDG_CACHE_HOME"'):
        cache_folder(None)
    assert cache_folder(str(tmp_path / "scratch")) == tmp_path / "scratch/packages"


_PREPARE = """
import sys
from dask_flame.packages.install import prepare
prepare({"install": [{"line": "flamea", "name": "flamea", "version": ""}]})
"""


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of an index that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple"


@linux
def test_an_installer_ends_with_the_runner_that_is_killed(
    tmp_path: Path, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_"))},
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": silent,
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(tmp_path),
    }
    runner = subprocess.Popen([sys.executable, "-c", _PREPARE], env=env)
    process = psutil.Process(runner.pid)
    try:
        wait_for(lambda: any("pip" in p.cmdline() for p in process.children()), within=30)
        (pip,) = process.children()
    finally:
        os.kill(runner.pid, signal.SIGKILL)
        runner.wait()
    wait_for(lambda: not pip.is_running() or pip.status() == psutil.STATUS_ZOMBIE)
    root = tmp_path / "dask-flame/packages"
    assert parts(root)
    FolderCache(root).get("other", lambda part, lock: None)
    assert parts(root) == []

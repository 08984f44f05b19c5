"""files= on the driver's own machine: nothing is overwritten, and nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from dask_flame import FlameCluster
from dask_flame.backends.local import LocalBackend
from dask_flame.cli.commands import flame as command_line
from dask_flame.core.placed_links import remove_folder
from dask_flame.errors import PoolError
from dask_flame.files.driver.local import place_here
from dask_flame.files.driver.option import check_files
from dask_flame.testing import marked_processes
from tests.support.waiting import wait_for


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    user = tmp_path / "user"
    (user / "data/sub").mkdir(parents=True)
    (user / "data/a").write_text("a")
    (user / "data/run").write_text("#!/bin/sh")
    (user / "data/run").chmod(0o755)
    (user / "data/sub/link").symlink_to("../a")
    (user / "data/none").mkdir()
    (user / "config.toml").write_text("x = 1")
    monkeypatch.chdir(user)
    return user


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], str]:
    """Makes folders of clusters."""

    def make(name: str = "one") -> str:
        path = tmp_path / f"dask-flame-{name}"
        path.mkdir()
        return str(path)

    return make


def put(files: Any, folder: str) -> None:
    place_here(check_files(files), folder)


def entries(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.unit
def test_only_what_is_missing_is_linked(here: Path, folder: Any) -> None:
    before = entries(here)
    one = folder()
    put({"config.toml": "config.toml", "data": "data"}, one)
    assert entries(here) == before  # each is there already
    put({"data": "deep/in/a/copy", "config.toml": "data/"}, one)
    assert (here / "deep").is_symlink()
    copy = here / "deep/in/a/copy"
    assert (copy / "a").read_text() == "a"
    assert os.access(copy / "run", os.X_OK)
    assert os.readlink(copy / "sub/link") == "../a"
    assert (copy / "none").is_dir()
    assert (here / "data/config.toml").read_text() == "x = 1"
    remove_folder(one)
    assert entries(here) == before


@pytest.mark.unit
def test_nothing_is_overwritten(here: Path, folder: Any) -> None:
    (here / "other").mkdir()
    (here / "other/a").write_text("b")
    before = entries(here)
    one = folder()
    with pytest.raises(PoolError, match=r"files= cannot put '.*data/a' at '.*other/a'.* has other"):
        put({"config.toml": "new.toml", "data": "other"}, one)
    (here / "other/a").write_text("a")
    put({"data": "other"}, one)  # equal: the rest is linked
    assert (here / "other/run").is_symlink()
    (here / "file").touch()
    with pytest.raises(PoolError, match=r"at '.*file/data' on this machine: Not a directory"):
        put({"data": "file/data"}, one)
    with pytest.raises(PoolError, match="is no folder"):
        put({"data/none": "file"}, one)
    (here / "dangling").symlink_to("nothing")
    with pytest.raises(PoolError, match="dangling': that is no file"):
        put({"config.toml": "dangling"}, one)
    remove_folder(one)
    assert entries(here) == before | {"file", "dangling"}


@pytest.mark.unit
def test_a_place_that_cannot_be_written(folder: Any) -> None:
    with pytest.raises(PoolError, match=r"on this machine: .*; runners of this backend are"):
        put({"data": "/proc/data"}, folder())


@pytest.mark.unit
def test_two_clusters_with_the_same_files(here: Path, folder: Any) -> None:
    before = entries(here)
    one, two = folder("one"), folder("two")
    put({"data": "copy"}, one)
    put({"data": "copy"}, two)
    remove_folder(one)
    assert (here / "copy/a").read_text() == "a"
    remove_folder(two)
    assert entries(here) == before


@pytest.mark.unit
def test_two_clusters_with_other_files(here: Path, folder: Any) -> None:
    one, two = folder("one"), folder("two")
    put({"data": "copy"}, one)
    for files in ({"config.toml": "copy/"}, {"data/a": "copy/a"}, {"data/none": "copy"}):
        with pytest.raises(PoolError, match="another cluster has put other files"):
            put(files, two)
    (here / "data/a").write_text("changed")
    with pytest.raises(PoolError, match="has other content"):
        put({"data": "copy"}, two)
    assert (here / "copy/a").read_text() == "a"
    remove_folder(two)
    assert (here / "copy/a").read_text() == "a"
    remove_folder(one)


@pytest.mark.unit
def test_a_copy_within_what_is_copied(here: Path, folder: Any) -> None:
    one, two = folder("one"), folder("two")
    put({".": "data/project"}, one)
    put({".": "data/project"}, two)
    assert (here / "data/project/data/a").read_text() == "a"
    assert not (here / "data/project/data/project").exists()
    remove_folder(one)
    remove_folder(two)


@pytest.mark.unit
def test_a_link_that_a_dead_cluster_has_left(here: Path) -> None:
    (here / "copy").symlink_to("/tmp/dask-flame-gone/placed/copy")
    before = entries(here)
    one = here.parent / "dask-flame-one"
    one.mkdir()
    put({"data": "copy"}, str(one))
    assert (here / "copy/a").read_text() == "a"
    remove_folder(str(one))
    assert entries(here) == before - {"copy"}


def read(path: str) -> tuple[str, str]:
    return Path(path).read_text(), os.getcwd()


@pytest.mark.process
def test_calls_find_their_files(here: Path, flame: Any) -> None:
    before = entries(here)
    files = {"data/": "copy", here / "config.toml": str(here.parent / "etc/config.toml")}
    cluster, client = flame(max=2, files=files)
    assert client.submit(read, "copy/a").result(timeout=60) == ("a", str(here))
    there = str(here.parent / "etc/config.toml")
    assert client.submit(read, there).result(timeout=60)[0] == "x = 1"
    client.close()
    cluster.close()
    assert entries(here) == before
    assert not (here.parent / "etc").exists()


@pytest.mark.process
def test_a_conflict_is_raised_at_once(here: Path) -> None:
    with pytest.raises(PoolError, match="has other content"):
        FlameCluster(files={"config.toml": "data/a"}, dashboard_address=None)
    assert not list(Path(tempfile.gettempdir()).glob("dask-flame-*"))


class WithoutFolder(LocalBackend):
    """A backend of another package, whose runners share the driver's files."""

    name = "without-folder"

    @property
    def folder(self) -> str | None:
        return None


@pytest.mark.process
def test_a_backend_without_a_folder(here: Path, flame: Any) -> None:
    before = entries(here)
    cluster, client = flame(max=1, files={"data": "copy"}, backend=WithoutFolder)
    assert client.submit(read, "copy/a").result(timeout=60)[0] == "a"
    client.close()
    cluster.close()
    assert entries(here) == before


_TOKEN = "DASK_FLAME_TEST_DRIVER"
DRIVER = """
import time
from dask.distributed import Client
from dask_flame import FlameCluster

if __name__ == "__main__":
    cluster = FlameCluster(min=2, max=2, files={"data": "copy"}, dashboard_address=None)
    client = Client(cluster)
    client.wait_for_workers(2)
    print("up", flush=True)
    time.sleep(600)
"""


class Driver:
    """A driver in a process of its own, with a folder for temporary files."""

    def __init__(self, name: str, temporary: Path) -> None:
        temporary.mkdir()
        self.temporary, self.name = temporary, name
        env = {**os.environ, _TOKEN: name, "TMPDIR": str(temporary)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, env=env, text=True
        )

    def up(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"

    def all(self) -> list[psutil.Process]:
        return marked_processes(self.name, variable=_TOKEN)

    def gone(self) -> None:
        """Wait until no process of it is left; say which are."""
        try:
            wait_for(lambda: not self.all())
        except AssertionError:
            left = [(p.pid, p.ppid(), p.status(), p.cmdline()) for p in self.all()]
            raise AssertionError(f"left of the driver {self.process.pid}: {left}") from None

    def end(self) -> None:
        for process in self.all():
            process.kill()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[[], Driver]]:
    made: list[Driver] = []

    def start() -> Driver:
        number = len(made)
        made.append(Driver(f"{tmp_path.name}-{number}", tmp_path / f"tmp{number}"))
        return made[-1]

    yield start
    for driver in made:
        driver.end()


@pytest.mark.process
@pytest.mark.parametrize("which", ["driver", "driver and supervisor"])
def test_nothing_outlives_a_killed_driver(which: str, here: Path, drive: Any) -> None:
    before = entries(here)
    driver = drive()
    driver.up()
    assert (here / "copy/a").read_text() == "a"
    victims = [driver.process.pid]
    if which != "driver":
        # Then a runner that survives cleans up.
        victims += [p.pid for p in driver.all() if p.ppid() == driver.process.pid]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: entries(here) == before, what="the link is gone")
    wait_for(lambda: not list(driver.temporary.iterdir()), what="the folders are gone")
    driver.gone()


@pytest.mark.process
def test_sweep_removes_what_a_kill_of_all_has_left(
    here: Path, drive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = entries(here)
    driver = drive()
    driver.up()
    everything = driver.all()
    for process in everything:
        process.suspend()
    for process in everything:
        process.kill()
    driver.gone()
    assert (here / "copy/a").read_text() == "a"
    monkeypatch.setenv("TMPDIR", str(driver.temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(driver.temporary))

    def swept() -> bool:
        # A killed process holds the lock of its folder for a moment after it has vanished.
        done = CliRunner().invoke(command_line, ["sweep", "--yes"])
        assert done.exit_code == 0, done.output
        return entries(here) == before

    wait_for(swept, what="the link is gone")


@pytest.mark.process
def test_two_drivers_in_one_folder(here: Path, drive: Any) -> None:
    before = entries(here)
    first = drive()
    first.up()
    second = drive()
    second.up()
    second.process.kill()
    wait_for(lambda: not list(second.temporary.iterdir()))
    assert (here / "copy/a").read_text() == "a"
    third = drive()
    third.up()
    first.process.kill()
    wait_for(lambda: not list(first.temporary.iterdir()))
    assert (here / "copy/a").read_text() == "a"
    third.process.send_signal(signal.SIGINT)
    wait_for(lambda: entries(here) == before)
    third.gone()


@pytest.mark.process
def test_drivers_that_come_and_go(here: Path, flame: Any) -> None:
    before = entries(here)
    for _ in range(3):
        made = [flame(max=1, files={"data": "copy"}) for _ in range(2)]
        for cluster, client in made:
            client.close()
            cluster.close()
    assert entries(here) == before

"""What calls have written is fetched from their runner, whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from dask.distributed import Client, LocalCluster

import dask_flame
from dask_flame import FlameCluster, FlameError, RunnerLost, fetch
from dask_flame.files.driver import fetch as module
from dask_flame.files.tree import BLOCK
from dask_flame.testing.proxy import Proxy
from tests.files.driver.calls import (
    fail,
    fetch_inside,
    pid,
    write,
    write_in_background,
    write_later,
    write_nothing,
    write_tree,
    write_two,
)
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of runners; that of the driver is another one."""
    folder = tmp_path / "runner"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def mine(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Takes the driver to a folder of its own, once runners have started elsewhere."""

    def go() -> Path:
        folder = tmp_path / "driver"
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        return folder

    return go


def test_a_file(flame: Any, mine: Any) -> None:
    _, client = flame(max=1)
    content = os.urandom(8001) * 1100
    assert 2 * BLOCK < len(content) < 3 * BLOCK
    future = client.submit(write, "model.pt", content[:8001], 1100)
    future.result(timeout=60)
    here = mine()
    assert fetch("model.pt", future) == here / "model.pt"
    assert (here / "model.pt").read_bytes() == content
    (here / "model.pt").write_text("old")
    assert dask_flame.fetch(Path("model.pt"), future).read_bytes() == content  # replaced
    (here / "models").mkdir()
    assert fetch("model.pt", future, to="models") == here / "models/model.pt"
    assert fetch("model.pt", future, to=here / "models/other.pt") == here / "models/other.pt"
    with pytest.raises(FileNotFoundError):
        fetch("model.pt", future, to="nowhere/x")
    (here / "dir/model.pt").mkdir(parents=True)
    with pytest.raises(FileExistsError, match=r"is a folder, and .model.pt. is a file"):
        fetch("model.pt", future, to="dir")
    assert sorted(p.name for p in here.iterdir()) == ["dir", "model.pt", "models"]


def test_the_same_place(flame: Any, theirs: Path) -> None:
    _, client = flame(max=1)
    future = client.submit(write, "model.pt", b"weights")
    assert fetch("model.pt", future) == theirs / "model.pt"
    assert [p.name for p in theirs.iterdir()] == ["model.pt"]
    assert (theirs / "model.pt").read_bytes() == b"weights"


def test_a_folder(flame: Any, theirs: Path, mine: Any) -> None:
    _, client = flame(max=1)
    future = client.submit(write_tree)
    future.result(timeout=60)
    here = mine()
    for _ in range(2):
        assert fetch("out/", future) == here / "out"
        assert tree(here / "out") == tree(theirs / "out")
    # Files of the same name are replaced, and others are kept.
    (here / "out/run").write_text("old")
    (here / "out/mine").write_text("kept")
    fetch("out", future)
    assert tree(here / "out") == {**tree(theirs / "out"), "mine": (0o644, b"kept")}
    # A file where a folder is to be: nothing is moved.
    (here / "out/run").write_text("old")
    (here / "out/empty").rmdir()
    (here / "out/empty").touch()
    with pytest.raises(FileExistsError, match="empty is a file, and a folder was to be"):
        fetch("out", future)
    assert (here / "out/run").read_text() == "old"
    (here / "file").touch()
    with pytest.raises(FileExistsError, match="is a file, and 'out' is a folder"):
        fetch("out", future, to="file")
    assert fetch("out/empty", future, to="new").is_dir()
    assert sorted(p.name for p in here.iterdir()) == ["file", "new", "out"]


def tree(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = None
        else:
            found[name] = (path.stat().st_mode & 0o777, path.read_bytes())
    return found


# One call has written the file of another one, which may be long ago.
@pytest.mark.filterwarnings("ignore:.*may be the file of another call")
def test_relative_to_where_the_call_has_ended(flame: Any, theirs: Path, mine: Any) -> None:
    _, client = flame(max=1)
    first = client.submit(write, "a", b"first")
    moved = client.submit(write, "a", b"moved", folder=str(theirs / "run"), key="moved")
    first.result(timeout=60)
    moved.result(timeout=60)
    mine()
    assert fetch("a", first, to="1").read_bytes() == b"first"
    assert fetch("a", moved, to="2").read_bytes() == b"moved"
    assert fetch(theirs / "a", moved, to="3").read_bytes() == b"first"


def test_a_file_that_a_later_call_has_replaced(flame: Any, theirs: Path, mine: Any) -> None:
    _, client = flame(max=1)
    first = client.submit(write_later, "model.txt", "first", key="train-1")
    first.result(timeout=60)
    other = client.submit(write_later, "other.txt", "other", key="train-2")
    other.result(timeout=60)
    second = client.submit(write_later, "model.txt", "second", key="train-3")
    second.result(timeout=60)
    mine()
    with pytest.warns(UserWarning, match="after train-1 had ended") as warned:
        assert fetch("model.txt", first, to="1").read_text() == "second"
    said = str(warned[0].message)
    assert said.startswith(f"'{theirs}/model.txt' was last written ")
    assert (
        " s after train-1 had ended, while other calls ran, so that it may be the file of" in said
    )
    assert 'name the file after the call, such as f"model-{rate}.txt", or write into tempf' in said
    assert warned[0].filename == __file__
    with pytest.warns(UserWarning, match=r"model.txt' was last written .* after train-1 had ended"):
        fetch(".", first, to="folder")
    # The right ones, in any order and again.
    for _ in range(2):
        assert fetch("model.txt", second, to="2").read_text() == "second"
        assert fetch("other.txt", other, to="3").read_text() == "other"
    assert (theirs / "model.txt").stat().st_mtime_ns == Path("2").stat().st_mtime_ns


def test_a_copy_in_the_place_of_the_file_itself(flame: Any, theirs: Path) -> None:
    _, client = flame(max=2)
    second = client.submit(write_nothing, "begun", "go", key="train-2")
    wait_for((theirs / "begun").exists)
    first = client.submit(write_later, "model.txt", "first", key="train-1")
    first.result(timeout=60)
    for _ in range(2):
        assert fetch("model.txt", first) == theirs / "model.txt"
    (theirs / "go").touch()
    # The file was written while this call ran, too.
    with pytest.warns(UserWarning, match=r"not changed since it was fetched for train-1, so that"):
        fetch("model.txt", second, to="other")


def test_calls_that_write_at_one_time(flame: Any, theirs: Path, mine: Any) -> None:
    _, client = flame(max=3)
    futures = client.map(write_later, ["model.txt"] * 3, ["0.1", "0.2", "0.3"])
    client.gather(futures)
    mine()
    with pytest.warns(UserWarning, match="may be the file of another call") as warned:
        copies = [fetch("model.txt", future, to=f"{n}") for n, future in enumerate(futures)]
    assert len({copy.read_text() for copy in copies}) == 1
    assert len(warned) >= 2


def test_files_that_calls_have_not_written_themselves(flame: Any, theirs: Path, mine: Any) -> None:
    """Those that were there before, and those of programs that calls have left behind."""
    (theirs / "config.toml").write_text("x = 1")
    os.utime(theirs / "config.toml", (0, 0))
    _, client = flame(max=1)
    futures = [client.submit(pid, pure=False) for _ in range(2)]
    client.gather(futures)
    future = client.submit(write_in_background, "log")
    future.result(timeout=60)
    time.sleep(0.05)  # file times may be this coarse
    (theirs / "log.go").touch()
    wait_for(lambda: (theirs / "log").exists() and (theirs / "log").read_text() == "written")
    mine()
    for one in futures:
        assert fetch("config.toml", one).read_text() == "x = 1"
    assert fetch("log", future).read_text() == "written"


def test_what_is_not_there(flame: Any, theirs: Path, mine: Any) -> None:
    _, client = flame(max=2, min=2)
    future = client.submit(write, "a")
    name = future.result(timeout=60)
    # A copy of the result elsewhere changes nothing.
    client.replicate([future], n=2)
    here = mine()
    with pytest.raises(FileNotFoundError, match=rf"\(on {name}\): '{theirs}/b'"):
        fetch("b", future)
    with pytest.raises(NotADirectoryError):
        fetch("a/b", future)
    with pytest.raises(FlameError, match='no name of its own; write to="results"'):
        fetch("..", future)
    with pytest.raises(OSError, match="neither a file nor a folder"):
        fetch("/dev/null", future)
    assert list(here.iterdir()) == []


def test_calls_that_have_written_nothing(flame: Any, mine: Any) -> None:
    _, client = flame(max=1)
    with pytest.raises(KeyError, match="its own"):
        fetch("a", client.submit(fail))
    cancelled = client.submit(time.sleep, 60)
    cancelled.cancel()
    with pytest.raises(CancelledError):
        fetch("a", cancelled)
    with pytest.raises(FlameError, match="is no call that a runner has executed"):
        fetch("a", client.scatter(1))
    with pytest.raises(TypeError, match=r"future=1 is not a future; write fetch\("):
        fetch("a", 1)  # type: ignore[arg-type]


def test_a_runner_that_has_ended(flame: Any, mine: Any) -> None:
    cluster, client = flame(max=1, idle_timeout="0.1s")
    future = client.submit(write, "a", key="train-1")
    future.result(timeout=60)
    wait_for(lambda: not cluster.runners)
    here = mine()
    with pytest.raises(FlameError) as error:
        fetch("a", future)
    assert str(error.value) == (
        "'a' cannot be fetched: the runner of train-1, runner-1, has ended; its files went with "
        "it; fetch before idle_timeout (0 s), or return the bytes, or write to a volume"
    )
    assert list(here.iterdir()) == []


def slowly(monkeypatch: pytest.MonkeyPatch, each: Callable[[int], None]) -> None:
    """Call a function before each piece is written."""
    stock, count = module._Writer.write, iter(range(1000))

    def write(self: Any, *args: Any) -> None:
        each(next(count))
        stock(self, *args)

    monkeypatch.setattr(module._Writer, "write", write)


@pytest.mark.parametrize("single_use", [False, True])
def test_a_runner_is_kept_meanwhile(
    single_use: bool, flame: Any, mine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, client = flame(max=1, idle_timeout="0.1s", single_use=single_use)
    content = b"0123456789" * BLOCK
    slowly(monkeypatch, lambda _: time.sleep(0.3))  # longer than the runner may be idle
    future = client.submit(write, "a", content[:10], BLOCK)
    assert fetch("a", future, to="copy").read_bytes() == content
    wait_for(lambda: not cluster.runners, what="it ends soon after")


def test_a_hold_ends_without_its_driver(
    flame: Any, mine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, client = flame(max=1)
    monkeypatch.setattr("dask_flame.files.scheduler.fetches.KEPT", 3.0)
    future = client.submit(pid, key="a")
    future.result(timeout=60)
    client.sync(client.scheduler.flame_fetch_hold, fetch="1", key="a")
    assert cluster.scheduler.load("runner-1").busy == 1
    cluster.resize(idle_timeout="0.1s")
    wait_for(lambda: not cluster.runners)
    assert not cluster.scheduler.fetches._holds


def test_a_runner_that_dies_meanwhile(
    flame: Any, mine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = flame(max=1)
    victim = client.submit(pid).result(timeout=60)
    future = client.submit(write, "a", bytes(8), BLOCK)
    future.result(timeout=60)
    here = mine()
    monkeypatch.setattr(module, "_TRY_FOR", 10.0)
    slowly(monkeypatch, lambda number: os.kill(victim, signal.SIGKILL) if number == 2 else None)
    with pytest.raises((FlameError, RunnerLost), match=r"cannot be fetched: .* has ended"):
        fetch("a", future)
    assert list(here.iterdir()) == []


def shrink(path: Path, number: int) -> None:
    if number == 0:
        os.truncate(path, 10)


def test_a_file_that_becomes_shorter(
    flame: Any, theirs: Path, mine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = flame(max=1)
    future = client.submit(write, "a", bytes(8), BLOCK)
    future.result(timeout=60)
    here = mine()
    slowly(monkeypatch, lambda number: shrink(theirs / "a", number))
    with pytest.raises(FlameError, match="/a' has become shorter while it was fetched"):
        fetch("a", future, to="b")
    assert list(here.iterdir()) == []


def test_an_interrupt(flame: Any, mine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, client = flame(max=1)
    future = client.submit(write_two)
    future.result(timeout=60)
    here = mine()
    stock, count, ended = module._Writer.write, iter(range(10)), threading.Event()

    def write(self: Any, *args: Any) -> None:
        second = next(count) == 1
        if second:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1.0)  # the second file, in a folder that is to be made, is written late
        with contextlib.suppress(OSError):
            stock(self, *args)
        if second:
            ended.set()

    monkeypatch.setattr(module._Writer, "write", write)
    with pytest.raises(KeyboardInterrupt):
        fetch("out", future)
    assert ended.wait(60)
    wait_for(lambda: not list(here.iterdir()))
    cluster.resize(idle_timeout="0.1s")
    wait_for(lambda: not cluster.runners)
    assert not list(here.iterdir())


def test_a_connection_that_drops(flame: Any, mine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, _ = flame(max=1, disconnect_grace="30s")
    with Proxy(cluster.scheduler_address) as proxy, Client(proxy.address) as client:
        future = client.submit(write, "a", b"0123456789", BLOCK)
        future.result(timeout=60)
        here = mine()

        def drop(number: int) -> None:
            if number == 2:
                proxy.cut()
                proxy.restore()

        slowly(monkeypatch, drop)
        assert fetch("a", future).read_bytes() == b"0123456789" * BLOCK
        assert [path.name for path in here.iterdir()] == ["a"]


def test_what_a_killed_driver_has_left(flame: Any, mine: Any) -> None:
    _, client = flame(max=1)
    future = client.submit(write, "a")
    future.result(timeout=60)
    here = mine()
    dead, living = here / f"{module._PARTIAL}dead", here / f"{module._PARTIAL}living"
    dead.mkdir()
    (dead / "copy").touch()
    living.mkdir()
    descriptor = os.open(living, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        fetch("a", future)
    finally:
        os.close(descriptor)
    assert {p.name for p in here.iterdir()} == {"a", living.name}


def test_inside_a_call(flame: Any, tmp_path: Path, theirs: Path) -> None:
    _, client = flame(max=1, concurrency=1)
    assert client.submit(fetch_inside, str(tmp_path)).result(timeout=60) == b"inside"


def test_an_asynchronous_client(mine: Any) -> None:
    async def run() -> bytes:
        async with (
            FlameCluster(max=1, asynchronous=True, dashboard_address=None) as cluster,
            Client(cluster, asynchronous=True) as client,
        ):
            return bytes((await fetch("a", client.submit(write, "a"), to="copy")).read_bytes())

    assert asyncio.run(run()) == b"x"


def test_a_cluster_of_dask(theirs: Path) -> None:
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        pytest.raises(FlameError, match="needs a FlameCluster"),
    ):
        fetch("a", client.submit(pid))

"""Files for pods, and back, on the fake Kubernetes: the scheduler in a pod, and in the driver."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dask_flame import BootError, FlameError, fetch
from dask_flame.backends.kubernetes.backend import KubernetesBackend
from dask_flame.files.tree import BLOCK
from tests.backends.kubernetes import test_backend
from tests.driver.hosts import test_remote
from tests.files.calls import change, read
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

# Their fixtures, with what these depend on.
outside = test_remote.outside
kubernetes = test_backend.kubernetes
cluster = test_remote.cluster


@pytest.fixture(params=["pod", "driver"])
def seat(request: pytest.FixtureRequest) -> str:
    """Start a fake cluster whose drivers have their scheduler in this place."""
    request.getfixturevalue("outside" if request.param == "pod" else "kubernetes")()
    return str(request.param)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "driver"
    (folder / "data/empty").mkdir(parents=True)
    (folder / "data/run").write_text("#!/bin/sh\n")
    (folder / "data/run").chmod(0o755)
    (folder / "data/link").symlink_to("run")
    # Three blocks, which can not be compressed.
    (folder / "data/large").write_bytes(os.urandom(2 * BLOCK + 9))
    (folder / "config.toml").write_text("x = 1")
    monkeypatch.chdir(folder)
    return folder


def test_there_and_back(seat: str, here: Path, cluster: Any, tmp_path: Path) -> None:
    target = tmp_path / "pods/data"  # all pods of the fake share this machine's files
    _, client = cluster(files={"data/": target, "config.toml": "config.toml"}, max=2)
    seen = client.submit(read, str(target)).result(timeout=60)
    large = (here / "data/large").read_bytes()
    assert seen["config.toml"][1] == b"x = 1"
    assert seen["run"] == (0o755, b"#!/bin/sh\n")
    assert seen["link"] == "run"
    assert seen["large"][1] == large
    assert seen["empty"] is None
    assert not Path(seen["where"]).is_relative_to(here)
    # Another runner, which boots later.
    client.wait_for_workers(2)
    futures = client.map(change, [str(target)] * 2, seconds=1, pure=False)
    names = client.gather(futures)
    assert len(set(names)) == 2
    for future, name in zip(futures, names, strict=True):
        copy = fetch("out", future, to=f"copy-{name}")
        assert (copy / "name").read_text() == name
        assert (copy / "sub/large").read_bytes() == large * 2
    (target / "large").unlink()


def test_what_the_image_has_is_replaced(
    seat: str, here: Path, cluster: Any, tmp_path: Path
) -> None:
    target = tmp_path / "pods/data"
    target.mkdir(parents=True)
    (target / "run").write_text("old")
    (target / "large").write_bytes((here / "data/large").read_bytes())
    (target / "other").write_text("kept")
    before = (target / "large").stat().st_ino
    _, client = cluster(files={"data/": target, "config.toml": "config.toml"}, max=1)
    seen = client.submit(read, str(target)).result(timeout=60)
    assert seen["run"] == (0o755, b"#!/bin/sh\n")
    assert seen["other"][1] == b"kept"
    assert (target / "large").stat().st_ino == before  # equal: neither sent nor written
    assert {path.name for path in target.iterdir()} == {"run", "large", "other", "link", "empty"}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda path: path.write_text("x"), r"at '.*file/data/.*: Not a directory; name a path"),
        (lambda path: (path / "data/run").mkdir(parents=True), r"/run'.* that is no file, and is"),
    ],
)
def test_a_path_that_cannot_be_written(
    made: Callable[[Path], None], said: str, seat: str, here: Path, cluster: Any, tmp_path: Path
) -> None:
    made(tmp_path / "file")
    flame, client = cluster(files={"data/": tmp_path / "file/data"}, max=1)
    future = client.submit(os.getpid)
    with pytest.raises(BootError, match=said):
        future.result(timeout=60)
    assert flame.events.counts["failed"] >= 1
    # Another boot would fail for the same reason.
    assert len({name for event in flame.events for name in event.runners}) == 1


class OnSharedDisks(KubernetesBackend):
    """A backend whose runners may have files of the user."""

    disposable: ClassVar[bool] = False


def test_where_runners_share_a_disk(
    here: Path, kubernetes: Any, cluster: Any, tmp_path: Path
) -> None:
    kubernetes()
    target = tmp_path / "shared"
    options = {"files": {"data/": target}, "backend": OnSharedDisks}
    _, client = cluster(**options, min=2, max=2)
    client.wait_for_workers(2)  # both write the same files
    assert (target / "large").read_bytes() == (here / "data/large").read_bytes()
    assert {path.name for path in target.iterdir()} == {"run", "large", "link", "empty"}
    (target / "run").write_text("changed")
    _, client = cluster(**options, max=1)
    with pytest.raises(BootError, match=r"/run'.* has other content, .*, or remove it there"):
        client.submit(os.getpid).result(timeout=60)
    assert (target / "run").read_text() == "changed"


def test_a_pod_that_is_gone(seat: str, here: Path, cluster: Any) -> None:
    flame, client = cluster(max=1, idle_timeout="0.5s")
    future = client.submit(os.getpid)
    future.result(timeout=60)
    wait_for(lambda: not flame.runners)
    with pytest.raises(FlameError, match=r"has ended; its files went .*idle_timeout \(0 s\)"):
        fetch("x", future)

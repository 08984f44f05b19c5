"""A file is in doubt only if its call cannot have written it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from dask_flame.files.runner.written import doubt, stamped
from dask_flame.files.tree import scan

pytestmark = pytest.mark.unit


class Mount(NamedTuple):
    mountpoint: str
    fstype: str


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder/model.txt"
    path.parent.mkdir()
    path.write_text("weights")
    return path


def of(path: Path, began: float, ended: float) -> dict[str, Any]:
    """Return the doubts about a call that began and ended relative to the write, in seconds."""
    written = path.stat().st_mtime if path.is_file() else (path / "model.txt").stat().st_mtime
    items, states = stamped(scan(str(path)))
    return doubt(str(path), items, states, (written + began, written + ended))


@pytest.fixture(params=["ext4", "nfs4", "nfs under ext4"])
def slack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> float:
    """Seconds by which the clock of a file system may differ."""
    here = os.path.realpath(tmp_path)
    mounts = {
        "ext4": [Mount("/", "nfs"), Mount(here, "nfs"), Mount(here, "ext4")],
        "nfs4": [Mount("/", "ext4"), Mount(here, "nfs4"), Mount("/elsewhere/and/longer", "ext4")],
        "nfs under ext4": [Mount(here, "nfs"), Mount("/", "ext4"), Mount(here[:-1], "ext4")],
    }[request.param]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)
    return 0.0 if request.param == "ext4" else 60.0


@pytest.mark.parametrize("name", ["", "model.txt"])
def test_times(file: Path, slack: float, name: str) -> None:
    path = file.parent / name
    kinds = {"same"} if name else set()
    assert of(path, -10, 0).keys() == kinds
    assert of(path, -10, 5).keys() == kinds
    assert of(path, -10 - slack, -0.001 - slack).keys() == kinds | {"late"}
    assert of(path, -10 - slack, 0.001 - slack).keys() == kinds
    # The time of a file may be up to two seconds too early.
    assert of(path, slack + 1.9, 100).keys() == kinds
    early = of(path, slack + 2.1, 100)
    assert early.keys() == kinds | {"early"}
    assert early["early"][0] == os.fsencode(file)
    assert early["early"][2] == pytest.approx(slack + 2.1, abs=0.01)


def test_times_that_programs_have_set(file: Path) -> None:
    changed = file.stat().st_ctime
    for there in (0, changed + 10_000):  # tar and cp -p, touch -d tomorrow
        os.utime(file, (there, there))
        items, states = stamped(scan(str(file)))
        found = doubt(str(file), items, states, (changed - 1, changed + 600))
        assert found.keys() == {"same"}


def test_a_folder_without_files_or_a_call_that_is_not_known(file: Path) -> None:
    items, states = stamped(scan(str(file)))
    assert doubt(str(file), items, states, None) == {}
    file.unlink()
    items, states = stamped(scan(str(file.parent)))
    assert doubt(str(file.parent), items, states, (0, 1)) == {}

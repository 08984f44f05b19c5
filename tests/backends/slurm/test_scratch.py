"""The folder of a job that was killed is removed, and no other one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dask_flame.backends.slurm import scratch

pytestmark = pytest.mark.unit


def make(place: Path, name: str) -> Path:
    folder = place / f"{scratch.PREFIX}{name}"
    folder.mkdir(mode=0o700)
    (folder / "result").write_text("x")
    return folder


def test_a_folder_is_removed_once_nobody_uses_it(tmp_path: Path) -> None:
    used, mine = make(tmp_path, "used"), make(tmp_path, "mine")
    descriptors = [scratch.keep(str(folder)) for folder in (used, mine)]
    scratch.remove_unused(str(tmp_path))
    assert used.exists()
    for descriptor, folder in zip(descriptors, (used, mine), strict=True):
        assert descriptor is not None
        assert os.get_inheritable(descriptor)  # the runner is the same process
        os.close(descriptor)
        scratch.remove_unused(str(tmp_path))
        assert not folder.exists()


def test_what_may_be_in_use_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begins, elsewhere, other = make(tmp_path, "begins"), make(tmp_path, "elsewhere"), tmp_path / "x"
    other.mkdir()
    monkeypatch.setattr("socket.gethostname", lambda: "n1")
    for folder in (elsewhere, other):
        descriptor = scratch.keep(str(folder))
        assert descriptor is not None
        os.close(descriptor)
    monkeypatch.setattr("socket.gethostname", lambda: "n2")
    scratch.remove_unused(str(tmp_path))
    scratch.remove_unused(str(tmp_path / "none"))
    assert all(folder.exists() for folder in (begins, elsewhere, other))
    os.chmod(elsewhere, 0o777)
    monkeypatch.setattr("socket.gethostname", lambda: "n1")
    scratch.remove_unused(str(tmp_path))
    assert elsewhere.exists()  # others may write in it

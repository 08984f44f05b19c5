"""Installed packages, found by the names of their metadata."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from dask_flame._version import __version__
from dask_flame.packages.installed import (
    canonical,
    distributions,
    environment,
    installed,
    metadata_folders,
)
from tests.support.wheels import metadata

pytestmark = pytest.mark.unit


def test_it_finds_what_importlib_finds() -> None:
    found = installed()
    for distribution in importlib.metadata.distributions():
        name = canonical(distribution.metadata["Name"])
        if name != "dask-flame":
            assert found[name] == importlib.metadata.version(name)
    assert found["dask-flame"] == __version__


def test_the_first_folder_has_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment()
    first = metadata(metadata(tmp_path / "first", "flame_a", "2.0"), "tornado", "1.0")
    second = metadata(tmp_path / "second", "flame_a", "1.0")
    monkeypatch.setattr(sys, "path", [str(first), str(second), *sys.path])
    assert installed()["flame-a"] == "2.0"
    assert installed()["tornado"] == "1.0"
    assert environment() == [before[0], str(first), str(second), *before[1:]]


def test_a_folder_that_has_changed_is_read_again(tmp_path: Path) -> None:
    assert metadata_folders([str(tmp_path)]) == []
    metadata(tmp_path, "flame_a", "1.0")
    assert metadata_folders([str(tmp_path), str(tmp_path / "missing")]) == [str(tmp_path)]


def test_eggs(tmp_path: Path) -> None:
    (tmp_path / "checkout.egg-info").mkdir()
    (tmp_path / "checkout.egg-info/PKG-INFO").write_text("Metadata-Version: 1.0\nVersion: 2.0\n")
    assert distributions(str(tmp_path)) == {}
    tmp_path = tmp_path / "site-packages"
    tmp_path.mkdir()
    (tmp_path / "one-1.0-py3.11.egg-info").mkdir()
    (tmp_path / "two.egg-info").mkdir()
    (tmp_path / "two.egg-info/PKG-INFO").write_text("Metadata-Version: 1.0\nVersion: 2.0\n")
    (tmp_path / "three-3.0.egg-info").write_text("Version: 3.0\n")
    (tmp_path / "broken.egg-info").mkdir()
    found = {name: version for name, (version, _) in distributions(str(tmp_path)).items()}
    assert found == {"one": "1.0", "two": "2.0", "three": "3.0"}

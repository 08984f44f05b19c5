"""The packages that the driver has imported, and what they need."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import distributed
import numpy
import pytest
import yaml

from dask_flame._version import __version__
from dask_flame.packages.imported import ImportedPackages, core_versions
from tests.support.wheels import unpacked

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that this process imports from."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "here"), *sys.path])
    yield tmp_path / "here"
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_what_was_imported_and_no_more(folder: Path) -> None:
    unpacked(folder, "flamea", "1.0")
    unpacked(folder, "flameb", "1.0")
    imported = ImportedPackages()
    assert "flamea" not in imported.versions()
    importlib.import_module("flamea")
    # Looked for again, as there are more modules.
    assert imported.versions()["flamea"] == "1.0"
    assert "flameb" not in imported.versions()


def test_packages_whose_modules_have_other_names() -> None:
    versions = ImportedPackages().versions()
    assert versions["numpy"] == numpy.__version__
    assert versions["pyyaml"] == yaml.__version__
    assert versions["distributed"] == distributed.__version__
    assert versions["dask-flame"] == __version__


def test_modules_of_namespace_packages(folder: Path) -> None:
    for name in ("flame_one", "flame_two"):
        unpacked(folder, name, "1.0")
        (folder / "flamespace" / name).mkdir(parents=True)
        (folder / "flamespace" / name / "__init__.py").write_text("")
        record = folder / f"{name}-1.0.dist-info/RECORD"
        record.write_text(f"flamespace/{name}/__init__.py,,\n")
    importlib.import_module("flamespace.flame_one")
    versions = ImportedPackages().versions()
    assert versions["flame-one"] == "1.0"
    assert "flame-two" not in versions


def test_tools_of_the_driver_are_left_out_with_what_only_they_need(folder: Path) -> None:
    unpacked(folder, "debugpy", "1.0", needs=["flamea", "flameb"])
    unpacked(folder, "flamea", "1.0")
    unpacked(folder, "flameb", "1.0")
    unpacked(folder, "flamec", "1.0", needs=["flameb; python_version>'3'", "flamed; extra == 'x'"])
    unpacked(folder, "flamed", "1.0")
    for name in ("debugpy", "flamea", "flameb", "flamec"):
        sys.modules.pop(name, None)
        importlib.import_module(name)
    versions = ImportedPackages().versions()
    assert {"debugpy", "flamea", "pytest", "pluggy"}.isdisjoint(versions)
    assert {"flameb", "flamec"} <= set(versions)


def test_what_they_need_is_found_even_if_it_was_not_imported(folder: Path) -> None:
    unpacked(folder, "flamea", "1.0", needs=["flameb>=1"])
    unpacked(folder, "flameb", "1.5", needs=["missing"])
    importlib.import_module("flamea")
    imported = ImportedPackages()
    assert "flameb" not in imported.versions()
    assert {n: imported.needed()[n][0] for n in ("flamea", "flameb")} == {
        "flamea": "1.0",
        "flameb": "1.5",
    }


def test_the_packages_through_which_all_talk() -> None:
    assert set(core_versions()) == {
        "cloudpickle",
        "dask",
        "dask-flame",
        "distributed",
        "msgpack",
        "tornado",
    }

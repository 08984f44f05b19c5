"""Loaded modules and packages, and the tree of processes."""

from __future__ import annotations

import os
import sys
import time
import types
from pathlib import Path

import psutil
import pytest

import dask_flame
from dask_flame.attached.looking.modules import Modules, Versions, modules, versions
from dask_flame.attached.looking.processes import Processes, processes
from dask_flame.attached.looking.wire import packed, unpacked

pytestmark = pytest.mark.unit


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the application's, which is older than this process."""
    file = tmp_path / "basket_of_the_shop.py"
    file.write_text("__version__ = '1.2'\n")
    os.utime(file, (1_600_000_000, 1_600_000_000))
    monkeypatch.syspath_prepend(tmp_path)
    __import__(file.stem)
    yield file
    sys.modules.pop(file.stem)


def test_a_module_has_its_version_and_its_file(loaded: Path) -> None:
    found = modules("shop")
    one = found[loaded.stem]
    assert (one.version, one.file, one.changed) == ("1.2", str(loaded), False)
    assert "json" not in [module.name for module in found]
    with pytest.raises(KeyError, match="has not loaded nothing"):
        found["nothing"]


def test_a_module_whose_file_was_written_since_is_marked_and_comes_first(loaded: Path) -> None:
    loaded.write_text("__version__ = '1.3'\n")
    found = modules()
    assert found[loaded.stem].changed
    assert found[loaded.stem] in found.modules[: len(found.changed)]
    assert "changed on disk" in repr(found)
    loaded.unlink()
    assert modules()[loaded.stem].changed


def test_a_file_that_is_a_little_older_than_the_process_has_not_changed(loaded: Path) -> None:
    # The start of a process is known to the second only, if one asks psutil.
    began = time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - _started())
    os.utime(loaded, (began - 0.1, began - 0.1))
    assert not modules()[loaded.stem].changed
    os.utime(loaded, (began + 0.1, began + 0.1))
    assert modules()[loaded.stem].changed


def _started() -> float:
    words = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(words[19]) / os.sysconf("SC_CLK_TCK")


def test_a_lazy_module_is_not_made_to_import(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(types.ModuleType):
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"{name} was asked for")

    monkeypatch.setitem(sys.modules, "lazy_of_the_shop", Lazy("lazy_of_the_shop"))
    assert modules()["lazy_of_the_shop"].file == ""


def test_versions_are_those_of_python_and_of_loaded_packages() -> None:
    found = versions("shop")
    assert found.python.endswith(".".join(map(str, sys.version_info[:3])))
    assert found.packages["psutil"] == psutil.__version__
    assert found.packages["dask-flame"] == dask_flame.__version__
    # It is installed, and nobody imports it.
    assert "codespell_lib" not in sys.modules
    assert "codespell" not in found.packages
    assert unpacked(Versions, packed(found)) == found
    assert "psutil" in found._repr_html_()


def test_modules_travel() -> None:
    found = modules()
    assert unpacked(Modules, packed(found)) == found


def test_this_process_is_the_root_of_the_tree() -> None:
    found = processes("shop")
    first = next(iter(found))
    assert (first.pid, first.depth) == (os.getpid(), 0)
    assert first.memory > 0
    assert unpacked(Processes, packed(found)) == found
    assert str(os.getpid()) in found._repr_html_()

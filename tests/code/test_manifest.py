"""A manifest names the modules that Python would find in the same folders."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.code.manifest import Manifest, Root
from dask_flame.core.packs import digest

pytestmark = pytest.mark.unit

NAMES = st.sampled_from(["aa", "bb"])
FOLDERS = st.lists(NAMES, max_size=2).map(tuple)
FILES = st.builds(
    lambda folder, name: "/".join((*folder, name)),
    FOLDERS,
    st.sampled_from(["__init__.py", "aa.py", "bb.py", "aa.txt", "not-a-name.py"]),
)
TREES = st.lists(st.frozensets(FILES, min_size=1, max_size=5), min_size=1, max_size=3)


def found_by_python(name: str, path: list[str] | None) -> list[tuple[str, str]] | None:
    """Return the kind and the files of a module, as importlib finds it."""
    spec = PathFinder.find_spec(name, path)
    if spec is None:
        return None
    if spec.loader is None:
        return [("namespace", os.path.normpath(p)) for p in spec.submodule_search_locations or ()]
    kind = "module" if spec.submodule_search_locations is None else "package"
    return [(kind, os.path.normpath(str(spec.origin)))]


def all_by_python(roots: list[str]) -> dict[str, list[tuple[str, str]]]:
    found = {}
    todo = [(name, roots) for name in ("aa", "bb")]
    importlib.invalidate_caches()
    sys.path_importer_cache.clear()
    try:
        while todo:
            name, path = todo.pop()
            there = found_by_python(name, path)
            if there is None:
                continue
            found[name] = there
            if there[0][0] != "module":
                below = [p if kind == "namespace" else os.path.dirname(p) for kind, p in there]
                # A nested namespace package asks for the path of the package above.
                sys.modules[name] = ModuleType(name)
                sys.modules[name].__path__ = below  # type: ignore[attr-defined]
                todo += [(f"{name}.{child}", below) for child in ("aa", "bb")]
    finally:
        for name in found:
            sys.modules.pop(name, None)
    return found


@given(TREES)
def test_modules_are_those_that_python_finds(trees: list[frozenset[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        roots = []
        for number, files in enumerate(trees):
            root = Path(folder) / str(number)
            for name in files:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).touch()
            roots.append(Root(str(root), dict.fromkeys(sorted(files), digest(b""))))
        manifest = Manifest(tuple(roots))
        found = {
            name: [(module.kind, os.path.join(roots[n].path, p)) for n, p in module.places]
            for name, module in manifest.modules().items()
        }
        expected = all_by_python([root.path for root in roots])
        # A folder without any module is a namespace package for Python, and of no use.
        of_use = {}
        for name, there in expected.items():
            if there[0][0] == "namespace":
                there = [place for place in there if any(Path(place[1]).rglob("*.py"))]
            if there:
                of_use[name] = there
        assert found == of_use


@given(TREES)
def test_a_manifest_survives_its_journey(trees: list[frozenset[str]]) -> None:
    roots = [
        Root(f"/some/{n}", {name: digest(name.encode()) for name in files})
        for n, files in enumerate(trees)
    ]
    manifest = Manifest(tuple(roots))
    again = Manifest.unpacked(manifest.packed())
    assert again == manifest
    assert again.version == manifest.version == digest(manifest.packed()).hex()


def test_the_version_depends_on_each_path_and_content() -> None:
    one = Manifest((Root("/a", {"x.py": digest(b"1")}),))
    others = [
        Manifest((Root("/a", {"x.py": digest(b"2")}),)),
        Manifest((Root("/a", {"y.py": digest(b"1")}),)),
        Manifest((Root("/b", {"x.py": digest(b"1")}),)),
        Manifest((Root("/a", {"x.py": digest(b"1"), "y.txt": digest(b"")}),)),
    ]
    assert len({m.version for m in [one, *others]}) == 5
    # The order in which files were found does not matter.
    files = {"x.py": digest(b"1"), "y.py": digest(b"2")}
    backwards = dict(reversed(files.items()))
    assert Manifest((Root("/a", files),)).version == Manifest((Root("/a", backwards),)).version

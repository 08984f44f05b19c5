"""No picture of the documentation is older than the page that it shows."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.unit

FOLDER = ROOT / "docs/pictures"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = spec_from_file_location("picture_sources", FOLDER / "sources.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_picture_is_older_than_its_page(script: ModuleType) -> None:
    there = {path.name for path in FOLDER.iterdir() if path.suffix in {".png", ".gif"}}
    assert set(script.PICTURES) == there
    noted = json.loads(script.NOTED.read_text())
    why = [script.stale(name, noted) for name in script.PICTURES]
    assert [line for line in why if line] == []


@pytest.mark.parametrize("name", ["page.py", "page.js"])
def test_only_what_can_be_seen_counts(script: ModuleType, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    comment, text = ("#", '"""A page."""\n') if name == "page.py" else ("//", "")
    path.write_text(f"{text}color = 1\nshown(color)\n")
    before = script.digest(path)
    path.write_text(f"{comment} The color.\ncolor  =  1\n\n\nshown(color)\n")
    assert script.digest(path) == before
    path.write_text(f"{text}color = 2\nshown(color)\n")
    assert script.digest(path) != before


def test_a_changed_page_or_picture_is_named(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "pools-page.png"
    picture, now = script.digest(FOLDER / name), script.sources(name)
    assert len(now) > 5
    noted = {name: {"picture": picture, "sources": now}}
    assert script.stale(name, noted) == ""
    changed = {name: {"picture": picture, "sources": {**now, next(iter(now)): "before"}}}
    why = script.stale(name, changed)
    assert next(iter(now)) in why
    assert f"python docs/pictures/sources.py {name}" in why
    noted[name]["picture"] = "another"
    assert "is not noted" in script.stale(name, noted)

"""The check of the JavaScript (scripts/javascript) has every file, put together as the pages do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dask_flame.dashboard.flame import page
from tests.support.paths import ROOT

pytestmark = pytest.mark.unit

STATIC = ROOT / "dask_flame/dashboard/static"
CHECK = ROOT / "scripts/javascript"


def files(project: Path) -> list[Path]:
    listed = json.loads(project.read_text())["files"]
    return [(CHECK / file).resolve() for file in listed if file.endswith(".js")]


def test_every_script_is_checked() -> None:
    projects = list(CHECK.glob("tsconfig.*.json"))
    checked = {file for project in projects for file in files(project)}
    assert checked == set(STATIC.glob("*.js"))
    command = json.loads((CHECK / "package.json").read_text())["scripts"]["check"]
    assert {word for word in command.split() if word.endswith(".json")} == {
        project.name for project in projects
    }


def test_scripts_are_checked_as_the_page_puts_them_together() -> None:
    assert [file.stem for file in files(CHECK / "tsconfig.flame.json")] == list(page._SCRIPTS)

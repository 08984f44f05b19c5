"""The warning about known vulnerabilities never stands in the way of a change."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.paths import ROOT

SCRIPT = ROOT / "scripts/audit_dependencies.py"


@pytest.fixture
def script() -> ModuleType:
    spec = spec_from_file_location("audit_dependencies", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: In the form of pip-audit's `--format json`.
_FOUND: dict[str, Any] = {
    "dependencies": [
        {"name": "tornado", "version": "6.4.1", "vulns": [
            {"id": "GHSA-8w49", "aliases": ["CVE-2024-52804"], "fix_versions": ["6.4.2"]},
            {"id": "PYSEC-1", "aliases": [], "fix_versions": []},
        ]},
        {"name": "dask", "version": "2026.8.0", "vulns": []},
        {"name": "zict", "skip_reason": "Dependency not found on PyPI"},
    ],
    "fixes": [],
}  # fmt: skip


@pytest.mark.unit
def test_what_was_found_and_what_was_not_looked_up_is_said(script: ModuleType) -> None:
    assert script.summary(_FOUND) == [
        "tornado 6.4.1: GHSA-8w49, CVE-2024-52804; fixed in 6.4.2",
        "tornado 6.4.1: PYSEC-1; fixed in no version yet",
        "2 of 3 packages audited",
        "not audited, as the database did not have them or was not reached: zict",
    ]


@pytest.mark.process
def test_without_a_network_it_says_so_and_succeeds(tmp_path: Path) -> None:
    nowhere = {"UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, SCRIPT, ROOT / "constraints.txt"],
        env=nowhere,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("pip-audit: not audited: ")
    assert done.stderr == ""


@pytest.mark.unit
def test_ci_runs_it_after_everything_else() -> None:
    last = (ROOT / ".ci/run").read_text().splitlines()[-1]
    assert last == ".venv/bin/python scripts/audit_dependencies.py constraints.txt"

"""Tests that fail beside others run again, if they are few: the script of .ci/run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.process
SUITE = """
from pathlib import Path
import pytest

@pytest.mark.parametrize("n", range({flaky}))
def test_flaky(n):
    seen = Path(f"seen-{{n}}")
    there = seen.exists()
    seen.touch()
    assert there

def test_broken():
    assert not {broken}
"""


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("flaky", "broken", "status"), [(3, False, 0), (1, True, 1), (4, False, 1), (0, True, 1)]
)
def test_few_tests_run_again(flaky: int, broken: bool, status: int, tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE.format(flaky=flaky, broken=broken))
    assert run("-m", "pytest", folder=tmp_path).returncode == 1
    again = run(str(ROOT / "scripts" / "run_failed_again.py"), folder=tmp_path)
    assert again.returncode == status, again.stdout
    assert again.stdout.count("FLAKY test_suite.py::test_flaky[") == (0 if status else flaky)
    if flaky > 3:
        assert "4 tests have failed: none of them runs again" in again.stdout


def test_nothing_is_made_good_where_no_test_has_failed(tmp_path: Path) -> None:
    again = run(str(ROOT / "scripts" / "run_failed_again.py"), folder=tmp_path)
    assert again.returncode == 1

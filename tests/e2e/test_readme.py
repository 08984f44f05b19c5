"""The README's code runs as it stands, and its commands are those that CI runs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.process
def test_the_code_runs_from_top_to_bottom() -> None:
    code = "\n".join(blocks("python")).replace('idle_timeout="60s"', 'idle_timeout="1s"')
    # As a script that ends without closing what the last block has opened.
    done = subprocess.run(
        # Another cluster on this machine may have the dashboard's usual port.
        [sys.executable, "-W", "error::UserWarning", "-W", "ignore:Port:UserWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=None,
    )
    assert done.returncode == 0, done.stderr
    assert "/flame" in done.stdout
    assert re.search(r"^runner-\d+: accepted \d+\.\d+ s, ", done.stdout, re.MULTILINE)
    assert "2 calls: 2 done; best loss first" in done.stdout
    assert "runner-1 … runner-4 (4): demand of 4 slots calls for 4" in done.stdout


@pytest.mark.unit
def test_the_two_commands_install_by_the_constraints_and_run_what_they_say() -> None:
    example, tests = blocks("sh")
    assert example.strip().endswith("examples/bert_tuning.py")
    assert tests.strip().endswith("-m pytest -n 3")
    for command in (example, tests):
        assert "-c constraints.txt" in command
        assert command.count("\n") == 1


@pytest.mark.unit
def test_every_picture_is_there() -> None:
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path

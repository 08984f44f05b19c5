"""What is built is what is tracked, and the scripts and files of a release fit together."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import pytest
import yaml

from dask_flame import __version__
from tests.support.paths import ROOT

pytestmark = pytest.mark.unit


@pytest.fixture
def script() -> ModuleType:
    spec = spec_from_file_location("check_release", ROOT / "scripts/check_release.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_wheel_has_the_package_and_nothing_else(script: ModuleType) -> None:
    tracked = ["dask_flame/a.py", "dask_flame/static/a.js", "tests/test_a.py", "README.md"]
    tracked += ["deploy/jupyter/jupyter_server_config.d/dask-flame.json"]
    expected = script.expected_in_wheel(tracked, "1.0")
    assert {name for name in expected if ".dist-info" not in name} == {
        "dask_flame/a.py",
        "dask_flame/static/a.js",
        "dask_flame-1.0.data/data/etc/jupyter/jupyter_server_config.d/dask-flame.json",
    }
    script.difference("the wheel", expected, expected)
    with pytest.raises(script.ReleaseError, match=r"the wheel lacks dask_flame/static/a\.js"):
        script.difference("the wheel", expected - {"dask_flame/static/a.js"}, expected)
    with pytest.raises(script.ReleaseError, match=r"has junk\.py, which is not meant"):
        script.difference("the wheel", expected | {"junk.py"}, expected)


def test_the_quick_start_of_the_readme_is_what_runs(script: ModuleType) -> None:
    code = script.quick_start((ROOT / "README.md").read_text())
    compile(code, "README.md", "exec")
    assert "client.gather" in code
    with pytest.raises(script.ReleaseError, match="no Python block"):
        script.quick_start("```sh\nls\n```\n")


def test_one_command_makes_the_constraints(script: ModuleType) -> None:
    command = f"uv pip compile {' '.join(script.COMPILE)} -o constraints.txt"
    assert command in (ROOT / "constraints.txt").read_text()
    assert command in (ROOT / "CONTRIBUTING.md").read_text().replace("\\\n  ", "")
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert "torch==2.13.0" in pinned


def test_a_release_is_described_by_its_files() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (__version__, "BSD-3-Clause")
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    runs = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in runs
    for path in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")):
        assert yaml.safe_load(path.read_text())

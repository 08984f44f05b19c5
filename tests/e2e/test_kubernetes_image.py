"""The image that docs/kubernetes.md makes for tests on a real cluster has what these import.

The fake Kubernetes runs its pods with this machine's Python, which has more.
"""

from __future__ import annotations

import ast
import importlib.metadata
import io
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.e2e.real_kubernetes import setting
from tests.e2e.real_kubernetes.world import _packed
from tests.support.paths import ROOT

pytestmark = pytest.mark.process

#: What is imported where there is a fake, and so not in a pod; the last by the fake Fly.
_HERE_ALONE = ("browser_help", "other_python", "jsonschema")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def asked_for() -> list[Requirement]:
    """What the documented command, and the Dockerfile, have pip install."""
    text = (ROOT / "docs/kubernetes.md").read_text()
    (command,) = re.findall(r"^docker build (?:.*\\\n)*.*dask-flame-test.*$", text, re.MULTILINE)
    file = (ROOT / re.search(r"-f (\S+)", command)[1]).read_text()  # type: ignore[index]
    assert '"dask-flame[${EXTRAS}]==${VERSION}" ${PACKAGES}' in file
    arguments = dict(re.findall(r"^ARG (\w+)=\"?([^\"\n]*)\"?$", file, re.MULTILINE))
    arguments |= {k: v or w for k, v, w in re.findall(r'arg (\w+)=(?:"(.+?)"|(\S+))', command)}
    names = [*PROJECT["dependencies"], *arguments["PACKAGES"].split()]
    for extra in arguments["EXTRAS"].split(","):
        names += PROJECT["optional-dependencies"][extra]
    return [Requirement(name) for name in names]


def installed() -> set[str]:
    """The distributions that come of it, with all that they need."""
    found: set[str] = set()
    waiting = asked_for()
    known: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        found.add(name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in known:
                known.add((name, extra))
                needs = map(Requirement, importlib.metadata.requires(name) or [])
                waiting += [
                    r for r in needs if r.marker is None or r.marker.evaluate({"extra": extra})
                ]
    return found


def image(folder: Path) -> Path:
    """A folder with nothing but these distributions, and this dask-flame."""
    folder.mkdir()
    for name in installed():
        dist = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in dist.files or ()} - {"..", "__pycache__"}:
            source = Path(str(dist.locate_file(top)))
            if source.exists() and not (folder / top).exists():
                (folder / top).symlink_to(source)
    (folder / "dask_flame").symlink_to(ROOT / "dask_flame")
    return folder


@pytest.fixture(scope="module")
def tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a driver's pod, with the tests as they come there."""
    folder = tmp_path_factory.mktemp("work")
    with tarfile.open(fileobj=io.BytesIO(_packed([ROOT / "benchmarks/kubernetes_driver.py"]))) as t:
        t.extractall(folder, filter="data")
    return folder


def imported(file: Path) -> Iterator[tuple[str, str]]:
    """Modules that a file imports anywhere, but for type checkers only; and where that is."""
    tree = ast.parse(file.read_text())
    checked = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in checked:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, file.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, file.name


def test_all_that_tests_import_is_in_the_image(tests: Path) -> None:
    folders = {path.name for path in tests.rglob("*") if path.is_dir()}
    own = {path.stem for path in tests.rglob("*.py")} | folders | {"dask_flame", *_HERE_ALONE}
    there, of = installed(), importlib.metadata.packages_distributions()
    assert "hypothesis" in there
    missing = {
        (module, where)
        for file in tests.rglob("*.py")
        for module, where in imported(file)
        if (top := module.partition(".")[0]) not in own | sys.stdlib_module_names
        and not there & {canonicalize_name(name) for name in of.get(top, [])}
    }
    assert missing == set()


def test_pytest_starts_in_the_image(tests: Path, tmp_path: Path) -> None:
    site = image(tmp_path / "site")
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": f"{tests}:{site}",
        **dict.fromkeys((setting.TOKEN, setting.ROOM, setting.GPUS), "1"),
    }
    # As in `away`, and without this machine's own packages.
    words = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.e2e.real_kubernetes.inside",
        "-p",
        "no:cacheprovider",
    ]
    words += ["--rootdir=.", "--collect-only", "-m", "kubernetes", "tests/e2e/real_kubernetes"]
    done = subprocess.run(
        [sys.executable, "-S", *words], cwd=tests, env=env, capture_output=True, text=True
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert said.count("::test_") > 30, said

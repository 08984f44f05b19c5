"""Build the wheel and the sdist, check what they contain, and run the quick start from the wheel.

``python scripts/check_release.py`` needs uv, git and a package index, and takes about a minute.
With ``--short``, as in ``.ci/run``, it leaves out twine, check-wheel-contents and the check of
constraints.txt. With ``--dist FOLDER``, it leaves the two files there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "dask_flame"
#: Files of the wheel outside the package: Jupyter servers read the former.
_DATA = {"deploy/jupyter/jupyter_server_config.d": "etc/jupyter/jupyter_server_config.d"}
_DIST_INFO = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
#: What makes constraints.txt, from CONTRIBUTING.md.
COMPILE = ("--config-file", "scripts/constraints.toml", "pyproject.toml", "scripts/constraints.in")


class ReleaseError(Exception):
    """The files are not ready to be released."""


def expected_in_wheel(tracked: Iterable[str], version: str) -> set[str]:
    """Return the names of all files that a wheel has, given those that git tracks."""
    own = f"{PACKAGE}-{version}"
    names = {f"{own}.dist-info/{name}" for name in _DIST_INFO}
    for name in tracked:
        if name.startswith(f"{PACKAGE}/"):
            names.add(name)
        for folder, place in _DATA.items():
            if name.startswith(f"{folder}/"):
                names.add(f"{own}.data/data/{place}/{name.removeprefix(folder + '/')}")
    return names


def difference(what: str, there: set[str], expected: set[str]) -> None:
    """Raise if two sets of files differ.

    Raises
    ------
    ReleaseError
    """
    lines = [f"{what} lacks {name}" for name in sorted(expected - there)]
    lines += [f"{what} has {name}, which is not meant to be there" for name in there - expected]
    if lines:
        raise ReleaseError("\n".join(lines))


def quick_start(readme: str) -> str:
    """Return the first Python block of the README, made to close what it opens."""
    block = re.search(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    if block is None:
        raise ReleaseError("README.md has no Python block")
    return f"{block[1]}\nclient.close()\ncluster.close()\n"


def check_contents(wheel: Path, sdist: Path, version: str) -> None:
    """Compare the names of the files with those that git tracks."""
    tracked = run(["git", "ls-files"]).splitlines()
    with zipfile.ZipFile(wheel) as archive:
        difference(wheel.name, set(archive.namelist()), expected_in_wheel(tracked, version))
    with tarfile.open(sdist) as archive:
        there = {name.partition("/")[2] for name in archive.getnames()}
    difference(sdist.name, there, {*tracked, "PKG-INFO"})


def check_alone(wheel: Path, folder: Path) -> None:
    """Install the wheel without extras in an environment of its own, and run the quick start."""
    python = new_environment(folder / "alone", [str(wheel)])
    uv(["pip", "check", "--python", str(python)])
    answer = run([str(python), "-c", quick_start((ROOT / "README.md").read_text())], folder)
    if "[0, 1, 4, 9, 16, 25, 36, 49]" not in answer:
        raise ReleaseError(f"the quick start printed {answer!r}")
    help_text = run([str(python.with_name("dask")), "flame", "--help"], folder)
    if "sweep" not in help_text:
        raise ReleaseError(f"`dask flame --help` printed {help_text!r}")


def check_metadata(files: Sequence[Path], folder: Path) -> None:
    """Run twine and check-wheel-contents."""
    python = new_environment(folder / "tools", ["twine", "check-wheel-contents"])
    run([str(python), "-m", "twine", "check", "--strict", *map(str, files)])
    wheels = [str(path) for path in files if path.suffix == ".whl"]
    run([str(python.with_name("check-wheel-contents")), *wheels])


def check_constraints(folder: Path) -> None:
    """Compare constraints.txt with what its command makes of it."""
    made = folder / "constraints.txt"
    shutil.copy(ROOT / "constraints.txt", made)
    uv(["pip", "compile", "--quiet", *COMPILE, "-o", str(made)])
    if made.read_text() != (ROOT / "constraints.txt").read_text():
        raise ReleaseError(
            "constraints.txt does not fit pyproject.toml; type: "
            f"uv pip compile {' '.join(COMPILE)} -o constraints.txt"
        )


def new_environment(folder: Path, packages: Sequence[str]) -> Path:
    """Return the interpreter of a new environment with these packages."""
    python = folder / "bin" / "python"
    uv(["venv", "--quiet", "--python", sys.executable, str(folder)])
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    uv(["pip", "install", "--quiet", "--python", str(python), *constraints, *packages])
    return python


def uv(arguments: Sequence[str]) -> None:
    """Run uv."""
    run([sys.executable, "-m", "uv", *arguments])


def run(command: Sequence[str], folder: Path = ROOT) -> str:
    """Run a command in a folder, and return what it printed.

    Raises
    ------
    ReleaseError
        It failed; with what it printed.
    """
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        # The installed wheel is to be tested, and not the sources.
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    if done.returncode:
        raise ReleaseError(f"{' '.join(command[:4])} … failed:\n{done.stdout}")
    return done.stdout


def check(dist: Path, work: Path, *, short: bool) -> None:
    """Build into a folder, and check what was built."""
    uv(["build", "--quiet", "--out-dir", str(dist), str(ROOT)])
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    version = wheel.name.split("-")[1]
    check_contents(wheel, sdist, version)
    check_alone(wheel, work)
    if not short:
        check_metadata([wheel, sdist], work)
        check_constraints(work)
    print(f"{wheel.name} and {sdist.name} can be released")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--dist", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flame-release-") as name:
        work = Path(name)
        dist = options.dist or work / "dist"
        dist.mkdir(parents=True, exist_ok=True)
        if any(dist.iterdir()):
            sys.exit(f"{dist} is not empty; type: rm -r {dist}")
        try:
            check(dist, work, short=options.short)
        except ReleaseError as error:
            sys.exit(f"not ready to be released: {error}")


if __name__ == "__main__":
    main()
